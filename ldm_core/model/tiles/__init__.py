"""Large pictures and a first stage."""
