"""Continual learners, and the streams that they learn from."""
