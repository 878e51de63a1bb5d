"""Speed and memory of a model's components on a machine."""
