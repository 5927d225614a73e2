"""Held-out tasks: the benchmark, the selection tasks, their data and networks."""
