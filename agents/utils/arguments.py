"""Checks of keyword arguments, with suggestions for unknown names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from optenv.checks import suggestion

__all__ = ["check_arguments", "refuse_unknown"]


def check_arguments(
    owner: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Refuse keyword arguments that ``owner`` does not have.

    Args:
        owner: name of the class or function, for the message.
        given: keyword arguments.
        defaults: arguments of ``owner`` with their defaults.

    Raises:
        TypeError: an argument is unknown, or a string although its default is a number.
    """
    for name, value in given.items():
        if name not in defaults:
            hint = suggestion(name, list(defaults))
            raise TypeError(f"{owner} has no argument {name!r}; {hint}")
        if isinstance(value, str) and isinstance(defaults[name], (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")


def refuse_unknown(owner: type, given: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that no constructor of a class has taken.

    Args:
        owner: the class; arguments of the constructors of its bases are valid, too.
        given: keyword arguments that are left over.

    Raises:
        TypeError: there are any.
    """
    for name in given:
        valid = dict.fromkeys(
            each.name
            for cls in owner.__mro__[:-1]
            if "__init__" in vars(cls)
            for each in inspect.signature(vars(cls)["__init__"]).parameters.values()
            if each.kind is inspect.Parameter.KEYWORD_ONLY
        )
        hint = suggestion(name, list(valid), (each for each in valid if name in each))
        raise TypeError(f"{owner.__name__} has no argument {name!r}; {hint}")
