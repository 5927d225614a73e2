"""Samplers of text and names that every Python has, for the selection of policies.

The English text is Python's built-in help, the names are those of Unicode characters.
Samplers map ``(split, generator, n)`` to ``n`` examples: inputs and targets.
"""

from __future__ import annotations

import unicodedata
import zlib
from functools import cache

import numpy as np
import torch

from optenv.tasks.text import encode

from .problem import Batch, Split

#: Characters in each stretch of the text; every fourth stretch is for validation.
STRETCH = 4096
#: General categories of characters into which names are classified.
CATEGORIES = ("Ll", "Lo", "Lu", "Mn", "Nd", "No", "Sm", "So")
#: Number of bins of the hashed trigrams of a name's letters.
TRIGRAMS = 192
#: First words of names that only differ by a code or a syllable.
_SERIES = ("CJK", "HANGUL", "TANGUT", "NUSHU", "KHITAN", "VARIATION", "EGYPTIAN")


@cache
def _text() -> np.ndarray:
    from pydoc_data.topics import topics  # left out of some small builds of Python

    joined = "\n".join(topics[name] for name in sorted(topics))
    return encode(joined.encode("ascii", "replace"))


def _passages(split: Split, rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    text = _text()
    groups = len(text) // (4 * STRETCH)
    within = rng.integers(3, size=n) if split == "train" else np.full(n, 3)
    stretch = rng.integers(groups, size=n) * 4 + within
    start = stretch * STRETCH + rng.integers(STRETCH - length + 1, size=n)
    return text[start[:, None] + np.arange(length)]


def sentences(split: Split, rng: np.random.Generator, n: int, length: int) -> Batch:
    """Sample characters ``[n, length]``, and for each the next one ``[n, length]``."""
    codes = torch.from_numpy(_passages(split, rng, n, length + 1))
    return codes[:, :-1], codes[:, 1:]


def contexts(split: Split, rng: np.random.Generator, n: int, length: int) -> Batch:
    """Sample characters ``[n, length]``, and the one that follows them ``[n]``."""
    inputs, targets = sentences(split, rng, n, length)
    return inputs, targets[:, -1]


@cache
def _names() -> tuple[np.ndarray, list[np.ndarray]]:
    """Return trigram counts of all names ``[N, 192]``, and the rows of each category.

    Rows are in random order.
    """
    counts, members = [], [[] for _ in CATEGORIES]  # type: ignore[var-annotated]
    for code in range(0x20000):
        character = chr(code)
        category, name = unicodedata.category(character), unicodedata.name(character, "")
        if category not in CATEGORIES or not name or name.startswith(_SERIES):
            continue
        row = np.zeros(TRIGRAMS, np.float32)
        for i in range(len(name) - 2):
            row[zlib.crc32(name[i : i + 3].encode()) % TRIGRAMS] += 1
        members[CATEGORIES.index(category)].append(len(counts))
        counts.append(np.sqrt(row))
    rng = np.random.default_rng(0)
    return np.stack(counts), [rng.permutation(rows) for rows in members]


def names(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample roots of hashed trigram counts ``[n, 192]``, and categories ``[n]``."""
    counts, members = _names()
    labels = rng.integers(len(CATEGORIES), size=n)
    sizes = np.array([len(rows) for rows in members])[labels]
    cut = sizes // 4
    low, high = (0 * cut, cut) if split == "validation" else (cut, sizes)
    within = rng.integers(low, high)
    rows = np.array([members[label][i] for label, i in zip(labels, within, strict=True)])
    return torch.from_numpy(counts[rows]), torch.from_numpy(labels)
