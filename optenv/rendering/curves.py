"""Panels of curves over the control steps of an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..colors import CYCLE, ORANGE
from .axes import grown, number, ticks_between
from .panel import SMALL, WIDTH, Cell, Place, StepsPanel
from .trace import Trace

__all__ = ["Curves", "Named", "Points", "Rates"]

#: Width of axes, in pixels, from which there is room for a title and a value.
_ROOMY = 130

#: Ratio of the largest to the smallest value above which an axis is logarithmic.
_WIDE = 10.0


class Curves(StepsPanel):
    """Curves over the control steps, on an axis that grows with them.

    Args:
        figure: figure of the picture.
        cell: place of the panel.
        title: text above the axes.
        color: colour of the title, and of the first curve.
        span: least span of the axis, in powers of ten or relative to the values.
        limits: fixed limits of the axis; by default (None), they grow with the values.
    """

    steps = False

    def __init__(
        self,
        figure: Figure,
        cell: Cell,
        title: str,
        color: str = "black",
        span: float = 0.2,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(figure, cell, title, color)
        axes = self.axes
        axes.grid(alpha=0.25, linewidth=0.6)
        self._fixed, self._least = limits, span
        self._limits = limits
        self._is_log = False
        self._lines: list[Line2D] = []
        if limits is not None:
            axes.set_ylim(*limits)
            axes.set_yticks([-1, 0, 1])

    def add_line(self, color: str) -> None:
        """Add a curve."""
        style: dict[str, Any] = {"drawstyle": "steps-post"} if self.steps else {}
        (line,) = self.axes.plot(
            [], [], color=color, linewidth=1.5, solid_joinstyle="round", marker="o",
            markersize=3.5, clip_on=False, **style,
        )  # fmt: skip
        self._lines.append(self.animate(line))

    def show(
        self,
        at: Sequence[float] | np.ndarray,
        curves: Sequence[np.ndarray],
        trace: Trace,
        is_new: bool,
    ) -> bool:
        """Set the curves, and grow the axis where they leave it.

        Args:
            at: control steps of the values, ``[n]``.
            curves: values ``[n]`` of each line.
            trace: the episode.
            is_new: whether the last call was about another episode.

        Returns:
            Whether the axis has changed.
        """
        for line, values in zip(self._lines, curves, strict=True):
            line.set_data(at, values)
            line.set_markevery([len(values) - 1] if len(values) else [])
        last = curves[0][-1] if len(self._lines) == 1 and len(at) else math.nan
        is_roomy = self.cell.axes[2] * WIDTH >= _ROOMY
        self._value.set_text(number(last) if is_roomy else "")
        if self._fixed is not None:
            return False
        values = np.concatenate(curves)
        values = values[np.isfinite(values)]
        if not len(values):
            return False
        is_log = self.is_log(values)
        is_fitted = is_new or is_log != self._is_log or trace.steps == trace.length
        old = None if is_fitted else self._limits
        headroom = 0.16 if self.labels_runs and trace.runs > 1 else 0.0
        limits = grown(values, is_log, self._least, old, headroom)
        if limits == self._limits and is_log == self._is_log:
            return False
        self._set_limits(limits, is_log)
        return True

    def _set_limits(self, limits: tuple[float, float], is_log: bool) -> None:
        self._limits, self._is_log = limits, is_log
        self.axes.set_yscale("log" if is_log else "linear")
        self.axes.set_ylim(*limits)
        ticks = ticks_between(*limits, is_log)
        labels = [number(tick) for tick in ticks]
        if len(set(labels)) < len(ticks):
            labels = [f"{tick:.5g}" for tick in ticks]
        self.axes.set_yticks(ticks, labels)
        self.axes.set_yticks([], minor=True)

    def share_axes(self, panels: Sequence[Any]) -> None:
        known = [panel._limits for panel in panels if panel._limits is not None]
        if not known or self is not panels[0]:  # the first panel does it for all
            return
        is_log = all(panel._is_log for panel in panels)
        limits = grown(np.array(known), is_log, 0.0, None)
        for panel in panels:
            panel._set_limits(limits, is_log)
            panel._fixed = limits

    def is_log(self, values: np.ndarray) -> bool:
        """Return whether the axis is logarithmic."""
        return bool(values.min() > 0)


class Points(Curves):
    """Statistics of the run at the beginning and after each control step."""

    def __init__(
        self, figure: Figure, cell: Cell, title: str, color: str, **arguments: Any
    ) -> None:
        super().__init__(figure, cell, title, color, **arguments)
        self._name = title
        self.add_line(color)

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        changed = super().update(trace, place, is_new)
        values = np.array(trace.points[self._name])
        if self._name != "loss" and self._fixed is None:
            values[values == 0] = np.nan  # has no logarithm
        return self.show(trace.at, [values], trace, is_new) or changed


def _held(trace: Trace, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the values of a step line that shows one value for each control step.

    The last value of each run is repeated, and a NaN separates it from the next run.
    :func:`_held_at` returns their positions on the axis of control steps.
    """
    array = np.asarray(values, float)
    parts = [p for p in np.split(array, trace.starts[1:]) if len(p)]
    ended = [np.concatenate([part, part[-1:], [np.nan]]) for part in parts]
    return np.concatenate(ended)[:-1] if ended else array


