"""Agents that learn on the environments, and what learning leaves behind."""

from .optim.optimizer import LearnedOptimizer
from .optim.scheduler import LearnedLR
from .policies import SHIPPED
from .policy.files import load_policy
from .policy.module import Policy
from .rl.export import export_policy

__all__ = [
    "SHIPPED",
    "LearnedLR",
    "LearnedOptimizer",
    "Policy",
    "export_policy",
    "load_policy",
]
