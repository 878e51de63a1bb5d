"""Large maps: made in pieces that are the whole, or in windows that are blended."""
