"""Reinforcement learning of policies on the environments, and their export."""
