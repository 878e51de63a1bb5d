"""Facts of examples, counted."""
