"""Tasks on data that no package ships, for users who have them in a folder.

The files are ``tinyshakespeare.txt`` (1,115,394 characters) and, in the folder or its
subfolder ``omniglot-small``, Omniglot's small background set
``images_background_small1.zip`` (Lake et al., 2015; 136 characters by 20 drawers).
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from optenv.tasks.text import encode

from .networks import CharRecurrent, CharTransformer, convnet, cross_entropy
from .problem import Batch, HeldoutTask, Split
from .text import windows

__all__ = ["folder_tasks"]

TEXT = "tinyshakespeare.txt"
IMAGES = "images_background_small1.zip"
#: Fraction of the text, at its end, that is for validation.
TEXT_VALIDATION = 0.1
#: Least number of characters of the text; a shorter one cannot be Shakespeare.
MIN_TEXT = 1000
#: First of 20 drawers whose images are for validation, as are all after it.
FIRST_VALIDATION_DRAWER = 16
#: Pixels on a side of an image, and of the squares that are averaged.
SIDE, SQUARE = 21, 5


@cache
def _text(path: Path) -> np.ndarray:
    return encode(path.read_bytes())


def _sentences(
    split: Split, rng: np.random.Generator, n: int, path: Path, length: int
) -> Batch:
    """Sample characters ``[n, length]``, and for each the next one ``[n, length]``."""
    text = _text(path)
    border = round(len(text) * (1 - TEXT_VALIDATION))
    return windows(text[:border] if split == "train" else text[border:], rng, n, length)


@cache
def _drawings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read images ``[N, 21, 21]`` (ink is 1), their characters and drawers ``[N]``."""
    from PIL import Image

    images, characters, drawers = [], [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    ink = 1.0 - np.asarray(image.convert("1"), np.float32)
                squares = ink.reshape(SIDE, SQUARE, SIDE, SQUARE)
                images.append(squares.mean((1, 3)))
                characters.append(name.rsplit("/", 1)[0])
                drawers.append(int(name.rsplit("_", 1)[1].removesuffix(".png")))
    labels = np.unique(characters, return_inverse=True)[1]
    return np.stack(images), labels, np.array(drawers)


def _characters(split: Split, rng: np.random.Generator, n: int, path: Path) -> Batch:
    """Sample images ``[n, 1, 21, 21]`` and characters ``[n]``; splits share no drawer."""
    images, labels, drawers = _drawings(path)
    late = drawers >= FIRST_VALIDATION_DRAWER
    pool = np.flatnonzero(late if split == "validation" else ~late)
    index = rng.choice(pool, n)
    inputs = torch.from_numpy(images[index]).unsqueeze(1)
    return inputs, torch.from_numpy(labels[index])


def _source(path: Path) -> str:
    """Return name and checksum of a file, to distinguish files of the same name."""
    return f"{path.name} {zlib.crc32(path.read_bytes()):08x}"


def folder_tasks(folder: str | Path) -> tuple[HeldoutTask, ...]:
    """Return the tasks on the data in ``folder``; a warning names missing files.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the text is too short, or the images are no zip archive.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    tasks: list[HeldoutTask] = []
    text = folder / TEXT
    if text.is_file():
        if len(_text(text)) < MIN_TEXT:
            raise ValueError(f"{text} has only {len(_text(text))} characters")
        sample, source = partial(_sentences, path=text, length=32), _source(text)
        tasks += [
            HeldoutTask(
                "shakespeare-gru", "real",
                "next character of Tiny Shakespeare, 32 characters",
                "GRU, 64 units", 1500, 16,
                partial(CharRecurrent, nn.GRU, 64), sample, cross_entropy, 512,
                source=source,
            ),
            HeldoutTask(
                "shakespeare-transformer", "real",
                "next character of Tiny Shakespeare, 32 characters",
                "causal transformer, width 32, 1 block",
                1500, 16, CharTransformer, sample, cross_entropy, 512, source=source,
            ),
        ]  # fmt: skip
    else:
        warnings.warn(f"{text} is missing: no tasks on Shakespeare", stacklevel=2)
    candidates = (folder / IMAGES, folder / "omniglot-small" / IMAGES)
    images = next((path for path in candidates if path.is_file()), None)
    if images is not None:
        if not zipfile.is_zipfile(images):
            raise ValueError(f"{images} is not a zip archive")
        tasks.append(
            HeldoutTask(
                "omniglot-cnn", "real",
                "which of 136 Omniglot characters a 21 × 21 drawing shows",
                "CNN, 2 convolutions with BatchNorm, ReLU", 400, 32,
                partial(convnet, SIDE, 136), partial(_characters, path=images),
                cross_entropy, 680, source=_source(images),
            )
        )  # fmt: skip
    else:
        warnings.warn(
            f"{IMAGES} is in neither {folder} nor its omniglot-small: no task on Omniglot",
            stacklevel=2,
        )
    return tuple(tasks)
