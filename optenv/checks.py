"""Checks of arguments that several modules share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

#: Largest integer of 64 bits.
MAX_INTEGER = 2**63 - 1


def is_real(value: Any) -> bool:
    """Return True for a real number of any size; a bool does not count."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True for a real number that a float can hold; a bool does not count."""
    if not is_real(value):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def parsed_json(text: str | bytes) -> Any:
    """Parse JSON from a user's file.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def positive_int(name: str, value: Any) -> int:
    """Return ``value`` as a plain int.

    Args:
        name: name of the argument, for the message.
        value: an integer of Python or NumPy.

    Raises:
        ValueError: the value is not an integer in ``[1, MAX_INTEGER]``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {quoted(value)}")
    if int(value) > MAX_INTEGER:
        raise ValueError(f"{name} must be at most {MAX_INTEGER}, got {quoted(value)}")
    return int(value)


def positive(name: str, value: Any, below: float = math.inf) -> float:
    """Return ``value`` as a plain float.

    Args:
        name: name of the argument, for the message.
        value: a number in ``(0, below)``.
        below: exclusive upper bound.

    Raises:
        TypeError: the value is not a real number.
        ValueError: the value is not positive, or not less than ``below``.
    """
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {quoted(value)}")
    if not 0 < value < below:
        limit = "and finite" if below == math.inf else f"and less than {below}"
        raise ValueError(f"{name} must be positive {limit}, got {quoted(value)}")
    return float(value)


def known(what: str, value: Any, valid: Iterable[str]) -> None:
    """Refuse a name that is not among the valid ones.

    Args:
        what: kind of the name, for the message.
        value: the name.
        valid: valid names.

    Raises:
        ValueError: the name is not valid; the message quotes it and lists the valid ones.
    """
    names = list(valid)
    if value not in names:
        raise ValueError(f"unknown {what} {value!r}; valid: {', '.join(names)}")


def suggestion(name: str, valid: Sequence[str], near: Iterable[str] = ()) -> str:
    """Compose the end of a message about an unknown name.

    It suggests the closest valid name, and lists all.

    Args:
        name: the unknown name.
        valid: valid names.
        near: candidates for "did you mean"; the first one is suggested. By default it is
            the closest valid name, if one is close.
    """
    close = [*near] or get_close_matches(name, valid, 1) or _same_letters(name, valid)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}"


def _same_letters(name: str, valid: Sequence[str]) -> list[str]:
    """Return the closest valid name when case is ignored, as a list of at most one."""
    lower = {each.lower(): each for each in reversed(valid)}
    return [lower[each] for each in get_close_matches(name.lower(), lower, 1)]


def quoted(value: Any, limit: int = 100) -> str:
    """Return ``repr(value)``; the middle of a long one is left out.

    Args:
        value: value to quote in a message.
        limit: number of characters above which the middle is left out.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # for example, an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text)} characters)"


def check_new_name(kind: str, name: Any, taken: Sequence[str]) -> None:
    """Refuse to register something under a name that is taken.

    Args:
        kind: kind of object that is registered, for the message.
        name: its name.
        taken: names in use.

    Raises:
        TypeError: ``name`` is not a string.
        ValueError: ``name`` is empty or taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} must be a string, got {name!r}")
    if not name:
        raise ValueError(f"the name of a {kind} must not be empty")
    if name in taken:
        raise ValueError(f"there is a {kind} {name!r} already; taken: {', '.join(taken)}")
