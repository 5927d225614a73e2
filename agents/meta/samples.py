"""What families draw: checks of it, and of whether a module's outputs fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optenv.tasks.stacked import LOSSES, LossFunction, named_loss

from .checks import is_classification, loss_of
from .families.episodes import Episodes, Examples, Family


def draw(family: Family, count: int, rng: np.random.Generator) -> Episodes:
    """What a family draws, checked but for its values.

    Args:
        family: of the tasks.
        count: how many.
        rng: for :meth:`Family.sample`.

    Raises:
        TypeError: it is no family, or does not draw :class:`Episodes` of :class:`Examples`
            of tensors.
        ValueError: there are not as many tasks as asked for, or not as many inputs as
            targets, or none; targets of the cross entropy are not int64.
        Exception: what the family raises.
    """
    classes = is_classification(loss_of(family))
    drawn: Any = family.sample(count, rng)
    _check_type(family, "", drawn, Episodes)
    for name, part in zip(Episodes._fields, drawn, strict=True):
        _check_type(family, name, part, Examples)
        for each, values in zip(Examples._fields, part, strict=True):
            _check_type(family, f"{name}.{each}", values, Tensor)
        inputs, targets = (tuple(values.shape[:2]) for values in part)
        if inputs != targets or inputs[:1] != (count,) or not all(inputs[1:2] or (0,)):
            raise ValueError(
                f"{type(family).__name__}.sample({count}, rng) must return inputs and "
                f"targets [{count}, n, ...] with the same n, at least 1, got {name}.inputs "
                f"{list(part.inputs.shape)} and {name}.targets {list(part.targets.shape)}"
            )
        if classes and part.targets.dtype != torch.int64:
            raise ValueError(
                "targets of the cross entropy must be numbers of classes, torch.int64, got "
                f"{part.targets.dtype} from {type(family).__name__}"
            )
    return drawn


def _check_type(family: Family, place: str, value: Any, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise TypeError(
            f"{type(family).__name__}.sample must return Episodes of Examples of tensors, "
            f"got {f'for {place} ' if place else ''}a {type(value).__name__}"
        )


def is_regression(loss: str | LossFunction) -> bool:
    """Whether a loss compares outputs with targets of the same shape."""
    return not is_classification(loss) and named_loss(loss) in LOSSES.values()


def check_same_loss(ours: Family, theirs: Family) -> None:
    """Check that a learner of one family can be judged by the tasks of another.

    Raises:
        TypeError: the other is no family.
        ValueError: their losses differ.
    """
    if theirs is ours:
        return
    own, other = loss_of(ours), loss_of(theirs)
    functions = (named_loss(loss) for loss in (own, other))
    # A method is the same for all instances of its class.
    one, two = (getattr(function, "__func__", function) for function in functions)
    if one != two:
        raise ValueError(
            "a family to evaluate on must have the loss of the learner's family, "
            f"{own!r}, got {type(theirs).__name__} with {other!r}"
        )


def check_tasks(
    family: Family, parts: Sequence[str], drawn: Episodes, call: Callable[[Tensor], Tensor]
) -> None:
    """Check that a module's outputs fit the targets of tasks.

    Args:
        family: of the tasks.
        parts: of :class:`Episodes`, which are looked at.
        drawn: the tasks.
        call: outputs ``[n, ...]`` of inputs ``[n, ...]`` of one task.

    Raises:
        ValueError: see :func:`check_fit`.
        Exception: what ``call`` raises.
    """
    for name in parts:
        part: Examples = getattr(drawn, name)
        outputs = call(part.inputs[0])[None]
        check_fit(loss_of(family), name, outputs, part.targets)


def check_fit(
    loss: str | LossFunction,
    name: str,
    outputs: Tensor,
    targets: Tensor,
    source: str = "the module's outputs are for",
) -> None:
    """Check that outputs fit targets by their shape, and classes by their number.

    Args:
        loss: of the tasks; of functions that are not known, nothing is checked.
        name: of the part of :class:`Episodes`.
        outputs: ``[1, n, ...]`` or ``[B, n, ...]``.
        targets: ``[B, n, ...]``.
        source: what there are only so many classes of.

    Raises:
        ValueError: they do not.
    """
    shapes = [list(x.shape[1:]) for x in (outputs, targets)]
    if is_classification(loss):
        if outputs.dim() < 3:
            raise ValueError(
                f"outputs of a classifier must be [n, classes], got {shapes[0]} for "
                f"targets {shapes[1]} of the {name}"
            )
        most, classes = int(targets.max()), outputs.shape[2]
        if most >= classes:
            raise ValueError(
                f"the {name} has class {most}, but {source} only those up to "
                f"{classes - 1}: {most + 1} classes or more for {classes} outputs"
            )
    elif shapes[0] != shapes[1] and is_regression(loss):
        raise ValueError(
            f"outputs must have the shape of the targets, got outputs {shapes[0]} and "
            f"targets {shapes[1]} of the {name}"
        )
