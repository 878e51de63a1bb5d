"""A look into data before a run."""
