"""Settings, options, input, output and errors that all commands share."""
