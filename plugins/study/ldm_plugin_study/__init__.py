"""Studies of models: their speed on a machine."""
