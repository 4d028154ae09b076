"""Host names resolved to addresses, on the event loop and without threads."""
