"""Parts of the command that samples: its options, the inputs of its images, its files, its help on a model."""
