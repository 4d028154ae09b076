"""Secret providers: secret references, keys in memory, Kubernetes and local providers, cache."""
