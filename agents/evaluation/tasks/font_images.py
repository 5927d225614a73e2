"""Sampler of pictures of characters, drawn with the fonts that Matplotlib ships.

Every fourth pair of a font and a character is for validation. Every sampler is
``(split, generator, n)`` to ``n`` examples.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from .problem import Batch, Split

#: Fonts that have all of the characters: upright, slanted, bold and monospaced ones.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralBolIta", "STIXGeneralItalic", "cmb10", "cmr10", "cmss10", "cmti10",
    "cmtt10",
)  # fmt: skip
DIGITS, CAPITALS, SMALL = (
    "0123456789",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    ("abcdefghijklmnopqrstuvwxyz"),
)
#: Pixels on a side.
SIDE = 14
#: Number of pictures of each font and character: rotated, scaled, sheared and shifted.
VARIANTS = 24


def _draw(path: Path, character: str, rng: np.random.Generator) -> np.ndarray:
    """Draw pictures ``[VARIANTS, SIDE, SIDE]`` uint8, white on black."""
    from PIL import Image, ImageDraw, ImageFont

    large = 4 * SIDE
    canvas = Image.new("L", (large, large))
    font = ImageFont.truetype(str(path), int(0.75 * large))
    ImageDraw.Draw(canvas).text(
        (large / 2, large / 2), character, fill=255, font=font, anchor="mm"
    )
    pictures = []
    for _ in range(VARIANTS):
        angle, shear = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)
        scale = np.exp(rng.uniform(-0.2, 0.2, 2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(1 / scale)
        middle = np.full(2, large / 2)
        shift = middle - matrix @ middle + rng.uniform(-4, 4, 2)
        coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
        turned = canvas.transform(
            (large, large), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        pictures.append(np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(pictures)


@cache
def pictures(characters: str, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the standardised pictures ``[N, SIDE, SIDE]`` float32 of a split, and labels.

    Raises:
        OSError: a font is missing.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    drawn, labels = [], []
    for i, name in enumerate(FONTS):
        for label, character in enumerate(characters):
            if ((i + label) % 4 == 0) != (split == "validation"):
                continue
            rng = np.random.default_rng((i, ord(character)))
            drawn.append(_draw(folder / f"{name}.ttf", character, rng))
            labels += [label] * VARIANTS
    images = (np.concatenate(drawn) / 255.0 - 0.1) / 0.24
    return images.astype(np.float32), np.array(labels)


def glyphs(split: Split, rng: np.random.Generator, n: int, characters: str) -> Batch:
    """Sample pictures ``[n, 1, 14, 14]``, and the index of their character ``[n]``."""
    images, labels = pictures(characters, split)
    rows = rng.integers(len(labels), size=n)
    return torch.from_numpy(images[rows, None]), torch.from_numpy(labels[rows])


def flat_glyphs(split: Split, rng: np.random.Generator, n: int, characters: str) -> Batch:
    """Sample flat pictures ``[n, 196]``, and the index of their character ``[n]``."""
    inputs, labels = glyphs(split, rng, n, characters)
    return inputs.flatten(1), labels
