"""Files of learners: the values that a file can hold, and the checks of a file.

:meth:`agents.meta.Learner.save` writes a dictionary with the keys :data:`KEYS`. It holds
only numbers, strings and tensors, so that ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Keys of a file.
KEYS = (
    "learner", "arguments", "module", "parameters", "optimizer", "counts", "rng",
)  # fmt: skip


def constructor_arguments(
    constructor: Callable[..., None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a constructor's call by name, as a file can hold them.

    Args:
        constructor: ``__init__`` of a class, whose first two arguments besides ``self`` are
            the module and the family. These two are left out of the result.
        args: positional arguments, without ``self``.
        kwargs: keyword arguments.

    Raises:
        TypeError: an argument cannot be held by a file, or has no name.
    """
    bound = inspect.signature(constructor).bind(None, *args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            named[name] = value
        elif len(value) > 2:
            raise TypeError(f"arguments in *{name} have no names to be saved by: {value!r}")
    for name in {"module", "family", *list(bound.signature.parameters)[1:3]}:
        named.pop(name, None)
    return {name: _to_plain(name, value) for name, value in named.items()}


def _to_plain(name: str, value: Any) -> Any:
    """Return a value made up of Python's own types and tensors.

    Args:
        name: name of the argument, for the message.
        value: number of Python or NumPy, string, tensor, or list, tuple or dict of them.

    Raises:
        TypeError: ``value`` is anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_to_plain(name, item) for item in value)
    if type(value) is dict:
        return {_to_plain(name, k): _to_plain(name, v) for k, v in value.items()}
    if isinstance(value, Tensor):
        return value.detach()
    raise TypeError(
        f"argument {name!r} cannot be saved: a file holds numbers, strings, tensors, and "
        f"lists, tuples and dicts of them, got {value!r}"
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a learner's file.

    Raises:
        ValueError: the file is not a learner's.
        OSError: it cannot be read.
    """
    try:
        state = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception:
        # torch raises errors of many types, which advise loading the file without
        # `weights_only` if its author is trusted. Here this would be bad advice.
        raise ValueError(
            f"{str(path)!r} is not a learner's file: torch.load cannot read it as tensors, "
            "numbers and strings"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(
            f"{str(path)!r} is not a learner's file: it holds a {type(state).__name__}"
        )
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise ValueError(
            f"{str(path)!r} is not a learner's file: it has no {', '.join(missing)}"
        )
    return state


def module_state(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the shapes of a module's learned parameters and the values of all else.

    Returns:
        ``learned``: shape of each parameter that requires gradients; ``kept``: values of
        the frozen parameters and of the buffers. Both are by name.
    """
    parameters = dict(module.named_parameters())
    learned = {name: tuple(p.shape) for name, p in parameters.items() if p.requires_grad}
    return {"learned": learned, "kept": _fixed_tensors(module)}


def _fixed_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the frozen parameters and the buffers of a module, by name."""
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
    return {**dict(module.named_buffers()), **frozen}


def restore_module(
    module: nn.Module, state: dict[str, dict[str, Any]], path: str | Path
) -> None:
    """Copy the frozen parameters and the buffers of a file into a module.

    Args:
        module: module, changed in place.
        state: result of :func:`module_state`.
        path: path of the file, for the message.

    Raises:
        ValueError: the module has parameters or buffers of other names or shapes.
    """
    in_module, in_file = (
        {
            **{name: f"{name} {list(s)}" for name, s in each["learned"].items()},
            **{name: f"fixed {name} {list(v.shape)}" for name, v in each["kept"].items()},
        }
        for each in (module_state(module), state)
    )
    differing = [n for n in {**in_file, **in_module} if in_module.get(n) != in_file.get(n)]
    if differing:
        expected, given = (
            ", ".join(each.get(name, f"no {name}") for name in differing)
            for each in (in_file, in_module)
        )
        raise ValueError(
            f"{str(path)!r} is of a module with {expected}; got one with {given}"
        )
    for name, value in _fixed_tensors(module).items():
        value.copy_(state["kept"][name])
