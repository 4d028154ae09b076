"""Where secrets come from: refs, keys that can only sign, and the providers that resolve one into the other."""
