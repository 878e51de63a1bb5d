"""The embedded ``shapes`` data."""
