"""Characters of the Hershey stroke fonts as classes of few-shot tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optenv.tasks import stroke_fonts
from optenv.tasks.stroke_fonts import TEST, TRAINING, canonical_form

from .few_shot import Classes

__all__ = ["TEST", "TRAINING", "canonical_form", "glyphs"]


def glyphs(
    fonts: Sequence[str],
    side: int = 28,
    drawings: int = 20,
    seed: int = 0,
    without: Sequence[str] = (),
) -> Classes:
    """Draw the characters of stroke fonts (extra ``train``).

    For distortions of the drawings, and fonts that share characters, see
    :mod:`optenv.tasks.stroke_fonts`.

    Args:
        fonts: names of fonts of the package ``hershey-fonts``.
        side: width and height of a picture in pixels.
        drawings: pictures of each character.
        seed: random seed, used together with the font and the character.
        without: names of fonts whose characters are left out.

    Returns:
        Classes with pictures ``[C, drawings, side, side]``, ink 1 and paper 0, each in the
        group of its font.

    Raises:
        ValueError: a font does not exist.
        TypeError: ``fonts`` or ``without`` is a string.
        ImportError: the package is not installed.
    """
    found = stroke_fonts.characters(fonts, without)
    pictures = [stroke_fonts.drawings(each, side, drawings, seed) for each in found]
    return Classes(np.array(pictures, np.float32), tuple(each.font for each in found))
