"""A recipe as live modules."""
