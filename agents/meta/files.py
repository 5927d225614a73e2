"""Files of learners: what is written, and what a file is checked for when it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: What a file holds.
KEYS = (
    "learner", "arguments", "module", "parameters", "optimizer", "counts", "rng",
)  # fmt: skip


def arguments_of(
    make: Callable[..., None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a call by name, without module and family, as a file can hold them.

    Args:
        make: what was called, a method; its first two arguments are module and family.
        args: those given by place, without ``self``.
        kwargs: those given by name.

    Raises:
        TypeError: one cannot be held, or has no name.
    """
    bound = inspect.signature(make).bind(None, *args, **kwargs)
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
    return {name: _plain(name, value) for name, value in named.items()}


def _plain(name: str, value: Any) -> Any:
    """A value as Python's own types have it.

    Raises:
        TypeError: it is of none of them.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(name, each) for each in value)
    if type(value) is dict:
        return {_plain(name, k): _plain(name, each) for k, each in value.items()}
    if isinstance(value, Tensor):
        return value.detach()
    raise TypeError(
        f"argument {name!r} cannot be saved: a file holds numbers, strings, tensors, and "
        f"lists, tuples and dicts of them, got {value!r}"
    )


def read(path: str | Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        ValueError: it is no learner's.
        OSError: it cannot be read.
    """
    try:
        state = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception:  # of many kinds, whose advice is for those who wrote the file
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


def described(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Shapes of what a module learns, and values of all else in it, by name."""
    named = dict(module.named_parameters())
    learned = {name: tuple(p.shape) for name, p in named.items() if p.requires_grad}
    return {"learned": learned, "kept": _kept(module)}


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters and buffers."""
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
    return {**dict(module.named_buffers()), **frozen}


def restore(module: nn.Module, state: dict[str, dict[str, Any]], path: str | Path) -> None:
    """Take over frozen parameters and buffers of :func:`described`.

    Raises:
        ValueError: the module has other names or shapes.
    """
    ours, theirs = (
        {
            **{name: f"{name} {list(s)}" for name, s in each["learned"].items()},
            **{name: f"fixed {name} {list(v.shape)}" for name, v in each["kept"].items()},
        }
        for each in (described(module), state)
    )
    differing = [n for n in {**theirs, **ours} if ours.get(n) != theirs.get(n)]
    if differing:
        one, other = (
            ", ".join(each.get(name, f"no {name}") for name in differing)
            for each in (theirs, ours)
        )
        raise ValueError(f"{str(path)!r} is of a module with {one}; got one with {other}")
    for name, value in _kept(module).items():
        value.copy_(state["kept"][name])
