"""Checks of arguments that are given by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optenv.checks import suggestion

__all__ = ["check_arguments"]


def check_arguments(
    owner: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Refuse arguments that ``owner`` does not have.

    Args:
        owner: name of what takes them.
        given: arguments by name.
        defaults: those that it has, with their defaults.

    Raises:
        TypeError: one is unknown, or a string where the default is a number.
    """
    for name, value in given.items():
        if name not in defaults:
            hint = suggestion(name, list(defaults))
            raise TypeError(f"{owner} has no argument {name!r}; {hint}")
        if isinstance(value, str) and isinstance(defaults[name], (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
