"""A run's folder: its lock, its files, its metrics."""
