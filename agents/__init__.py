"""Learned optimizers (``LearnedOptimizer``, ``LearnedLR``), and training, export and
evaluation of their policies.
"""

from .optim.optimizer import LearnedOptimizer
from .optim.scheduler import LearnedLR
from .policies import SHIPPED
from .policy.files import load_policy
from .policy.module import Policy
from .policy.normalisation import Normalisation
from .rl.export import check_export, export_policy
from .rl.export_network import export_network

__all__ = [
    "SHIPPED",
    "LearnedLR",
    "LearnedOptimizer",
    "Normalisation",
    "Policy",
    "check_export",
    "export_network",
    "export_policy",
    "load_policy",
]
