"""Agents that learn on the environments, and what learning leaves behind."""

from .export import export_policy
from .optimizer import LearnedOptimizer
from .policies import SHIPPED
from .policy import Policy
from .policy_file import load_policy
from .scheduler import LearnedLR

__all__ = [
    "SHIPPED",
    "LearnedLR",
    "LearnedOptimizer",
    "Policy",
    "export_policy",
    "load_policy",
]
