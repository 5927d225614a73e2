"""Optimizer of a framework's trainer, and the length of its run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..optim.optimizer import LearnedOptimizer
from ..utils.warning import warn_user

__all__ = [
    "follow_trainer",
    "unwrapped",
    "warn_of_manual_length",
    "warn_of_missing_validation",
]


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer within the wrappers of a framework."""
    while not isinstance(optimizer, LearnedOptimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def follow_trainer(optimizer: LearnedOptimizer, total_steps: int, done: int) -> None:
    """Set the length of an optimizer's run to the trainer's, with a warning if it changes.

    If a trainer starts a new run with an optimizer that has already made steps, the run is
    extended by the trainer's steps, without a warning. Optimizers with an anytime policy
    are not changed.

    Args:
        optimizer: optimizer at the beginning of the trainer's run.
        total_steps: number of optimizer steps in the trainer's whole run.
        done: number of these that the trainer has made; 0 unless it resumes.
    """
    before = optimizer.total_steps
    length = _other_length(optimizer, total_steps, done)
    if length is None:
        return
    steps = int(optimizer.log_dict()["step"])
    optimizer.extend(length)
    if done or not steps:  # else it is a second run of the trainer, which is no surprise
        warn_user(
            f"the optimizer had total_steps={before}, but the trainer's run ends after "
            f"{length} steps, which now holds for both"
        )


def warn_of_manual_length(optimizer: LearnedOptimizer, total_steps: int, done: int) -> None:
    """Warn if the length of an optimizer's run is not one step per batch.

    With manual optimization, the trainer does not know how often ``step`` is called.

    Args:
        optimizer: optimizer at the beginning of the trainer's run.
        total_steps: number of batches in the trainer's whole run.
        done: number of steps that the trainer has made; 0 unless it resumes.
    """
    length = _other_length(optimizer, total_steps, done)
    if length is not None:
        warn_user(
            f"the optimizer has total_steps={optimizer.total_steps}, but one step a batch "
            f"makes {length}; with manual optimization only max_steps tells the number of "
            "steps: give the optimizer the number that training_step takes"
        )


def _other_length(optimizer: LearnedOptimizer, total_steps: int, done: int) -> int | None:
    """Return the length of a trainer's run in steps; None if the optimizer has it."""
    before, steps = optimizer.total_steps, int(optimizer.log_dict()["step"])
    length = total_steps if done else steps + total_steps
    return None if before is None or length in (before, steps) else length


def warn_of_missing_validation(name: str, present: Iterable[str]) -> None:
    """Warn that a policy that observes validation losses is given none.

    Args:
        name: name of the number that is expected.
        present: names of the numbers that the validation has.
    """
    warn_user(
        f"the policy observes validation losses, but the validation has no {name!r}, only "
        f"{', '.join(present) or 'nothing'}; optimizer.validated(loss) gives one"
    )
