"""The optimizer of a trainer, and the length of its run."""

from __future__ import annotations

from typing import Any

from ..optim.optimizer import LearnedOptimizer
from ..utils.warning import warn_user

__all__ = ["follow_trainer", "unwrapped"]


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer within the wrappers of a framework."""
    while not isinstance(optimizer, LearnedOptimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def follow_trainer(optimizer: LearnedOptimizer, total_steps: int, done: int) -> None:
    """Give the run of an optimizer the length of the trainer's, with a warning.

    A trainer that begins anew with an optimizer that has made steps adds its own to them,
    with a fall of the learning rate at the new end. An anytime policy has no length.

    Args:
        optimizer: at the beginning of the trainer's run.
        total_steps: number of steps of the optimizer in the whole run of the trainer.
        done: number of those that the trainer has made, 0 unless it resumes.
    """
    before = optimizer.total_steps
    steps = int(optimizer.log_dict()["step"])
    length = total_steps if done else steps + total_steps
    if before is None or length in (before, steps):
        return
    optimizer.extend(length)
    if done or not steps:  # else it is a second run of the trainer, which is no surprise
        warn_user(
            f"the optimizer had total_steps={before}, but the trainer's run ends after "
            f"{length} steps, which now holds for both"
        )
