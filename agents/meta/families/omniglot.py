"""Omniglot: handwritten characters of many alphabets, from the user's disk."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optenv.tasks.image_files import read_drawings

from .few_shot import Classes


def omniglot(paths: str | Path | Sequence[str | Path], side: int = 28) -> Classes:
    """Load the characters of Omniglot (Lake et al., 2015).

    Files are ``alphabet/character/drawing.png``. An alphabet that several paths contain is
    taken from the first of them.

    Args:
        paths: path of a zip archive as published (``images_background.zip``) or of a folder
            with its content, or several such paths.
        side: width and height in pixels to which pictures are reduced.

    Returns:
        Classes with pictures ``[C, n, side, side]``, ink 1 and paper 0, each in the group
        of its alphabet.

    Raises:
        ValueError: there are no paths; a path has no drawings, or is a file but not a zip
            archive; characters have different numbers of drawings.
        OSError: a path or a picture cannot be read.
    """
    from PIL import Image

    if isinstance(paths, str | Path):
        paths = [paths]
    if not len(paths):
        raise ValueError(f"paths must be archives or folders, at least one, got {paths!r}")
    # 1. Drawings by alphabet and character; the first path with an alphabet provides it.
    drawings: dict[tuple[str, str], list[np.ndarray]] = {}
    for path in paths:
        loaded: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for name, data in read_drawings(Path(path)):
            alphabet, character = name.parts[-3:-1]
            picture = Image.open(io.BytesIO(data)).convert("L")
            small = picture.resize((side, side), Image.Resampling.BOX)
            loaded[alphabet, character].append(1 - np.asarray(small, np.float32) / 255)
        if not loaded:
            archives = sorted(file.name for file in Path(path).glob("*.zip"))
            hint = f"; give its archives themselves: {', '.join(archives)}"
            raise ValueError(
                f"{str(path)!r} holds no drawings alphabet/character/drawing.png"
                f"{hint if archives else ''}"
            )
        known = {alphabet for alphabet, _ in drawings}
        drawings |= {key: value for key, value in loaded.items() if key[0] not in known}
    # 2. One array, which needs the same number of drawings of each character.
    counts = {len(pictures) for pictures in drawings.values()}
    if len(counts) > 1:
        raise ValueError(
            f"characters must have equally many drawings, got {sorted(counts)}"
        )
    keys = sorted(drawings)
    pictures = np.stack([np.stack(drawings[key]) for key in keys])
    return Classes(pictures, tuple(alphabet for alphabet, _ in keys))
