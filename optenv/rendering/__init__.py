"""Renderings of episodes: a line of text, or a picture, of every sub-environment.

- :mod:`~optenv.rendering.trace` records the values to draw, if there is a render mode.
- :mod:`~optenv.rendering.contour` computes the losses around the path of two parameters.
- :mod:`~optenv.rendering.picture` draws panels of curves, of coloured rows, and of a path.
  Only these modules import matplotlib, with the first picture.
"""

from __future__ import annotations

from .renderer import RENDER_MODES, Renderer

__all__ = ["RENDER_MODES", "Renderer"]
