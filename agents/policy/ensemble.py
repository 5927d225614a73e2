"""Several policies as one."""

from __future__ import annotations

from collections.abc import Sequence

from .module import Policy

__all__ = ["average"]


def average(policies: Sequence[Policy]) -> Policy:
    """One policy whose networks are those of all the given ones.

    Its description is the first one's, with ``members`` and the ``seeds`` of all in the
    place of its seed and command.

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
    kept = {k: v for k, v in first.description.items() if k not in ("seed", "command")}
    seeds = [
        seed
        for policy in policies
        for seed in policy.description.get("seeds", [policy.description.get("seed")])
    ]
    merged = Policy({**kept, "members": len(networks), "seeds": seeds})
    cells = [cell for policy in policies for cell in policy.cells]
    pairs = [*zip(merged.members, networks, strict=True)]
    for own, theirs in [*pairs, *zip(merged.cells, cells, strict=True)]:
        own.load_state_dict(theirs.state_dict())
    return merged.requires_grad_(False).eval()
