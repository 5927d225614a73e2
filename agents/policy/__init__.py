"""Policies: their description, their network, and their files."""

from .files import load_policy, save_policy
from .module import Policy

__all__ = ["Policy", "load_policy", "save_policy"]
