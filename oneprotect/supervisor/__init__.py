"""Several consumer processes on one machine, with combined metrics."""
