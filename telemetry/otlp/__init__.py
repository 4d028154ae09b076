"""OTLP: settings, trace context, spans and export."""
