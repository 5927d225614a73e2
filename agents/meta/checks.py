"""Checks of what meta-learners are given."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv.tasks.stacked import LOSSES, LossFunction, trained_parameters

from .families.episodes import Examples, Family


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that require gradients, by name.

    Raises:
        TypeError: it is no module.
        ValueError: there are none.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {module!r}")
    parameters = trained_parameters(module)
    if not parameters:
        raise ValueError(
            "the module must have parameters that require gradients, got "
            f"{type(module).__name__} without any"
        )
    return parameters


def sizes_of(module: nn.Module) -> list[int]:
    """Number of elements of each of :func:`parameters_of`."""
    return [p.numel() for p in parameters_of(module).values()]


def loss_of(family: Family) -> str | LossFunction:
    """The loss of a family's tasks: a name, or a function of outputs and targets.

    Raises:
        TypeError: it is no family.
        ValueError: it has none.
    """
    if isinstance(family, type) or not callable(getattr(family, "sample", None)):
        raise TypeError(
            "family must be an instance of a Family, with `sample` and `loss`, got "
            f"{family!r}"
        )
    loss: Any = getattr(family, "loss", None)
    if loss is None:
        raise ValueError(
            "a family must have an attribute `loss`, a function or one of "
            f"{', '.join(LOSSES)}, got {family!r} without one"
        )
    # A function of torch that is an attribute of the class has become a method.
    function = getattr(loss, "__func__", loss)
    return function if function in LOSSES.values() else loss


def is_classification(loss: str | LossFunction) -> bool:
    """Whether a loss is the cross entropy, by name or as torch's function."""
    return loss == "cross_entropy" or loss is F.cross_entropy


def natural(name: str, value: Any) -> int:
    """Return ``value`` as a plain int.

    Raises:
        ValueError: it is no integer, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(f"{name} must be an integer from 0 on, got {value!r}")
    return int(value)


def pair_of(support: Any) -> tuple[Tensor, Tensor]:
    """A support's inputs and targets.

    Raises:
        TypeError: it is no pair of tensors.
    """
    if isinstance(support, tuple | list):
        found = [type(part).__name__ for part in support]
        if len(support) == 2 and all(isinstance(part, Tensor) for part in support):
            return support[0], support[1]
        given = f"a {type(support).__name__} of {', '.join(found) or 'nothing'}"
    elif isinstance(support, Tensor):
        given = f"one tensor {list(support.shape)}"
    else:
        given = repr(support)
    raise TypeError(
        f"support must be a pair of tensors (inputs, targets) of one task, got {given}"
    )


def check_one_task(inputs: Tensor, dimensions: int) -> None:
    """Check that inputs are those of one task.

    Args:
        inputs: ``[n, ...]``.
        dimensions: that the inputs of one task of the family have.

    Raises:
        TypeError: they are no tensor.
        ValueError: they have more dimensions.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor [n, ...], got {inputs!r}")
    if inputs.dim() > dimensions:
        raise ValueError(
            "inputs must be [n, ...] of one task, and a support the pair (inputs, targets) "
            f"of one task; those of the family have {dimensions} dimensions, got inputs "
            f"{list(inputs.shape)} with {inputs.dim()}"
        )


def known(support: Any, dimensions: int) -> Examples:
    """The support ``[n, ...]`` of one task as that of a batch of one, ``[1, n, ...]``.

    Args:
        support: pair of inputs and targets.
        dimensions: see :func:`check_one_task`.

    Raises:
        TypeError: it is no pair of tensors.
        ValueError: it is empty, or has not as many inputs as targets, or is of more than
            one task.
    """
    inputs, targets = pair_of(support)
    check_one_task(inputs, dimensions)
    counts = tuple(len(part) if part.dim() else 0 for part in (inputs, targets))
    if counts[0] != counts[1] or not counts[0]:
        raise ValueError(
            "a support must have at least one example, and as many inputs as targets, "
            f"got {counts[0]} and {counts[1]}"
        )
    return Examples(inputs[None], targets[None])


def refuse(learner: object, given: Mapping[str, Any], *names: str) -> None:
    """Refuse arguments that a class sets itself.

    Raises:
        TypeError: one of them is given.
    """
    for name in names:
        if name in given:
            raise TypeError(
                f"{type(learner).__name__} sets {name} itself, got {name}={given[name]!r}"
            )


def check_dtypes(module: nn.Module, examples: Sequence[Tensor]) -> None:
    """Check that a module computes in the type of the examples, if these are floats.

    Raises:
        ValueError: it does not.
    """
    ours = {p.dtype for p in parameters_of(module).values()}
    theirs = {x.dtype for x in examples if x.is_floating_point()}
    if theirs and theirs != ours:
        one, other = (" and ".join(sorted(map(str, each))) for each in (ours, theirs))
        raise ValueError(
            "the module's parameters and the family's examples must be of one type, got "
            f"{one} and {other}"
        )


def check_output(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs ``[n, ...]`` for inputs ``[n, ...]``; the module is not changed.

    Raises:
        TypeError: it gives something else.
        Exception: what it raises.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        outputs = copy.deepcopy(module)(inputs)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{type(module).__name__} must return one tensor, got a "
            f"{type(outputs).__name__}"
        )
    return outputs
