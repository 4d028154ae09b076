"""The console: server-rendered pages for people, beside the HTTP API (contract, section 8)."""
