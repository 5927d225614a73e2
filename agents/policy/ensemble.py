"""Ensembles: the average of several policies as one policy."""

from __future__ import annotations

from collections.abc import Sequence

from .module import Policy
from .spec import PolicySpec

__all__ = ["average"]


def average(policies: Sequence[Policy]) -> Policy:
    """Return a policy that averages the outputs of all networks of the given policies.

    Args:
        policies: policies whose networks have the same shape, with any number of members
            each. The first one's description is used, see
            :meth:`agents.policy.spec.PolicySpec.merge`.

    Raises:
        ValueError: there are no policies, or they differ in features, action, update rule,
            horizon, layers, or another entry that decides how a policy acts.
    """
    if not policies:
        raise ValueError("there are no policies to average")
    merged = Policy(PolicySpec.merge([policy.spec for policy in policies]))
    networks = [network for policy in policies for network in policy.networks]
    cells = [cell for policy in policies for cell in policy.cells]
    pairs = [
        *zip(merged.networks, networks, strict=True),
        *zip(merged.cells, cells, strict=True),
    ]
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    return merged.requires_grad_(False).eval()
