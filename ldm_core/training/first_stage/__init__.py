"""Training of a first stage."""
