"""Held-out tasks: the benchmark, the selection tasks, and their data and networks."""
