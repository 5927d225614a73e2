"""Samplers of text that every Python has: the source code of its standard library.

Samplers map ``(split, generator, n)`` to ``n`` examples: inputs and targets. The splits
share no character.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from optenv.tasks.text import CHARACTERS, source

from .problem import Batch, Split

#: Characters in each stretch of a module; every fourth stretch is for validation.
STRETCH = 256
#: Characters in a snippet.
SNIPPET = 32
BIGRAM_BINS = 160
SNIPPET_FEATURES = CHARACTERS + BIGRAM_BINS

#: The language models' text. All are plain modules in Python 3.11 to 3.14.
TRAIN_FILES = (
    "argparse.py", "asyncio/base_events.py", "asyncio/streams.py", "asyncio/tasks.py",
    "configparser.py", "difflib.py", "doctest.py", "email/message.py", "inspect.py",
    "ipaddress.py", "json/decoder.py", "json/encoder.py", "logging/__init__.py",
    "mailbox.py", "optparse.py", "pickle.py", "shutil.py", "socket.py", "subprocess.py",
    "tarfile.py", "threading.py", "typing.py",
)  # fmt: skip
VALIDATION_FILES = (
    "asyncio/locks.py", "email/header.py", "ftplib.py", "random.py", "statistics.py",
    "tempfile.py",
)  # fmt: skip
#: The classes of the snippet classifier.
MODULES = (
    "_pydecimal.py", "argparse.py", "doctest.py", "inspect.py", "mailbox.py",
    "subprocess.py", "tarfile.py", "typing.py",
)  # fmt: skip


@cache
def _text(split: Split) -> np.ndarray:
    files = TRAIN_FILES if split == "train" else VALIDATION_FILES
    return np.concatenate([source(name) for name in files])


def windows(text: np.ndarray, rng: np.random.Generator, n: int, length: int) -> Batch:
    """Sample stretches of a text ``[n, length]``, and for each character the next one."""
    start = rng.integers(len(text) - length, size=(n, 1))
    codes = torch.from_numpy(text[start + np.arange(length + 1)])
    return codes[:, :-1], codes[:, 1:]


def sentences(split: Split, rng: np.random.Generator, n: int, length: int) -> Batch:
    """Sample characters ``[n, length]``, and for each the next one ``[n, length]``."""
    return windows(_text(split), rng, n, length)


def contexts(split: Split, rng: np.random.Generator, n: int, length: int) -> Batch:
    """Sample characters ``[n, length]``, and the one that follows them ``[n]``."""
    inputs, targets = sentences(split, rng, n, length)
    return inputs, targets[:, -1]


@cache
def _modules() -> tuple[np.ndarray, np.ndarray]:
    """Return the text of all modules, and each one's offset, followed by the text's end."""
    texts = [source(name) for name in MODULES]
    return np.concatenate(texts), np.cumsum([0] + [len(text) for text in texts])


def snippet_starts(
    split: Split, rng: np.random.Generator, labels: np.ndarray
) -> np.ndarray:
    """Sample the offsets ``[n]`` of snippets in the text of all modules.

    Args:
        split: ``"train"`` uses the first three of every four stretches, ``"validation"``
            the last.
        rng: generator.
        labels: module of each snippet ``[n]``.
    """
    begin = _modules()[1]
    groups = np.diff(begin)[labels] // (4 * STRETCH)
    within = rng.integers(3, size=len(labels)) if split == "train" else 3
    stretch = rng.integers(groups) * 4 + within
    offset = rng.integers(STRETCH - SNIPPET + 1, size=len(labels))
    return begin[labels] + stretch * STRETCH + offset


def noisy_snippets(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample :func:`snippets`; a fifth of the training snippets have a random label."""
    inputs, labels = snippets(split, rng, n)
    if split == "train":
        wrong = torch.from_numpy(rng.random(n) < 0.2)
        random = torch.from_numpy(rng.integers(len(MODULES), size=n))
        labels = torch.where(wrong, random, labels)
    return inputs, labels


def snippets(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample roots of character and hashed bigram counts ``[n, 256]``, and modules."""
    labels = rng.integers(len(MODULES), size=n)
    starts = snippet_starts(split, rng, labels)
    codes = _modules()[0][starts[:, None] + np.arange(SNIPPET)]
    bigrams = (codes[:, :-1] * 31 + codes[:, 1:] * 7919) % BIGRAM_BINS + CHARACTERS
    width = SNIPPET_FEATURES
    cells = np.concatenate([codes, bigrams], 1) + np.arange(n)[:, None] * width
    counts = np.bincount(cells.reshape(-1), minlength=n * width).reshape(n, width)
    return torch.from_numpy(np.sqrt(counts, dtype=np.float32)), torch.from_numpy(labels)
