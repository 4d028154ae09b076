"""Metrics: catalogue, registry, Prometheus text and reports to a supervisor."""
