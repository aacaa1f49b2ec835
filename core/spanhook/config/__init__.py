"""The configuration: what can be set, where it is found, and what is said of mistakes."""
