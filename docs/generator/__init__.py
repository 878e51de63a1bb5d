"""The pages of the site that are made of the code itself, before Sphinx reads the others."""
