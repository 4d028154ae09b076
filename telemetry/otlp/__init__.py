"""Otlp."""
