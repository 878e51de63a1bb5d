"""Plain values and frozen attrs classes: reading, overrides, strict structure."""
