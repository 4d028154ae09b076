"""Administration of the NATS server: topology, permissions and generated files."""
