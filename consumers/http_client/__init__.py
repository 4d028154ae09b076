"""Http client."""
