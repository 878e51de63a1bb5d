"""The contracts of parts, held in a run."""
