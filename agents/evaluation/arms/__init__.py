"""Arms: the optimizers that are compared, how they are tuned, and the controls."""
