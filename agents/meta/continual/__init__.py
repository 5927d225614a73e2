"""Continual learners, and the streams of tasks that they learn from."""
