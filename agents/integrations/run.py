"""The optimizer of a trainer, and the length of its run."""

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
    """Give the run of an optimizer the length of the trainer's, with a warning.

    A trainer that begins anew with an optimizer that has made steps adds its own to them,
    with a fall of the learning rate at the new end. An anytime policy has no length.

    Args:
        optimizer: at the beginning of the trainer's run.
        total_steps: number of steps of the optimizer in the whole run of the trainer.
        done: number of those that the trainer has made, 0 unless it resumes.
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
    """Warn if the run of an optimizer has another length than one step a batch gives it.

    Where the user's code calls ``step``, the trainer does not know how often.

    Args:
        optimizer: at the beginning of the trainer's run.
        total_steps: number of batches of the whole run of the trainer.
        done: number of steps that the trainer has made, 0 unless it resumes.
    """
    length = _other_length(optimizer, total_steps, done)
    if length is not None:
        warn_user(
            f"the optimizer has total_steps={optimizer.total_steps}, but one step a batch "
            f"makes {length}; with manual optimization only max_steps tells the number of "
            "steps: give the optimizer the number that training_step takes"
        )


def _other_length(optimizer: LearnedOptimizer, total_steps: int, done: int) -> int | None:
    """Return the length of a trainer's run, None if the optimizer's is no other."""
    before, steps = optimizer.total_steps, int(optimizer.log_dict()["step"])
    length = total_steps if done else steps + total_steps
    return None if before is None or length in (before, steps) else length


def warn_of_missing_validation(name: str, present: Iterable[str]) -> None:
    """Warn that a policy that observes validation losses is given none.

    Args:
        name: of the number that would be given.
        present: names of those that the validation has.
    """
    warn_user(
        f"the policy observes validation losses, but the validation has no {name!r}, only "
        f"{', '.join(present) or 'nothing'}; optimizer.validated(loss) gives one"
    )
