"""Settings of sampling for a model, found by successive halving and kept in its weights as presets."""