def _held_at(trace: Trace) -> np.ndarray:
    """Return the positions of the values of :func:`_held` on the axis of control steps."""
    parts = [p for p in np.split(np.arange(trace.steps), trace.starts[1:]) if len(p)]
    ended = [np.concatenate([part, [part[-1] + 1] * 2]) for part in parts]
    return np.concatenate(ended)[:-1] if ended else np.arange(0)


class Named(Curves):
    """Curve of a named value of each control step."""

    steps = True

    def __init__(self, figure: Figure, cell: Cell, name: str, color: str) -> None:
        super().__init__(figure, cell, name.replace("_", " "), color, span=0.02)
        self._name = name
        self.add_line(color)

    def is_log(self, values: np.ndarray) -> bool:
        return bool(values.min() > 0 and values.max() > _WIDE * values.min())

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        changed = super().update(trace, place, is_new)
        values = _held(trace, trace.named[self._name])
        if len(values) and 0.9 < np.nanmax(values) < 1:
            self._least = 0.2 * (1 - float(np.nanmax(values)))  # a decay rate, probably
        return self.show(_held_at(trace), [values], trace, is_new) or changed


class Rates(Curves):
    """Learning rate of each control step, in total or for a few parts of the parameters."""

    steps = True

    def __init__(self, figure: Figure, cell: Cell, trace: Trace) -> None:
        names = [] if trace.has_map else [*trace.parts]
        super().__init__(figure, cell, "learning rate", "black" if names else ORANGE)
        self._columns = [trace.parts[name] for name in names]
        for k in range(max(1, len(names))):
            self.add_line(CYCLE[k])
        if names:
            # Above the axes, where it covers no curve.
            self.axes.legend(
                self._lines, names, loc="lower right", bbox_to_anchor=(1.02, 0.97),
                ncols=len(names), frameon=False, fontsize=SMALL, handlelength=1.0,
                columnspacing=0.9, handletextpad=0.4, borderpad=0.2,
            )  # fmt: skip

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        changed = super().update(trace, place, is_new)
        rates = np.array(trace.lr)
        curves = [rates] * len(self._lines)
        if self._columns and trace.steps:
            multipliers = np.array(trace.multipliers)
            relative = np.exp(multipliers - multipliers.mean(1, keepdims=True))
            curves = [rates * relative[:, column] for column in self._columns]
        # A rate of 0 has no logarithm.
        held = [_held(trace, np.where(rate > 0, rate, np.nan)) for rate in curves]
        return self.show(_held_at(trace), held, trace, is_new) or changed
