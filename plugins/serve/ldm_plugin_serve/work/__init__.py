"""Jobs, their order, and the sampling thread."""
