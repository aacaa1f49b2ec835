"""What backends share that speak OpenTelemetry: its form of a span, and its exporter, whose answers they look at."""
