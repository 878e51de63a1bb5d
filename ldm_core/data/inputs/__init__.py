"""A model's inputs from people: their forms in words, masks, and their size."""
