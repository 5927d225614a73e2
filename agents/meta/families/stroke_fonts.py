"""Characters of the Hershey fonts, drawn with a pen that is held anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .few_shot import Classes

#: Stroke fonts of the package ``hershey-fonts``, by what they are for.
TRAINING = (
    "futural", "cursive", "cyrillic", "gothgbt", "gothicger", "greek", "japanese",
    "markers", "mathlow", "music", "rowmand", "scriptc", "symbolic", "timesi", "timesr",
)  # fmt: skip
TEST = ("astrology", "cyrilc_1", "gothgrt", "gothicita", "greeks", "mathupp",
        "meteorology", "scripts", "timesrb")  # fmt: skip


def glyphs(
    fonts: Sequence[str],
    side: int = 28,
    drawings: int = 20,
    seed: int = 0,
    without: Sequence[str] = (),
) -> Classes:
    """The characters of some fonts.

    Each drawing moves the points of the strokes a little, and turns, scales, slants and
    shifts the character. Fonts have characters in common, and some turned by a right
    angle: of characters with the same strokes, the first is taken.

    Args:
        fonts: of the package ``hershey-fonts``.
        side: pixels.
        drawings: of each character.
        seed: of the drawings, together with font and character.
        without: fonts whose characters are left out, wherever they are.

    Raises:
        ValueError: there is no such font.
        TypeError: fonts are one string.
        ImportError: the package is not installed.
    """
    for names in (fonts, without):
        if isinstance(names, str):
            raise TypeError(f"fonts must be a list of names, got {names!r}")
    known = {_form(strokes) for _, _, strokes in _characters(without)}
    pictures, groups = [], []
    for font, key, strokes in _characters(fonts):
        form = _form(strokes)
        if form in known:
            continue
        known.add(form)
        rng = np.random.default_rng((seed, *key))
        pictures.append([_draw(strokes, side, rng) for _ in range(drawings)])
        groups.append(font)
    return Classes(np.array(pictures, np.float32), tuple(groups))


def _characters(
    fonts: Sequence[str],
) -> Iterator[tuple[str, tuple[int, int], list[np.ndarray]]]:
    """Font, numbers of font and character, and strokes ``[n, 2]``."""
    from HersheyFonts import HersheyFonts

    reader = HersheyFonts()
    valid = reader.default_font_names
    for font in fonts:
        if font not in valid:
            raise ValueError(f"unknown font {font!r}; valid fonts: {', '.join(valid)}")
        reader.load_default_font(font)
        for character in sorted(reader.all_glyphs):
            strokes = [
                np.array(stroke, float)
                for stroke in reader.strokes_for_text(character)
                if len(stroke) > 1
            ]
            if not strokes or np.ptp(np.concatenate(strokes), axis=0).max() < 8:
                continue  # a space, or a dot
            yield font, (valid.index(font), ord(character)), strokes


def _form(strokes: list[np.ndarray]) -> tuple[object, ...]:
    """What characters have in common that differ by place, size and right angles."""
    points = np.concatenate(strokes)
    middle, size = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max()
    forms = []
    for turn in range(4):
        c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
        matrix = np.array([[c, -s], [s, c]])
        drawn = [
            ((stroke - middle) @ matrix.T / size * 100).round().astype(int).tolist()
            for stroke in strokes
        ]
        # Wherever the pen began.
        ways = (min(line, line[::-1]) for line in drawn)
        forms.append(tuple(sorted(tuple(map(tuple, line)) for line in ways)))
    return min(forms)


def _draw(strokes: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """One picture ``[side, side]``, ink 1 and paper 0."""
    from PIL import Image, ImageDraw

    points = np.concatenate(strokes)
    size = np.ptp(points, axis=0).max()
    middle = (points.max(0) + points.min(0)) / 2
    angle, slant = rng.normal(0, 0.12), rng.normal(0, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.diag(0.7 * np.exp(rng.normal(0, 0.1, 2)))
    matrix = turn @ np.array([[1, slant], [0, 1]]) @ scale
    shift = 0.5 + rng.normal(0, 0.03, 2)
    large = 4 * side
    canvas = Image.new("L", (large, large))
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        line = (stroke - middle) / size + rng.normal(0, 0.02, stroke.shape)
        line = (line @ matrix.T + shift) * large
        flat = [float(x) for x in line.flatten()]
        pen.line(flat, fill=255, width=max(1, large // 18), joint="curve")
    small = canvas.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255
