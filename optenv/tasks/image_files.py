"""Image data sets on the user's disk: Fashion-MNIST and Omniglot.

Their files are searched for in a given folder, and in subfolders with the usual names.

Fashion-MNIST (Xiao et al., 2017)
    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, uncompressed or as ``.gz``; also in ``fashion-mnist`` or
    ``FashionMNIST/raw``.
Omniglot (Lake et al., 2015)
    ``images_background*.zip`` and ``images_evaluation.zip``, or folders of these names;
    also in ``omniglot``, ``omniglot-small`` or ``omniglot-py``.

The folder is given as an argument or by the environment variable ``OPTENV_DATA``.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

__all__ = [
    "FOLDER_VARIABLE",
    "LOADERS",
    "data_folder",
    "fashion_mnist",
    "omniglot",
    "read_drawings",
    "shrink",
]

#: Environment variable with the folder of data sets.
FOLDER_VARIABLE = "OPTENV_DATA"

#: Subfolders of the given folder in which a data set may be.
FASHION_FOLDERS = ("fashion-mnist", "FashionMNIST/raw")
OMNIGLOT_FOLDERS = ("omniglot", "omniglot-small", "omniglot-py")

#: Width and height of the drawings of Omniglot in pixels.
DRAWING_SIDE = 105


def data_folder(folder: str | None = None) -> Path:
    """Return the folder of data sets.

    Args:
        folder: path of the folder; by default (None), the value of the environment variable
            ``OPTENV_DATA``.

    Raises:
        ValueError: neither is given.
        FileNotFoundError: there is no such folder.
    """
    named = folder if folder is not None else os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise ValueError(
            "data sets on disk need a folder: give folder=, or set the environment "
            f"variable {FOLDER_VARIABLE}"
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder of data sets {str(path)!r}")
    return path


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Reduce images ``[n, S, S]`` to ``[n, side, side]`` float32 by means over areas.

    A pixel that lies in several areas counts in part for each of them.

    Args:
        images: square images.
        side: new width and height in pixels, at most ``S``.
    """
    size = images.shape[-1]
    if not 1 <= side <= size:
        raise ValueError(f"side must be in [1, {size}], got {side}")
    # Overlap of each small pixel with each large one, in units of a small one.
    edges = np.arange(side + 1) / side * size
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = (overlap.clip(0.0) * (side / size)).astype(np.float32)
    return np.asarray(weights @ images.astype(np.float32) @ weights.T)


def _find(folder: Path, inner: tuple[str, ...], *patterns: str) -> list[Path]:
    """Return the files or folders that match, from the first place that has any."""
    for place in (folder, *(folder / name for name in inner)):
        found = [path for pattern in patterns for path in sorted(place.glob(pattern))]
        if found:
            return found
    names = ", ".join(patterns)
    raise FileNotFoundError(
        f"none of {names} in {str(folder)!r} or its folders {', '.join(inner)}"
    )


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes, with or without compression.

    Raises:
        ValueError: the file is not an IDX file of bytes, or is cut off.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no complete gzip file: {error}") from error
    raw = path.read_bytes() if raw is None else raw
    header = 4 * (1 + dimensions)
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path} is no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) - header != int(np.prod(shape)):
        raise ValueError(
            f"{path} should hold {int(np.prod(shape))} bytes after its header, "
            f"got {len(raw) - header}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def fashion_mnist(folder: Path | str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read Fashion-MNIST.

    Args:
        folder: folder of the files.
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000).

    Returns:
        Images ``[n, 28, 28]`` uint8 and labels ``[n]`` int64.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or there are more images than labels or fewer.
    """
    stem = {"train": "train", "test": "t10k"}[split]
    images, labels = (
        _read_idx(_find(Path(folder), FASHION_FOLDERS, name, f"{name}.gz")[0], dimensions)
        for name, dimensions in (
            (f"{stem}-images-idx3-ubyte", 3),
            (f"{stem}-labels-idx1-ubyte", 1),
        )
    )
    if len(images) != len(labels):
        raise ValueError(
            f"Fashion-MNIST in {str(folder)!r} has {len(images)} images, but "
            f"{len(labels)} labels"
        )
    return images, labels.astype(np.int64)


def read_drawings(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield name and content of each PNG file of a folder or an archive, in order.

    Raises:
        ValueError: the path is neither a folder nor a zip archive.
        OSError: the path cannot be read.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*/*/*.png")):
            yield PurePosixPath(file.as_posix()), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".png"):
                    yield PurePosixPath(name), archive.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{str(path)!r} is neither a folder nor a zip archive that can be read: {error}"
        ) from error


def _all_drawings(folder: str) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """Read all drawings ``[n, 105, 105]`` uint8, ink 1, and alphabet and character of each.

    An alphabet that several archives contain is taken from the first.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Omniglot needs Pillow: pip install pillow") from error
    paths = _find(
        Path(folder), OMNIGLOT_FOLDERS, "images_background*", "images_evaluation*"
    )
    images: list[np.ndarray] = []
    classes: list[tuple[str, str]] = []
    for path in paths:
        known = {alphabet for alphabet, _ in classes}
        for name, content in read_drawings(path):
            alphabet, character = name.parts[-3:-1]
            if alphabet in known:
                continue
            with Image.open(io.BytesIO(content)) as image:
                ink = 1 - np.asarray(image.convert("1"), np.uint8)
            if ink.shape != (DRAWING_SIDE, DRAWING_SIDE):
                raise ValueError(
                    f"{name} in {path} is {ink.shape[1]} × {ink.shape[0]}, not "
                    f"{DRAWING_SIDE} × {DRAWING_SIDE}"
                )
            images.append(ink)
            classes.append((alphabet, character))
    if not images:
        raise ValueError(
            f"no drawings alphabet/character/drawing.png in {', '.join(map(str, paths))}"
        )
    return np.stack(images), tuple(classes)


def omniglot(folder: Path | str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read Omniglot's drawings of the alphabets of a split.

    Of the alphabets, sorted by name, every third belongs to ``"test"`` and the others to
    ``"train"``. So the splits share no character.

    Args:
        folder: folder of the archives.
        split: ``"train"`` or ``"test"``.

    Returns:
        Drawings ``[n, 105, 105]`` uint8, ink 1 and paper 0, and characters ``[n]`` int64.

    Raises:
        FileNotFoundError: there are no archives.
        ValueError: an archive cannot be read, or the split has no alphabet.
        ImportError: Pillow is not installed.
    """
    images, classes = _all_drawings(str(folder))
    alphabets = sorted({alphabet for alphabet, _ in classes})
    mine = {a for i, a in enumerate(alphabets) if (i % 3 == 2) == (split == "test")}
    if not mine:
        raise ValueError(
            f"the {split} split of Omniglot is empty: {str(folder)!r} has only the "
            f"alphabets {', '.join(alphabets)}"
        )
    rows = [row for row, (alphabet, _) in enumerate(classes) if alphabet in mine]
    numbers = {pair: n for n, pair in enumerate(sorted({classes[row] for row in rows}))}
    labels = np.array([numbers[classes[row]] for row in rows])
    return images[rows], labels


#: Functions ``(folder, split) -> (images, labels)``, by the name of their source.
LOADERS: dict[str, Callable[[Path | str, str], tuple[np.ndarray, np.ndarray]]] = {
    "fashion-mnist": fashion_mnist,
    "omniglot": omniglot,
}
