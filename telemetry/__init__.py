"""Logs, metrics, traces and the operations port of a process, without secrets."""
