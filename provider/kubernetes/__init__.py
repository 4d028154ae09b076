"""Kubernetes provider: reads Secrets from the API server, one GET of one named Secret at a time."""
