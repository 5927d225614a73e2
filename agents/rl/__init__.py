"""Reinforcement learning of policies on the environments, and export of the policies."""
