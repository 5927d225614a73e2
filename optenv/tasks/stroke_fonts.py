"""Characters of the Hershey stroke fonts, drawn with random distortions.

This needs the packages ``hershey-fonts`` and ``pillow`` (extra ``train``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..memory_limit import refuse_count

__all__ = ["TEST", "TRAINING", "Character", "canonical_form", "characters", "drawings"]

#: Fonts of the package ``hershey-fonts`` to learn on.
TRAINING = (
    "futural", "cursive", "cyrillic", "gothgbt", "gothicger", "greek", "japanese",
    "markers", "mathlow", "music", "rowmand", "scriptc", "symbolic", "timesi", "timesr",
)  # fmt: skip

#: Held-out fonts.
TEST = ("astrology", "cyrilc_1", "gothgrt", "gothicita", "greeks", "mathupp",
        "meteorology", "scripts", "timesrb")  # fmt: skip

#: Characters of a smaller extent, in font units, are left out: spaces and dots.
MIN_EXTENT = 8


class Character(NamedTuple):
    """A character of a font.

    Attributes:
        font: name of the font.
        key: numbers of the font and of the character.
        strokes: polylines ``[n, 2]``.
    """

    font: str
    key: tuple[int, int]
    strokes: list[np.ndarray]


def characters(fonts: Sequence[str], without: Sequence[str] = ()) -> list[Character]:
    """Read the characters of stroke fonts.

    Fonts share characters, and some characters are others rotated by a right angle. Of
    characters with the same strokes, only the first is kept.

    Args:
        fonts: names of fonts of the package ``hershey-fonts``.
        without: names of fonts whose characters are left out.

    Raises:
        ValueError: a font does not exist.
        TypeError: ``fonts`` or ``without`` is a string.
        ImportError: the package is not installed.
    """
    for names in (fonts, without):
        if isinstance(names, str):
            raise TypeError(f"fonts must be a list of names, got {names!r}")
    known = {canonical_form(character.strokes) for character in _read(without)}
    found = []
    for character in _read(fonts):
        form = canonical_form(character.strokes)
        if form not in known:
            known.add(form)
            found.append(character)
    return found


def drawings(character: Character, side: int, count: int, seed: int = 0) -> np.ndarray:
    """Draw a character several times.

    Each drawing jitters the points of the strokes, and rotates, scales, slants and shifts
    the character.

    Args:
        character: the character.
        side: width and height of a picture in pixels.
        count: number of drawings.
        seed: random seed, used together with the font and the character.

    Returns:
        Pictures ``[count, side, side]`` float32, ink 1 and paper 0.

    Raises:
        ValueError: the pictures need more memory than the limit.
    """
    refuse_count("count", count, "the pictures", 2 * 4 * side**2)
    rng = np.random.default_rng((seed, *character.key))
    return np.stack([_draw(character.strokes, side, rng) for _ in range(count)])


def _read(fonts: Sequence[str]) -> Iterator[Character]:
    """Yield the characters of fonts, except those that are too small."""
    valid = _reader().default_font_names
    for font in fonts:
        if font not in valid:
            raise ValueError(f"unknown font {font!r}; valid fonts: {', '.join(valid)}")
        yield from _read_font(font, valid.index(font))


@cache
def _reader() -> Any:
    """Return the package's reader.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from HersheyFonts import HersheyFonts
    except ImportError as error:
        raise ImportError(
            "characters of stroke fonts need a package: pip install hershey-fonts"
        ) from error
    return HersheyFonts()


@cache
def _read_font(font: str, index: int) -> tuple[Character, ...]:
    """Read the characters of a font, except those that are too small."""
    reader = _reader()
    reader.load_default_font(font)
    found = []
    for character in sorted(reader.all_glyphs):
        strokes = [
            np.array(stroke, float)
            for stroke in reader.strokes_for_text(character)
            if len(stroke) > 1
        ]
        if strokes and np.ptp(np.concatenate(strokes), axis=0).max() >= MIN_EXTENT:
            found.append(Character(font, (index, ord(character)), strokes))
    return tuple(found)


def canonical_form(strokes: list[np.ndarray]) -> tuple[object, ...]:
    """Return a key that is invariant to position, size, stroke direction and right angles.

    Args:
        strokes: polylines ``[n, 2]`` of a character.
    """
    points = np.concatenate(strokes)
    middle, size = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max()
    forms = []
    for cosine, sine in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        matrix = np.array([[cosine, -sine], [sine, cosine]])
        lines = [
            ((stroke - middle) @ matrix.T / size * 100).round().astype(int).tolist()
            for stroke in strokes
        ]
        # A stroke and its reverse look the same.
        directed = (min(line, line[::-1]) for line in lines)
        forms.append(tuple(sorted(tuple(map(tuple, line)) for line in directed)))
    return min(forms)


def _draw(strokes: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one picture ``[side, side]``, ink 1 and paper 0."""
    from PIL import Image, ImageDraw

    # 1. A random affine map of the character onto the unit square.
    points = np.concatenate(strokes)
    size = np.ptp(points, axis=0).max()
    middle = (points.max(0) + points.min(0)) / 2
    angle, slant = rng.normal(0, 0.12), rng.normal(0, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.diag(0.7 * np.exp(rng.normal(0, 0.1, 2)))
    matrix = turn @ np.array([[1, slant], [0, 1]]) @ scale
    shift = 0.5 + rng.normal(0, 0.03, 2)
    # 2. The strokes with jittered points, on a canvas of four times the size.
    large = 4 * side
    canvas = Image.new("L", (large, large))
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        line = (stroke - middle) / size + rng.normal(0, 0.02, stroke.shape)
        line = (line @ matrix.T + shift) * large
        flat = [float(x) for x in line.flatten()]
        pen.line(flat, fill=255, width=max(1, large // 18), joint="curve")
    # 3. Reduction, which smooths the edges.
    small = canvas.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255
