"""Runs of arms on tasks: one run, many of them on worker processes, their store."""
