"""Checks of an installation, each with a remedy. They change nothing, and show no ref, secret or variable's value.

`runner` runs all checks. Every other module checks one subject, and receives values and connections, not settings.
"""
