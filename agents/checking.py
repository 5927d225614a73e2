"""Checks of arguments that are given by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

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
            close = get_close_matches(name, defaults, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(
                f"{owner} has no argument {name!r}; {hint}valid: {', '.join(defaults)}"
            )
        if isinstance(value, str) and isinstance(defaults[name], (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
