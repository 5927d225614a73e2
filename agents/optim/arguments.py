"""Arguments of a learned optimizer, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from optenv.checks import is_number

from .guard import GUARDS
from .kernels import FUSED

__all__ = ["check", "check_group"]


def check(schedule: Any, guard: Any, flags: Mapping[str, Any]) -> None:
    """Refuse settings that :class:`~agents.LearnedOptimizer` does not know.

    Raises:
        ValueError: one is none of those that there are.
        TypeError: a flag is neither True nor False.
    """
    if schedule not in ("auto", "always", None):
        raise ValueError(f"schedule must be 'auto', 'always' or None, got {schedule!r}")
    if guard not in GUARDS:
        raise ValueError(f"guard must be one of {GUARDS}, got {guard!r}")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_group(group: Mapping[str, Any], rule: str) -> None:
    """Refuse settings of a parameter group that ``rule`` cannot follow.

    Raises:
        ValueError: one is out of its range.
        TypeError: one is not of its type.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {list(lr.shape)}")
        lr = lr.item()
    for name, value in (("lr", lr), ("weight_decay", group["weight_decay"])):
        if not is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")
    for name in ("foreach", "fused"):
        if group[name] not in (True, False, None):
            raise TypeError(f"{name} must be True, False or None, got {group[name]!r}")
    if not isinstance(group["maximize"], bool):
        raise TypeError(f"maximize must be True or False, got {group['maximize']!r}")
    if group["fused"] and group["foreach"]:
        raise ValueError("fused=True and foreach=True exclude each other")
    if group["fused"] and rule not in FUSED:
        raise ValueError(
            f"fused=True is for the rules {', '.join(FUSED)}, but this policy's is {rule!r}"
        )
