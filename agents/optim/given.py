"""Parameter groups as a user gives them, which may be those of another optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optenv.checks import quoted

from .clock import LIMIT, PEAK
from .state import check_ranges

__all__ = ["check_rates", "own_group"]

#: What an optimizer writes into its groups. A group of another optimizer has them too.
WRITTEN = ("controller", "effective_lr", PEAK)


def own_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a group for another optimizer, which shares nothing but settings.

    ``max_lr`` is kept under :data:`~agents.optim.clock.LIMIT`, too, unless it is that of a
    torch ``OneCycleLR``, which stands beside a ``min_lr``.

    Raises:
        ValueError: a key is given that the optimizer itself writes, with a value that it
            cannot have written.
    """
    for key in WRITTEN:
        value = group.get(key, 0.0)
        if key in group and not _is_written(key, value):
            raise ValueError(
                f"{key!r} of a parameter group is written by the optimizer itself, got "
                f"{quoted(value)}: leave it out"
            )
    own = {key: value for key, value in group.items() if key not in WRITTEN}
    if "max_lr" in own and "min_lr" not in own:
        own[LIMIT] = own["max_lr"]
    return own


def _is_written(key: str, value: Any) -> bool:
    """Return whether a value is one that an optimizer could have written."""
    if key == "controller":
        return isinstance(value, Mapping)
    try:
        check_ranges({key: value})
    except ValueError:
        return False
    return True


def check_rates(groups: list[dict[str, Any]]) -> None:
    """Refuse base learning rates that a scheduler or the user has made negative or NaN.

    Raises:
        ValueError: there is one.
    """
    for i, group in enumerate(groups):
        lr = float(group["lr"])
        if not lr >= 0.0:
            raise ValueError(
                f"the lr of parameter group {i} must be at least 0, but has been set to "
                f"{lr:g} since, as by a torch scheduler: a step would go uphill"
            )
