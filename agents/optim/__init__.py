"""The exported optimizer: a learned policy that drives a torch optimizer."""
