"""`oneprotect dev`: a complete installation on one machine."""
