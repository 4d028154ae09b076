"""The HTTP API: producers ask for deliveries, admins configure, operators look and replay (contract, section 8)."""
