"""Arms: the optimizers under test, how they are tuned, and the controls of a policy."""
