"""Families of few-shot tasks, and the data that they sample from."""
