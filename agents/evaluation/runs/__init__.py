"""Runs of arms on tasks: which to make, how to make them, and where to keep them."""
