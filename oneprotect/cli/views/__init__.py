"""Terminal and JSON output of attempts, retained deliveries, quarantined messages and replays."""
