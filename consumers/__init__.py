"""Receive, sign, send, settle: what happens to events."""
