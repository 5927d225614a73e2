"""Agents that learn on the environments, and what learning leaves behind."""

from .optimizer import LearnedOptimizer
from .policy import Policy, export_policy, load_policy

__all__ = ["LearnedOptimizer", "Policy", "export_policy", "load_policy"]
