"""Panel of the path of two parameters on the contours of the loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from ..colors import MARK, ORANGE
from . import contour
from .panel import SMALL, Cell, Panel, Place
from .trace import Trace

__all__ = ["PathPanel"]


class PathPanel(Panel):
    """Path of two parameters on the contours of the loss."""

    def __init__(self, figure: Figure, cell: Cell) -> None:
        super().__init__(figure, cell, "path of the two parameters")
        axes = self.axes
        axes.set_aspect("equal")
        self._background: list[Any] = []
        self._extent: tuple[float, ...] = ()
        self._first = np.empty((0, 2))
        self._smallest, self._largest = contour.LEAST, math.inf
        (self._line,) = axes.plot(
            [], [], color=ORANGE, linewidth=1.3, marker="o", markersize=2.2
        )
        self.animate(self._line)
        marks: dict[str, tuple[str, str, int]] = {
            "start": ("s", "white", 34), "now": ("o", ORANGE, 40),
            "minimum": ("*", MARK, 90),
        }  # fmt: skip
        self._marks: dict[str, PathCollection] = {
            name: self.animate(
                axes.scatter([], [], s=size, marker=marker, color=color, label=name,
                             edgecolor="black", linewidth=0.7, zorder=3)
            )
            for name, (marker, color, size) in marks.items()
        }  # fmt: skip
        # Below the axes, where it covers nothing.
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3, frameon=False,
            fontsize=SMALL, handletextpad=0.3,
        )  # fmt: skip

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        assert place is not None  # needed to compute the losses
        begin = max(k for k, step in enumerate(trace.at) if step == trace.starts[-1])
        path = np.array(trace.path)
        minimizers = contour.minimizers(*place)
        changed = False
        # 1. The window, which grows with the path.
        known = np.concatenate([path[begin : begin + 1], minimizers])
        if is_new:
            self._extent, self._first = (), known
            left, right, *_ = contour.window(known)
            self._smallest = (right - left) / 2
            self._largest = contour.LARGEST * self._smallest
        shown = np.concatenate([self._first, known, path])
        if not self._extent or self._is_left_by(shown):
            extent = contour.window(shown, self._smallest, self._largest)
            if extent != self._extent:
                self._extent, changed = extent, True
                self._draw_contours(contour.surface(*place, extent))
        # 2. The path.
        self._line.set_data(path[:, 0], path[:, 1])
        self._marks["start"].set_offsets(path[begin])
        self._marks["now"].set_offsets(path[-1])
        self._marks["minimum"].set_offsets(minimizers)
        return changed

    def _is_left_by(self, points: np.ndarray) -> bool:
        left, right, bottom, top = self._extent
        x, y = points[np.isfinite(points).all(1)].T
        return bool(((x < left) | (x > right) | (y < bottom) | (y > top)).any())

    def _draw_contours(self, surface: contour.Surface) -> None:
        for artist in self._background:
            artist.remove()
        # Logarithms above the least loss show the valley around it, too.
        losses = np.nan_to_num(surface.losses, nan=np.inf, posinf=1e30)
        above = losses - losses.min()
        heights = np.log(above + 1e-3 * np.median(above) + 1e-30)
        image = self.axes.imshow(
            heights, origin="lower", extent=surface.extent, cmap="viridis", alpha=0.75,
            interpolation="bilinear", zorder=0,
        )  # fmt: skip
        lines = self.axes.contour(
            heights, levels=12, origin="lower", extent=surface.extent, colors="white",
            linewidths=0.5, alpha=0.7, zorder=1, linestyles="solid",
        )  # fmt: skip
        self.axes.set(xlim=surface.extent[:2], ylim=surface.extent[2:])
        self._background = [image, lines]
