"""Training on DeepSpeed: the engine, the tasks (first stage, diffusion), checkpoints, and the losses they
minimise."""
