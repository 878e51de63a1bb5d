"""Examples and micro-batches of a run, in their order."""
