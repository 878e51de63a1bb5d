"""The suite of metrics."""
