"""Handwritten characters of many alphabets (Lake et al., 2015), from the user's disk."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .few_shot import Classes


def omniglot(paths: str | Path | Sequence[str | Path], side: int = 28) -> Classes:
    """The characters of archives or folders ``alphabet/character/drawing.png``.

    An alphabet that is in several of them is taken from the first. Ink is 1, paper is 0.

    Args:
        paths: zip archives as published (``images_background.zip``), or folders of what
            is in them; or one of either.
        side: pixels that pictures are reduced to.

    Raises:
        ValueError: there are no paths; one holds no drawings, or is a file but no zip
            archive; a character has fewer drawings than others.
        OSError: a path, or a picture, cannot be read.
    """
    from PIL import Image

    if isinstance(paths, str | Path):
        paths = [paths]
    if not len(paths):
        raise ValueError(f"paths must be archives or folders, at least one, got {paths!r}")
    drawn: dict[tuple[str, str], list[np.ndarray]] = {}
    for path in paths:
        found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for name, data in _drawings(Path(path)):
            alphabet, character = name.parts[-3:-1]
            picture = Image.open(io.BytesIO(data)).convert("L")
            small = picture.resize((side, side), Image.Resampling.BOX)
            found[alphabet, character].append(1 - np.asarray(small, np.float32) / 255)
        if not found:
            archives = sorted(each.name for each in Path(path).glob("*.zip"))
            hint = f"; give its archives themselves: {', '.join(archives)}"
            raise ValueError(
                f"{str(path)!r} holds no drawings alphabet/character/drawing.png"
                f"{hint if archives else ''}"
            )
        known = {alphabet for alphabet, _ in drawn}
        drawn |= {key: value for key, value in found.items() if key[0] not in known}
    counts = {len(pictures) for pictures in drawn.values()}
    if len(counts) > 1:
        raise ValueError(
            f"characters must have equally many drawings, got {sorted(counts)}"
        )
    keys = sorted(drawn)
    pictures = np.stack([np.stack(drawn[key]) for key in keys])
    return Classes(pictures, tuple(alphabet for alphabet, _ in keys))


def _drawings(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of each drawing, in order.

    Raises:
        ValueError: it is neither a folder nor an archive.
        OSError: it cannot be read.
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
