"""Pictures drawn by a run."""
