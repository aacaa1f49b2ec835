"""What backends share that speak OpenTelemetry: its form of a span, and its protocol."""
