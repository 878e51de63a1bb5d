"""Parts that give optional answers: sizes, states of objectives, precisions."""
