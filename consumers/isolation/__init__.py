"""Isolation of messages that end the processes that handle them."""
