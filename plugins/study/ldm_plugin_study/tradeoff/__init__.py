"""The study of downsampling factors: first stages compared by equal denoisers of equal training."""
