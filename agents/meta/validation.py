"""Validation of modules, supports, and the tasks that families sample.

All arguments are checked where users pass them, so that an error names the argument and
quotes its value, instead of being raised deep within the inner loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv.memory_limit import refuse_count
from optenv.tasks.stacked import LOSSES, LossFunction, named_loss, trained_parameters

from .families.episodes import Episodes, Examples, Family

# Arguments.


def non_negative_int(name: str, value: Any) -> int:
    """Return ``value`` as a plain int.

    Raises:
        ValueError: it is not an integer, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(f"{name} must be an integer from 0 on, got {value!r}")
    return int(value)


def refuse_fixed(learner: object, given: Mapping[str, Any], *names: str) -> None:
    """Refuse arguments that the learner's class sets itself.

    Raises:
        TypeError: ``given`` has one of the names.
    """
    for name in names:
        if name in given:
            raise TypeError(
                f"{type(learner).__name__} sets {name} itself, got {name}={given[name]!r}"
            )


# Modules.


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that require gradients, by name.

    Raises:
        TypeError: ``module`` is not a module.
        ValueError: it has no such parameters.
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
    """Return the number of elements of each of :func:`parameters_of`."""
    return [p.numel() for p in parameters_of(module).values()]


def check_dtypes(module: nn.Module, examples: Sequence[Tensor]) -> None:
    """Check that floating-point examples have the dtype of the module's parameters.

    Raises:
        ValueError: the dtypes differ.
    """
    module_dtypes = {p.dtype for p in parameters_of(module).values()}
    data_dtypes = {x.dtype for x in examples if x.is_floating_point()}
    if data_dtypes and data_dtypes != module_dtypes:
        ours, theirs = (
            " and ".join(sorted(map(str, dtypes)))
            for dtypes in (module_dtypes, data_dtypes)
        )
        raise ValueError(
            "the module's parameters and the family's examples must be of one type, got "
            f"{ours} and {theirs}"
        )


def try_module(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs ``[n, ...]`` of a copy of a module for inputs ``[n, ...]``.

    Raises:
        TypeError: the module does not return a tensor.
        Exception: an error of the module.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        outputs = copy.deepcopy(module)(inputs)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{type(module).__name__} must return one tensor, got a "
            f"{type(outputs).__name__}"
        )
    return outputs


# Losses.


def loss_of(family: Family) -> str | LossFunction:
    """Return the loss of a family: a name, or a function of outputs and targets.

    Raises:
        TypeError: ``family`` is not an instance of a family.
        ValueError: it has no loss.
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
    # torch's function as an attribute of the class has become a bound method.
    function = getattr(loss, "__func__", loss)
    return function if function in LOSSES.values() else loss


def is_classification(loss: str | LossFunction) -> bool:
    """Return whether a loss is the cross entropy, by name or as torch's function."""
    return loss == "cross_entropy" or loss is F.cross_entropy


def is_regression(loss: str | LossFunction) -> bool:
    """Return whether a loss compares outputs with targets of the same shape."""
    return not is_classification(loss) and named_loss(loss) in LOSSES.values()


def check_same_loss(learned: Family, evaluated: Family) -> None:
    """Check that a learner of one family can be evaluated on the tasks of another.

    Args:
        learned: family of the learner.
        evaluated: family to evaluate on.

    Raises:
        TypeError: ``evaluated`` is not a family.
        ValueError: their losses differ.
    """
    if evaluated is learned:
        return
    expected, loss = loss_of(learned), loss_of(evaluated)
    # Methods are compared by function: they are the same for all instances of a class.
    expected_function, function = (
        getattr(named, "__func__", named) for named in map(named_loss, (expected, loss))
    )
    if expected_function != function:
        raise ValueError(
            "a family to evaluate on must have the loss of the learner's family, "
            f"{expected!r}, got {type(evaluated).__name__} with {loss!r}"
        )


# The support of one task.


def support_pair(support: Any) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a support.

    Raises:
        TypeError: ``support`` is not a pair of tensors.
    """
    if isinstance(support, tuple | list):
        kinds = [type(part).__name__ for part in support]
        if len(support) == 2 and all(isinstance(part, Tensor) for part in support):
            return support[0], support[1]
        given = f"a {type(support).__name__} of {', '.join(kinds) or 'nothing'}"
    elif isinstance(support, Tensor):
        given = f"one tensor {list(support.shape)}"
    else:
        given = repr(support)
    raise TypeError(
        f"support must be a pair of tensors (inputs, targets) of one task, got {given}"
    )


def check_one_task(inputs: Tensor, dimensions: int) -> None:
    """Check that inputs belong to one task.

    Args:
        inputs: ``[n, ...]``.
        dimensions: number of dimensions of one task's inputs, in the learner's family.

    Raises:
        TypeError: ``inputs`` is not a tensor.
        ValueError: ``inputs`` has more dimensions.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor [n, ...], got {inputs!r}")
    if inputs.dim() > dimensions:
        raise ValueError(
            "inputs must be [n, ...] of one task, and a support the pair (inputs, targets) "
            f"of one task; those of the family have {dimensions} dimensions, got inputs "
            f"{list(inputs.shape)} with {inputs.dim()}"
        )


