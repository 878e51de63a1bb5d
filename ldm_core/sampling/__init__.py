"""A trained model as one object."""
