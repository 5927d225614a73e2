"""Digests of the standard sets, which detect changes of their generators.

The digest of a set depends on the structures and seeds of its instances. Its summary
depends on the examples of the first few: numbers that hardly depend on the platform, and
are compared with a tolerance. Both are in a table, ``pinned.json``, for the version
:data:`STANDARD_VERSION`. A deliberate change of a set needs a new version; results of
different versions are not compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import tasks
from ..atomic import write_text
from ..ranges import log_uniform
from ..tasks.characters import CharacterModel
from .instance import Instance
from .sets import make

__all__ = [
    "STANDARD_VERSION",
    "TABLE",
    "changed",
    "digest",
    "pin",
    "pinned",
    "summary",
    "write",
]

#: Version of the standard sets.
STANDARD_VERSION = 1

#: File with their digests and summaries.
TABLE = Path(__file__).with_name("pinned.json")

#: Number of instances of a set whose examples are summarized.
SUMMARIZED = 2

#: Significant digits of numbers in a digest, and in a summary.
DIGEST_DIGITS, SUMMARY_DIGITS = 6, 5

#: Largest accepted difference of numbers of a summary, relative plus absolute. Platforms
#: round sums and exponentials differently; a changed generator makes larger differences.
TOLERANCE = 1e-3


def digest(instances: Iterable[Instance]) -> str:
    """Return a digest of structures and seeds of instances: 16 hexadecimal digits."""
    lines = [json.dumps(_rounded(each.to_dict()), sort_keys=True) for each in instances]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def summary(instances: Iterable[Instance]) -> list[float]:
    """Return numbers that summarize the examples of instances.

    For the inputs and for the targets of each instance, they are count, mean, root mean
    square, and a sum weighted by position. Texts are left out, since they come from the
    standard library of the running Python.
    """
    numbers: list[float] = []
    for each in instances:
        if isinstance(each.task, CharacterModel):
            continue
        key = each.generator()
        log_uniform((1.0, 1.0), key)  # the base learning rate is drawn first
        data = each.task.sample([key])
        for part in (data.inputs, data.targets):
            numbers += _summed_up(part[data.rows[0]])
    return [_significant(x, SUMMARY_DIGITS) for x in numbers]


def pinned() -> dict[str, dict[str, Any]]:
    """Return ``digest`` and ``summary`` of each standard set in the table, by its name.

    Raises:
        ValueError: the table is for another version.
    """
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    if table["version"] != STANDARD_VERSION:
        raise ValueError(
            f"{TABLE.name} is of version {table['version']} of the standard sets, and this "
            f"is version {STANDARD_VERSION}; `python -m optenv.instances check --write` "
            "writes it"
        )
    sets: dict[str, dict[str, Any]] = table["sets"]
    return sets


def pin(name: str) -> dict[str, Any]:
    """Compute ``digest`` and ``summary`` of a standard set.

    Args:
        name: family and split, such as ``"cnn/train"``.
    """
    instances = make(name)
    return {"digest": digest(instances), "summary": summary(instances[:SUMMARIZED])}


def changed(name: str) -> str:
    """Return how a standard set differs from the table; an empty string if it does not.

    Args:
        name: family and split, such as ``"cnn/train"``.
    """
    expected, found = pinned().get(name), pin(name)
    if expected is None:
        return f"{name} is not in the table"
    if found["digest"] != expected["digest"]:
        return f"structures or seeds of {name} have changed"
    same = len(found["summary"]) == len(expected["summary"]) and np.allclose(
        found["summary"], expected["summary"], rtol=TOLERANCE, atol=TOLERANCE
    )
    return "" if same else f"examples of {name} have changed"


def write() -> None:
    """Write the table of all standard sets for the present version."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(pin(name))}"
        for name in (f"{f}/{split}" for f, of in tasks.families().items() for split in of)
    ]
    text = ",\n".join(lines)
    write_text(TABLE, f'{{"version": {STANDARD_VERSION}, "sets": {{\n{text}\n}}}}\n')


def _summed_up(part: Tensor) -> list[float]:
    """Return count, mean, root mean square and weighted sum of a tensor's elements."""
    values = part.numpy().astype(np.float64).ravel()
    if not values.size:
        return [0.0] * 4
    weights = np.cos(np.arange(values.size, dtype=np.float64)) / np.sqrt(values.size)
    size = float(values.size)
    return [
        size,
        float(values.mean()),
        float(np.sqrt((values**2).mean())),
        float(weights @ values),
    ]


def _rounded(value: Any) -> Any:
    """Return a JSON value with its numbers rounded."""
    if isinstance(value, float):
        return _significant(value, DIGEST_DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
