"""Panels of coloured rows over the control steps: update rules, and multipliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ..colors import EMPTY, SEPARATOR
from ..rules import switching
from .axes import few, power
from .panel import HEIGHT, SMALL, Cell, Place, StepsPanel
from .trace import Trace

__all__ = ["Multipliers", "Rules"]


class Rules(StepsPanel):
    """Update rule of each control step: a coloured band in the row of its name."""

    def __init__(self, figure: Figure, cell: Cell) -> None:
        names = switching.NAMES
        super().__init__(figure, cell, "update rule")
        axes = self.axes
        palette = colormaps["tab10"]
        self._colors = np.array([to_rgba(palette(k)) for k in range(len(names))])
        self._image = self.animate(
            axes.imshow(np.zeros((len(names), 1, 4)), aspect="auto", interpolation="none")
        )
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", labelsize=6.5, length=0, pad=2)
        for row in range(1, len(names)):
            axes.axhline(row - 0.5, color=SEPARATOR, linewidth=0.5)

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        changed = super().update(trace, place, is_new)
        bands = np.zeros((len(switching.NAMES), trace.length, 4))
        for step, rule in enumerate(trace.rule):
            if rule is not None:
                row = switching.NAMES.index(rule)
                bands[row, step] = self._colors[row]
        self._image.set_data(bands)
        self._image.set_extent((0, trace.length, len(switching.NAMES) - 0.5, -0.5))
        self._value.set_text(trace.rule[-1] or "" if trace.rule else "")
        return changed


class Multipliers(StepsPanel):
    """Heat map of learning-rate multipliers: a row for each parameter tensor or role."""

    def __init__(self, figure: Figure, cell: Cell, trace: Trace) -> None:
        super().__init__(figure, cell, "multiplier of each tensor")
        axes = self.axes
        self._columns = [*trace.parts.values()]
        colors = colormaps["RdBu_r"].with_extremes(bad=(1.0, 1.0, 1.0, 0.0))
        blank = np.full((len(self._columns), 1), np.nan)
        self._image = self.animate(
            axes.imshow(blank, aspect="auto", interpolation="none", cmap=colors)
        )
        axes.set_facecolor(EMPTY)
        axes.set_yticks(few(len(self._columns)))
        axes.set_ylabel("tensor", size=SMALL, labelpad=2)
        # The scale of the colours, above the map.
        height = self.cell.axes[3] * HEIGHT
        scale = axes.inset_axes((0.84, 1 + 6 / height, 0.1, 9 / height))
        scale.imshow(np.linspace(-1, 1, 64)[None], aspect="auto", cmap=colors)
        scale.set_axis_off()
        self._ends = [
            self.write(0.83, "", ha="right", size=SMALL),
            self.write(0.95, "", ha="left", size=SMALL),
        ]
        self._bound = 0.0

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        changed = super().update(trace, place, is_new)
        rows = np.full((len(self._columns), trace.length), np.nan)
        if trace.steps:
            rows[:, : trace.steps] = np.array(trace.multipliers)[:, self._columns].T
        largest = 0.0 if not trace.steps else float(np.nanmax(np.abs(rows)))
        bound = max(1.0, math.ceil(largest / math.log(2.0)))  # a power of two
        if bound > self._bound or is_new:
            changed = True
            self._set_bound(bound)
        self._image.set_data(rows)
        self._image.set_extent((0, trace.length, len(self._columns) - 0.5, -0.5))
        return changed

    def _set_bound(self, bound: float) -> None:
        self._bound = bound
        self._image.set_clim(-bound * math.log(2.0), bound * math.log(2.0))
        for text, exponent in zip(self._ends, (-bound, bound), strict=True):
            text.set_text(power(exponent))

    def share_axes(self, panels: Sequence[Any]) -> None:
        self._set_bound(max(panel._bound for panel in panels))
