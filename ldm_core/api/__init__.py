"""Training from Python: `train`, the runs that it leaves, recipes as values, examples handed over."""
