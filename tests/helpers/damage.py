"""Random damage of nested values, as of files and states from elsewhere, and its cost."""

from __future__ import annotations

import math
import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: Values that an entry is replaced by; all of them can be written as JSON.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**7, 10**19, 10**400, 0.0, -0.5, 0.999, 1e-300,
    1e-8, 1e6, 1e30, 1e300, math.inf, -math.inf, math.nan, "", "adam", "network", [], {},
    [1], [1.0, 2.0], ["loss"], {"name": "adam"}, {"kind": "rule"}, [[[[[[[[[[1]]]]]]]]]],
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each part of nested dictionaries, lists and tuples."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from paths(part, (*path, i))


def replaced(value: Any, path: Sequence[Any], change: Any) -> Any:
    """Return a copy with the part at ``path`` changed by a function, or left out.

    Args:
        value: nested value, which stays as it is.
        path: from :func:`paths`.
        change: function of the part; None leaves it out.
    """
    if not path:
        return change(value) if change else None
    key, *rest = path
    parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    if not rest and change is None:
        del parts[key]
    else:
        parts[key] = replaced(parts[key], rest, change)
    return parts if isinstance(value, dict) else type(value)(parts.values())


def damaged(generator: random.Random, value: Any, odd: Sequence[Any]) -> Any:
    """Return a copy of a nested value with one part damaged.

    A top-level entry is as probable as all parts of a long list.
    """
    entry = generator.choice(list(value))
    below = list(paths(value[entry], (entry,)))
    path = below[0] if generator.random() < 0.5 else generator.choice(below)
    kind = generator.random()
    if kind < 0.1:
        return replaced(value, path, None)
    if kind < 0.15 and isinstance(value, dict):
        return {**value, f"{entry}_": generator.choice(odd)}

    def change(part: Any) -> Any:
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            if generator.random() < 0.4:
                factor = generator.choice([-1, 0.5, 2, 10, 1e3, 1e9])
                scaled = part * factor
                return int(scaled) if isinstance(part, int) else scaled
        if isinstance(part, list) and part and generator.random() < 0.3:
            return part * 2 if generator.random() < 0.5 else part[:-1]
        return generator.choice(odd)

    return replaced(value, path, change)


@contextmanager
def measured(seconds: float, mebibytes: float) -> Iterator[None]:
    """Fail if the block takes more CPU time, or lets the process grow by more memory."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    taken = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert taken < seconds and grown < mebibytes, (taken, grown)


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
