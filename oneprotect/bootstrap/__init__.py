"""Composition root: the only package that turns settings into parts, and that selects a secret provider."""
