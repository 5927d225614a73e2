"""Several policies as one."""

from __future__ import annotations

from collections.abc import Sequence

from .policy import Policy

__all__ = ["average"]


def average(policies: Sequence[Policy]) -> Policy:
    """One policy whose networks are those of all the given ones.

    Its description is the first one's, with ``members`` and the ``seeds`` of all.

    Raises:
        ValueError: there are none, or two act by different rules of the game (features,
            action, update rule, horizon, layers ...).
    """
    if not policies:
        raise ValueError("there are no policies to average")
    first = policies[0]
    for other in policies[1:]:
        for key, value in first.acts().items():
            if key != "members" and other.acts()[key] != value:
                raise ValueError(
                    f"policies of different {key} cannot be averaged: {value!r} and "
                    f"{other.acts()[key]!r}"
                )
    networks = [network for policy in policies for network in policy.members]
    seeds = [policy.description.get("seed") for policy in policies]
    merged = Policy({**first.description, "members": len(networks), "seeds": seeds})
    for own, theirs in zip(merged.members, networks, strict=True):
        own.load_state_dict(theirs.state_dict())
    return merged.requires_grad_(False).eval()
