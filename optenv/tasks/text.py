"""Characters of text files: Python's own source code, or a user's file."""

from __future__ import annotations

import sysconfig
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["CHARACTERS", "FILES", "encode", "of_file", "of_split", "source"]

#: Number of different characters: those of printable ASCII, and newline.
CHARACTERS = 96

#: Files of the standard library, by split. No file is in two splits, and none is in a task
#: of the benchmark. All are plain modules in Python 3.11 to 3.14.
FILES: dict[str, tuple[str, ...]] = {
    "train": (
        "ast.py", "calendar.py", "codecs.py", "collections/__init__.py",
        "concurrent/futures/process.py", "contextlib.py", "csv.py", "dataclasses.py",
        "email/_header_value_parser.py", "enum.py", "functools.py", "gettext.py",
        "http/client.py", "http/cookiejar.py", "imaplib.py", "logging/handlers.py",
        "multiprocessing/managers.py", "multiprocessing/pool.py", "ntpath.py", "os.py",
        "pickletools.py", "platform.py", "re/_parser.py", "selectors.py", "smtplib.py",
        "tokenize.py", "unittest/mock.py", "urllib/request.py", "xml/dom/minidom.py",
    ),
    "test": (
        "concurrent/futures/thread.py", "fractions.py", "heapq.py", "http/server.py",
        "logging/config.py", "multiprocessing/connection.py", "pdb.py", "re/_compiler.py",
        "shlex.py", "traceback.py", "unittest/case.py", "urllib/parse.py", "weakref.py",
        "xmlrpc/client.py",
    ),
    "ood": (
        "_pyio.py", "bdb.py", "copy.py", "gzip.py", "html/parser.py",
        "importlib/_bootstrap_external.py", "locale.py", "mimetypes.py", "pprint.py",
        "trace.py", "uuid.py", "xml/etree/ElementTree.py",
    ),
}  # fmt: skip

#: Fraction of each file, at its end, that is for validation.
VALIDATION = 0.1


def encode(text: bytes) -> np.ndarray:
    """Encode printable ASCII and newlines as int64 in [0, 96), other bytes as blanks."""
    raw = np.frombuffer(text, np.uint8).astype(np.int64)
    codes = np.where((raw >= 32) & (raw < 127), raw - 32, 0)
    return np.where(raw == 10, CHARACTERS - 1, codes)


@cache
def source(name: str) -> np.ndarray:
    """Return a file of the standard library, encoded by :func:`encode`.

    Args:
        name: path of the file within the library.

    Raises:
        FileNotFoundError: this Python has no such file.
    """
    path = Path(sysconfig.get_path("stdlib"), name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: text tasks need Python's own source")
    return encode(path.read_bytes())


@cache
def of_split(split: str) -> tuple[Tensor, int]:
    """Return the text of the standard library's files of a split.

    Args:
        split: key of :data:`FILES`.

    Returns:
        Codes ``[L]`` int64, and the number of those at the beginning that are for training.
    """
    return _divided([source(name) for name in FILES[split]])


def of_file(path: str) -> tuple[Tensor, int]:
    """Return the text of a file, in the form of :func:`of_split`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no text file {path!r}")
    status = Path(path).stat()
    return _of_file(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _of_file(path: str, modified: int, size: int) -> tuple[Tensor, int]:
    """Read a text file, unless this version of it was read before."""
    return _divided([encode(Path(path).read_bytes())])


def _divided(texts: list[np.ndarray]) -> tuple[Tensor, int]:
    """Join the beginnings of texts, then their ends, which are for validation."""
    borders = [round(len(text) * (1 - VALIDATION)) for text in texts]
    begins = [text[:border] for text, border in zip(texts, borders, strict=True)]
    ends = [text[border:] for text, border in zip(texts, borders, strict=True)]
    return torch.from_numpy(np.concatenate(begins + ends)), sum(borders)
