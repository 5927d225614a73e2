"""Arguments of a learned optimizer, checked before anything is made of them."""

from __future__ import annotations

from torch import Tensor

from .guarding import GUARDS
from .kernels import FUSED
from .policy import Policy

__all__ = ["check"]


def check(
    policy: Policy,
    lr: float | Tensor,
    weight_decay: float,
    schedule: str | None,
    guard: str,
    foreach: bool | None,
    fused: bool | None,
) -> None:
    """Refuse what :class:`~agents.LearnedOptimizer` cannot work with.

    Raises:
        ValueError: an argument is out of its range.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, got shape {list(lr.shape)}")
    if not 0.0 <= lr < float("inf"):
        raise ValueError(f"lr must be at least 0 and finite, got {lr!r}")
    if not 0.0 <= weight_decay < float("inf"):
        raise ValueError(
            f"weight_decay must be at least 0 and finite, got {weight_decay!r}"
        )
    if schedule not in ("auto", "always", None):
        raise ValueError(f"schedule must be 'auto', 'always' or None, got {schedule!r}")
    if guard not in GUARDS:
        raise ValueError(f"guard must be one of {GUARDS}, got {guard!r}")
    if fused and foreach:
        raise ValueError("fused=True and foreach=True exclude each other")
    if fused and policy.rule.name not in FUSED:
        raise ValueError(
            f"fused=True is for the rules {', '.join(FUSED)}, but this policy's is "
            f"{policy.rule.name!r}"
        )
