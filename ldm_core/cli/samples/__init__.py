"""Parts of ``ldm-run sample``: its options, its images' inputs, its files, its help on a model."""
