"""A learned policy as an arm."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ...optim.optimizer import LearnedOptimizer
from ...policy.files import load_policy
from ...policy.module import Policy
from .arm import Arm

__all__ = ["learned_arm"]


def learned(
    params: Iterable[nn.Parameter], total_updates: int, **arguments: Any
) -> Optimizer:
    """Make a :class:`~agents.LearnedOptimizer` with the other arguments."""
    return LearnedOptimizer(params, total_steps=total_updates, **arguments)


def learned_by_role(module: nn.Module, total_updates: int, **arguments: Any) -> Optimizer:
    """Make a :class:`~agents.LearnedOptimizer` with a group for each role of parameters."""
    return LearnedOptimizer.for_model(module, total_steps=total_updates, **arguments)


def learned_arm(name: str, policy: str | Path | Policy, **arguments: Any) -> Arm:
    """Return the arm of a policy.

    Args:
        name: name of its column in the tables.
        policy: the policy, or an argument of :func:`~agents.load_policy`. A file is read
            now, since it may have been replaced by the time that a process reads it.
        **arguments: arguments of :class:`~agents.LearnedOptimizer`, such as ``lr``; or of
            :meth:`~agents.LearnedOptimizer.for_model`, if the policy sets a learning rate
            for each role of parameters.

    Raises:
        ValueError: the policy chooses the batch size, and tasks have batches of one size.
    """
    loaded = policy if isinstance(policy, Policy) else load_policy(policy)
    if loaded.action.sets_batch_size:
        raise ValueError(
            "the tasks of an evaluation have batches of one size, so that no policy with "
            f"action {loaded.action.kind!r} can be evaluated on them, got {policy!r}"
        )
    by_role = bool(loaded.action.roles)
    make = learned_by_role if by_role else learned
    factory = partial(make, policy=loaded, **arguments)
    return Arm(name, factory, takes_loss=True, takes_module=by_role)