def support_batch(support: Any, dimensions: int) -> Examples:
    """Return the support ``[n, ...]`` of one task as a batch ``[1, n, ...]``.

    Args:
        support: pair of inputs and targets.
        dimensions: see :func:`check_one_task`.

    Raises:
        TypeError: ``support`` is not a pair of tensors.
        ValueError: it is empty, has different numbers of inputs and targets, or belongs to
            more than one task.
    """
    inputs, targets = support_pair(support)
    check_one_task(inputs, dimensions)
    counts = tuple(len(part) if part.dim() else 0 for part in (inputs, targets))
    if counts[0] != counts[1] or not counts[0]:
        raise ValueError(
            "a support must have at least one example, and as many inputs as targets, "
            f"got {counts[0]} and {counts[1]}"
        )
    return Examples(inputs[None], targets[None])


# Tasks of a family.


#: Largest number of tasks whose memory is not estimated before they are sampled.
_UNCHECKED = 10_000


def sample_episodes(family: Family, count: int, rng: np.random.Generator) -> Episodes:
    """Sample tasks, and check their types, shapes and class indices' dtype.

    Args:
        family: family of the tasks.
        count: number of tasks.
        rng: generator for :meth:`Family.sample`.

    Raises:
        TypeError: ``family`` is not a family, or does not return :class:`Episodes` of
            :class:`Examples` of tensors.
        ValueError: there are not ``count`` tasks, no examples, or different numbers of
            inputs and targets; targets of the cross entropy are not int64; or the tasks
            need more memory than the limit.
        Exception: an error of the family.
    """
    classifies = is_classification(loss_of(family))
    if count > _UNCHECKED:
        one = sample_episodes(family, 1, np.random.default_rng(0))
        each = sum(values.nbytes for part in one for values in part)
        refuse_count("the number of tasks", count, "the examples", 2 * each)
    episodes: Any = family.sample(count, rng)
    _check_type(family, "", episodes, Episodes)
    for name, part in zip(Episodes._fields, episodes, strict=True):
        _check_type(family, name, part, Examples)
        for field, values in zip(Examples._fields, part, strict=True):
            _check_type(family, f"{name}.{field}", values, Tensor)
        inputs, targets = (tuple(values.shape[:2]) for values in part)
        if inputs != targets or inputs[:1] != (count,) or not all(inputs[1:2] or (0,)):
            raise ValueError(
                f"{type(family).__name__}.sample({count}, rng) must return inputs and "
                f"targets [{count}, n, ...] with the same n, at least 1, got {name}.inputs "
                f"{list(part.inputs.shape)} and {name}.targets {list(part.targets.shape)}"
            )
        if classifies and part.targets.dtype != torch.int64:
            raise ValueError(
                "targets of the cross entropy must be numbers of classes, torch.int64, got "
                f"{part.targets.dtype} from {type(family).__name__}"
            )
    return episodes


def _check_type(family: Family, place: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(
            f"{type(family).__name__}.sample must return Episodes of Examples of tensors, "
            f"got {f'for {place} ' if place else ''}a {type(value).__name__}"
        )


def check_outputs(
    family: Family,
    parts: Sequence[str],
    episodes: Episodes,
    call: Callable[[Tensor], Tensor],
) -> None:
    """Check that a module's outputs fit the targets of tasks.

    Args:
        family: family of the tasks.
        parts: fields of :class:`Episodes` to check.
        episodes: the tasks; outputs are computed for the first.
        call: function from inputs ``[n, ...]`` of one task to outputs ``[n, ...]``.

    Raises:
        ValueError: see :func:`check_fit`.
        Exception: an error of ``call``.
    """
    for name in parts:
        part: Examples = getattr(episodes, name)
        outputs = call(part.inputs[0])[None]
        check_fit(loss_of(family), name, outputs, part.targets)


def check_fit(
    loss: str | LossFunction,
    name: str,
    outputs: Tensor,
    targets: Tensor,
    source: str = "the module's outputs are for",
) -> None:
    """Check that outputs fit targets in shape, or in the number of classes.

    Args:
        loss: loss of the tasks; nothing is checked for functions other than torch's.
        name: field of :class:`Episodes`, for the message.
        outputs: ``[1, n, ...]`` or ``[B, n, ...]``.
        targets: ``[B, n, ...]``.
        source: subject and verb that limit the number of classes, for the message.

    Raises:
        ValueError: they do not fit.
    """
    shapes = [list(x.shape[1:]) for x in (outputs, targets)]
    if is_classification(loss):
        if outputs.dim() < 3:
            raise ValueError(
                f"outputs of a classifier must be [n, classes], got {shapes[0]} for "
                f"targets {shapes[1]} of the {name}"
            )
        highest, classes = int(targets.max()), outputs.shape[2]
        if highest >= classes:
            raise ValueError(
                f"the {name} has class {highest}, but {source} only those up to "
                f"{classes - 1}: {highest + 1} classes or more for {classes} outputs"
            )
    elif shapes[0] != shapes[1] and is_regression(loss):
        raise ValueError(
            f"outputs must have the shape of the targets, got outputs {shapes[0]} and "
            f"targets {shapes[1]} of the {name}"
        )
