"""The pieces of a pipeline: the plan of a sampling, a loop of one's own, its first stage alone."""
