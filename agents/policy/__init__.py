"""Policies: their description, their networks, and their files.

This is the code; the policies shipped with the package are in :mod:`agents.policies`.
"""

from .files import load_policy, save_policy
from .module import Policy
from .spec import PolicySpec

__all__ = ["Policy", "PolicySpec", "load_policy", "save_policy"]
