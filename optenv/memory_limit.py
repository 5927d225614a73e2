"""Limit on the memory of environments, and the refusal of those that need more."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .checks import is_number, quoted

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "SHARE",
    "VARIABLE",
    "MemoryLimit",
    "limit_of",
    "machine_memory",
    "refuse_beyond",
    "refuse_count",
    "size_text",
]

#: Environment variable with the limit in GiB, which the argument ``max_memory`` overrides.
VARIABLE = "OPTENV_MAX_MEMORY"

#: Default limit, as a share of the machine's memory.
SHARE = 0.75

_GIB = 2**30

#: Files in which Linux states how much memory a control group (a container) may use.
_GROUP_FILES = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class MemoryLimit(NamedTuple):
    """Limit on memory.

    Attributes:
        size: limit in bytes; infinite for no limit.
        origin: where the limit comes from, for messages.
    """

    size: float
    origin: str


def limit_of(
    max_memory: float | None = None, device: torch.device | None = None
) -> MemoryLimit:
    """Return the limit on the memory of an environment.

    It is ``max_memory``, or else the environment variable :data:`VARIABLE`, or else
    :data:`SHARE` of the memory of the device; for the CPU, of the memory that the process
    may use (:func:`machine_memory`).

    Args:
        max_memory: limit in GiB, or infinity for no limit; None for the default.
        device: torch device of the runs; the CPU by default.

    Raises:
        TypeError: ``max_memory`` is not a number.
        ValueError: ``max_memory`` or the environment variable is not a positive number.

    Example:
        >>> from optenv.memory_limit import limit_of
        >>> limit_of(2).size == 2 * 2**30
        True
    """
    if max_memory is not None:
        return MemoryLimit(_gib("max_memory", max_memory), f"max_memory={max_memory:g}")
    text = os.environ.get(VARIABLE)
    if text:  # an empty variable counts as not set
        try:
            given = float(text)
        except ValueError:
            raise ValueError(
                f"{VARIABLE} must be a number of GiB, such as 4, got {text!r}"
            ) from None
        return MemoryLimit(_gib(VARIABLE, given), f"{VARIABLE}={text}")
    if device is not None and device.type == "cuda":
        whole, where = torch.cuda.get_device_properties(device).total_memory, str(device)
    else:
        whole, where = machine_memory(), "this machine"
    return MemoryLimit(SHARE * whole, f"{SHARE:.0%} of the memory of {where}")


def _gib(name: str, value: Any) -> float:
    """Convert a number of GiB to bytes.

    Raises:
        TypeError, ValueError: the value is not a number, or not positive.
    """
    if not is_number(value):
        raise TypeError(f"{name} must be a number of GiB, got {quoted(value)}")
    if not value > 0:  # False for NaN
        raise ValueError(f"{name} must be a positive number of GiB, got {quoted(value)}")
    return float(value) * _GIB


@lru_cache(1)
def machine_memory() -> int:
    """Return the number of bytes of memory that this process may use.

    It is the memory of the machine, or the limit of the container (a Linux control group)
    or of the address space (``ulimit -v``) if that is lower.
    """
    if not hasattr(os, "sysconf") or resource is None:  # on Windows
        return 2**63
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _GROUP_FILES:
        try:
            found.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # the file is missing or says "max": no limit
            continue
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        found.append(space)
    return min(found)


def refuse_beyond(
    limit: MemoryLimit,
    what: str,
    parts: Mapping[str, int],
    lower: Mapping[str, Iterable[str]],
    *,
    has_argument: bool = True,
) -> None:
    """Raise an error if more memory is needed than the limit.

    Args:
        limit: the limit.
        what: object that needs the memory, for the message.
        parts: bytes by purpose.
        lower: arguments to lower for each purpose, such as ``"num_envs=4"``.
        has_argument: whether ``max_memory`` can raise the limit.

    Raises:
        ValueError: the sum of the parts exceeds the limit. The message says how much each
            part needs, what to lower, and how to raise the limit.
    """
    # Sizes that no float can hold are replaced by one that is beyond every limit.
    parts = {name: min(size, 2**200) for name, size in parts.items()}
    total = sum(parts.values())
    if total <= limit.size:
        return
    largest = sorted(parts, key=lambda name: -parts[name])
    shown = [name for name in largest if parts[name] >= 0.05 * total]
    needs = ", ".join(f"{size_text(parts[name])} for {name}" for name in shown)
    advice = dict.fromkeys(each for name in shown[:2] for each in lower.get(name, ()))
    argument = "max_memory=... or " if has_argument else ""
    unit = "both in GiB" if has_argument else "in GiB"
    raise ValueError(
        f"{what} would need about {size_text(total)} of memory ({needs}), and the limit is "
        f"{size_text(limit.size)} ({limit.origin}); lower {' or '.join(advice)}, or raise "
        f"the limit by {argument}the environment variable {VARIABLE}, {unit}"
    )


def refuse_count(name: str, count: int, what: str, size: float) -> None:
    """Raise an error if a number of objects needs more memory than the limit.

    Args:
        name: name of the argument that is the number, for the message.
        count: its value.
        what: name of the objects, for the message.
        size: approximate size of one object in bytes.

    Raises:
        ValueError: they need more; the message says what to lower.
    """
    given = f"{name}={count}"
    refuse_beyond(
        limit_of(), given, {what: math.ceil(count * size)}, {what: [given]},
        has_argument=False,
    )  # fmt: skip


def size_text(size: float) -> str:
    """Return a number of bytes as text, such as ``"3.2 GiB"``."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} PiB" if math.isfinite(size) else "infinite"
