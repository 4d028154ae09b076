"""Settings: environment variables, their parsers, and the typed values."""
