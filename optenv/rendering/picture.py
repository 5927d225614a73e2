"""Picture of an episode: curves over the control steps, and the path of two parameters.

Figure and canvas are kept from frame to frame. What stays (axes, ticks, titles, contours)
is drawn once, and again when an axis grows; a frame then only draws the curves onto a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..group import Group
from ..rules import switching
from . import contour
from .trace import MEASURES, Trace

__all__ = ["HEIGHT", "WIDTH", "Comparison", "Picture"]

#: Group of a run, and the run's number in it.
Place = tuple[Group, int] | None

#: Size of a picture in pixels: even numbers, which video formats need.
WIDTH, HEIGHT = 960, 540

_DPI = 100
_HEADER = 38  # pixels
_SMALL = 7.5  # points

#: Colours that people with any colour vision tell apart (Okabe and Ito, 2008).
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
_BROWN, _SKY, _GOLD, _GRAY = "#8C6D31", "#56B4E9", "#E69F00", "#666666"
_CYCLE = (_ORANGE, _GREEN, _PURPLE, _BLUE, _BROWN, _SKY, _GOLD, _GRAY)

#: Largest number of runs whose boundaries are labelled.
_FEW_RUNS = 6

#: Least width of axes, in pixels, above which there is room for a title and a value.
_ROOMY = 130

#: Positive values are on a logarithmic axis from this ratio of the largest to the smallest.
_WIDE = 10.0


class Cell(NamedTuple):
    """Place of a panel, in pixels from the lower left corner, margins included."""

    left: float
    bottom: float
    width: float
    height: float
    margins: tuple[float, float, float, float]

    @property
    def axes(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the axes, relative to the figure."""
        left, right, bottom, top = self.margins
        return (
            (self.left + left) / WIDTH,
            (self.bottom + bottom) / HEIGHT,
            (self.width - left - right) / WIDTH,
            (self.height - bottom - top) / HEIGHT,
        )

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns in an image."""
        top = HEIGHT - round(self.bottom + self.height)
        return (
            slice(max(top, 0), HEIGHT - round(self.bottom)),
            slice(round(self.left), round(self.left + self.width)),
        )


class _Drawing:
    """Panels on a figure that is kept from frame to frame."""

    def __init__(self) -> None:
        self._figure = Figure(
            figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white"
        )
        self._canvas = FigureCanvasAgg(self._figure)
        self._background: Any = None

    def _write(self, x: float, text: str = "", **style: Any) -> Any:
        """Write text into the header, at ``x`` pixels from the left."""
        middle = 1 - _HEADER / 2 / HEIGHT
        return self._figure.text(x / WIDTH, middle, text, va="center", **style)

    def _draw_background(self, changed: Sequence[_Panel], everything: bool) -> None:
        """Draw what stays, or the part of it that has changed.

        Args:
            changed: panels whose axes have.
            everything: whether to draw all of it.
        """
        if everything or self._background is None:
            self._canvas.draw()
        else:
            self._canvas.restore_region(self._background)
            for panel in changed:
                np.asarray(self._canvas.buffer_rgba())[panel.cell.pixels] = 255
                panel.axes.draw(self._canvas.get_renderer())
        if everything or changed or self._background is None:
            self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def _frame(self) -> np.ndarray:
        """Return a copy of the canvas, by channel, which is several times faster."""
        frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        drawn = np.asarray(self._canvas.buffer_rgba())
        for channel in range(3):
            frame[..., channel] = drawn[..., channel]
        return frame

    def _rows(
        self,
        left: float,
        width: float,
        heights: Sequence[float],
        margin: float = 54,
        used: int | None = None,
    ) -> list[Cell]:
        """Divide a column into cells over the control steps, from top to bottom.

        Args:
            left: left end of the column.
            width: its width.
            heights: relative heights of the axes.
            margin: space left of the axes.
            used: number of cells that are used, the first ones; all by default.
        """
        above, below, last = 22, 10, 36  # titles; ticks; ticks, numbers and a label
        space = HEIGHT - _HEADER - (above + below) * len(heights) - (last - below)
        cells, top = [], float(HEIGHT - _HEADER)
        for k, height in enumerate(heights[:used]):
            under = last if k == (used or len(heights)) - 1 else below
            size = round(space * height / sum(heights)) + above + under
            top -= size
            cells.append(Cell(left, top, width, size, (margin, 14, under, above)))
        return cells

    def _main(self, trace: Trace, left: float, width: float) -> list[_Panel]:
        """Make the panels of the loss and of the learning rate, and of the update rule."""
        heights = [1.5, 1.0, *[1.0] * (trace.chooses_rule + trace.has_map)]
        margin = 92 if trace.chooses_rule else 54
        loss, rate, *others = self._rows(left, width, heights, margin)
        figure = self._figure
        made: list[_StepsPanel] = [
            _Points(figure, loss, "loss", _BLUE, span=0.02),
            _Rates(figure, rate, trace),
        ]
        if trace.chooses_rule:
            made.append(_Rules(figure, others.pop(0)))
        if trace.has_map:
            made.append(_Multipliers(figure, others.pop(0), trace))
        made[0].labels_runs = True
        return _over_steps(made)

    def _statistics(self, trace: Trace, left: float, width: float) -> list[_Panel]:
        """Make the panels of the statistics of gradients."""
        norm, cosine, step = self._rows(left, width, [1.0, 1.0, 1.0])
        _, norms, cosines, steps = MEASURES
        return _over_steps(
            [
                _Points(self._figure, norm, norms, _GREEN),
                _Points(self._figure, cosine, cosines, _PURPLE, limits=(-1.05, 1.05)),
                _Points(self._figure, step, steps, _BROWN),
            ]
        )

    def _named(self, trace: Trace, left: float, width: float) -> list[_Panel]:
        """Make the panels of what actions set by name."""
        # As high as other panels, also if there are few.
        count = len(trace.named)
        rows = self._rows(left, width, [1.0] * max(3, count), used=count)
        return _over_steps(
            [
                _Named(self._figure, cell, name, _CYCLE[k % len(_CYCLE)])
                for k, (cell, name) in enumerate(zip(rows, trace.named, strict=True))
            ]
        )


class Picture(_Drawing):
    """Picture of one sub-environment, from one episode to the next.

    Args:
        trace: of an episode whose layout the picture gets.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._layout = _layout(trace)
        self._trace: Trace | None = None
        self._panels = self._arrange(trace)
        self._title = self._write(12, size=10, weight="bold")
        self._state = self._write(WIDTH - 12, ha="right", size=9, animated=True)

    def fits(self, trace: Trace) -> bool:
        """Return whether the picture has the layout that an episode needs."""
        return self._layout == _layout(trace)

    def draw(self, trace: Trace, place: tuple[Group, int]) -> np.ndarray:
        """Draw an episode so far.

        Args:
            trace: the episode.
            place: group of its run, and the run's number in it.

        Returns:
            Image ``[HEIGHT, WIDTH, 3]`` uint8.
        """
        is_new = trace is not self._trace
        self._trace = trace
        self._title.set_text(trace.title)
        changed = [p for p in self._panels if p.update(trace, place, is_new)]
        self._draw_background(changed, everything=is_new)
        for panel in self._panels:
            panel.draw()
        self._draw_state(trace)
        return self._frame()

    def _draw_state(self, trace: Trace) -> None:
        parts = [f"step {trace.steps}/{trace.length}", f"reward {trace.reward:+.3f}"]
        if trace.runs > 1:
            parts.insert(0, f"run {trace.run + 1}/{trace.runs}")
        if trace.diverged:
            parts.append("diverged")
        self._state.set_text("    ".join(parts))
        self._state.set_color("#C00000" if trace.diverged else _GRAY)
        self._figure.draw_artist(self._state)

    def _arrange(self, trace: Trace) -> list[_Panel]:
        """Make the panels: columns from left to right, and their rows."""
        panels: list[_Panel] = []
        left = 0.0
        # 1. The path, in a square.
        if trace.path:
            side = 330.0 if trace.named else 390.0
            margins = (50.0, 14.0, 58.0, 22.0)
            width, height = side + sum(margins[:2]), side + sum(margins[2:])
            bottom = (HEIGHT - _HEADER - height) / 2
            panels.append(_Path(self._figure, Cell(left, bottom, width, height, margins)))
            left = width
        # 2. The columns over the control steps.
        columns = [(1.2 if trace.path else 1.5, self._main), (1.0, self._statistics)]
        if trace.named:
            columns.append((1.0, self._named))
        total = sum(width for width, _ in columns)
        space = WIDTH - left
        for width, make in columns:
            part = space * width / total
            panels += make(trace, left, part)
            left += part
        return panels


class Comparison(_Drawing):
    """Two episodes beside each other, on the same axes.

    Args:
        traces: the whole episodes, by the titles above them. They must be of one
            environment.
    """

    def __init__(self, traces: dict[str, Trace]) -> None:
        super().__init__()
        # 1. The panels of each episode.
        self._halves: list[tuple[Trace, list[_Panel]]] = []
        half = WIDTH / len(traces)
        for k, (title, trace) in enumerate(traces.items()):
            left, part = k * half, half
            if trace.named:
                part = 0.6 * half
            panels = self._main(trace, left, part)
            if trace.named:
                panels += self._named(trace, left + part, half - part)
            self._write(left + 12, title, size=10, weight="bold")
            self._halves.append((trace, panels))
        # 2. Axes that hold the curves of all of them.
        for trace, panels in self._halves:
            for panel in panels:
                panel.update(trace, None, True)
        for same in zip(*(panels for _, panels in self._halves), strict=True):
            for panel in same:
                panel.share_axes(same)

    @property
    def steps(self) -> int:
        """Control steps of the longest episode."""
        return max(trace.steps for trace, _ in self._halves)

    def draw(self, steps: int) -> np.ndarray:
        """Draw the episodes after a number of control steps, at most :attr:`steps`.

        Returns:
            Image ``[HEIGHT, WIDTH, 3]`` uint8.
        """
        changed = [
            panel
            for trace, panels in self._halves
            for panel in panels
            if panel.update(trace.until(steps), None, False)
        ]
        self._draw_background(changed, everything=False)
        for _, panels in self._halves:
            for panel in panels:
                panel.draw()
        return self._frame()


def _layout(trace: Trace) -> Any:
    """Return what the arrangement of a picture depends on."""
    return (
        bool(trace.path), tuple(trace.parts), trace.has_map, trace.chooses_rule,
        tuple(trace.named),
    )  # fmt: skip


class _Panel:
    """Axes with artists that a frame draws anew, and others that are the background.

    Args:
        figure: figure of the picture.
        cell: place of the panel.
        title: text above the axes.
        color: its colour.
    """

    def __init__(
        self, figure: Figure, cell: Cell, title: str, color: str = "black"
    ) -> None:
        self.cell = cell
        self.axes = axes = figure.add_axes(cell.axes)
        self.animated: list[Any] = []
        self.write(0, title, size=8.5, color=color, ha="left")
        axes.tick_params(labelsize=_SMALL, length=2.5, color=_GRAY, labelcolor="#333333")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")

    def write(self, x: float, text: str, **style: Any) -> Any:
        """Write text above the axes, where it covers no curve.

        A title of matplotlib would look for its place whenever it is drawn.

        Args:
            x: place between the left end (0) and the right end (1) of the axes.
            text: the text.
            **style: of the text.
        """
        above = 1 + 6 / (self.cell.axes[3] * HEIGHT)
        return self.axes.text(x, above, text, transform=self.axes.transAxes, **style)

    def animate(self, artist: Any) -> Any:
        """Let an artist be drawn by every frame."""
        artist.set_animated(True)
        self.animated.append(artist)
        return artist

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        """Take in the present state of an episode.

        Args:
            trace: the episode.
            place: group of its run, and the run's number in it; None if they are not at
                hand.
            is_new: whether the last call was about another episode.

        Returns:
            Whether the background has changed.
        """
        raise NotImplementedError

    def share_axes(self, panels: Sequence[Any]) -> None:
        """Let the axes hold what those of several panels of the same kind do."""

    def draw(self) -> None:
        """Draw the animated artists onto the background."""
        for artist in self.animated:
            self.axes.draw_artist(artist)


class _StepsPanel(_Panel):
    """Panel over the control steps of an episode, with its runs."""

    labels_runs = False

    def __init__(
        self, figure: Figure, cell: Cell, title: str, color: str = "black"
    ) -> None:
        super().__init__(figure, cell, title, color)
        self._value = self.animate(self.write(1, "", ha="right", size=8.5, color=color))
        self._boundaries: list[Any] = []
        self._shown: tuple[int, ...] = ()

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        if is_new:
            self.axes.set_xlim(0, trace.length)
            ticks = ticks_between(0, trace.length, False)
            if 1 < trace.runs <= _FEW_RUNS:  # their boundaries
                ticks = [run * trace.run_steps for run in range(trace.runs + 1)]
            self.axes.set_xticks(ticks)
        runs = (trace.length, *trace.starts)
        changed = runs != self._shown
        if changed:
            self._shown = runs
            self._mark_runs(trace)
        return changed

    def _mark_runs(self, trace: Trace) -> None:
        """Draw the boundaries between the runs of a trial, and their numbers."""
        for artist in self._boundaries:
            artist.remove()
        lines = [
            self.axes.axvline(start, color=_GRAY, linewidth=0.8, linestyle=(0, (4, 3)))
            for start in trace.starts[1:]
        ]
        labels = []
        if self.labels_runs and 1 < trace.runs <= _FEW_RUNS:
            labels = [
                self.axes.annotate(
                    f"run {number + 1}", (start, 1), xycoords=("data", "axes fraction"),
                    xytext=(3, -2), textcoords="offset points", va="top",
                    size=_SMALL, color=_GRAY,
                )
                for number, start in enumerate(trace.starts)
            ]  # fmt: skip
        self._boundaries = [*lines, *labels]


def _over_steps(panels: Sequence[_StepsPanel]) -> list[_Panel]:
    """Label the axis of the control steps below the lowest of several panels."""
    *others, lowest = panels
    for panel in others:
        panel.axes.tick_params(labelbottom=False)
    lowest.axes.set_xlabel("control step", size=_SMALL, labelpad=2)
    return [*panels]


class _Curves(_StepsPanel):
    """Curves over the control steps, on an axis that grows with them.

    Args:
        figure: figure of the picture.
        cell: place of the panel.
        title: text above the axes.
        color: colour of the title, and of the first curve.
        span: least part of the axis, in powers of ten or relative to the values.
        limits: fixed limits of the axis.
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
            is_new: whether it has just begun.

        Returns:
            Whether the axis has changed.
        """
        for line, values in zip(self._lines, curves, strict=True):
            line.set_data(at, values)
            line.set_markevery([len(values) - 1] if len(values) else [])
        last = curves[0][-1] if len(self._lines) == 1 and len(at) else math.nan
        is_roomy = self.cell.axes[2] * WIDTH >= _ROOMY
        self._value.set_text(_number(last) if is_roomy else "")
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
        labels = [_number(tick) for tick in ticks]
        if len(set(labels)) < len(ticks):
            labels = [f"{tick:.5g}" for tick in ticks]
        self.axes.set_yticks(ticks, labels)
        self.axes.set_yticks([], minor=True)

    def share_axes(self, panels: Sequence[Any]) -> None:
        known = [panel._limits for panel in panels if panel._limits is not None]
        if not known or self is not panels[0]:  # the first one does so for all
            return
        is_log = all(panel._is_log for panel in panels)
        limits = grown(np.array(known), is_log, 0.0, None)
        for panel in panels:
            panel._set_limits(limits, is_log)
            panel._fixed = limits

    def is_log(self, values: np.ndarray) -> bool:
        """Return whether the axis is logarithmic."""
        return bool(values.min() > 0)


class _Points(_Curves):
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
    """Return values of the control steps of every run for a line of steps.

    The last one of each run is repeated, and followed by a NaN where another run begins.
    See :func:`_held_at` for their places.
    """
    array = np.asarray(values, float)
    parts = [p for p in np.split(array, trace.starts[1:]) if len(p)]
    ended = [np.concatenate([part, part[-1:], [np.nan]]) for part in parts]
    return np.concatenate(ended)[:-1] if ended else array


def _held_at(trace: Trace) -> np.ndarray:
    """Return the places of the values of :func:`_held`."""
    parts = [p for p in np.split(np.arange(trace.steps), trace.starts[1:]) if len(p)]
    ended = [np.concatenate([part, [part[-1] + 1] * 2]) for part in parts]
    return np.concatenate(ended)[:-1] if ended else np.arange(0)


class _Named(_Curves):
    """A value of each control step, by its name."""

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


class _Rates(_Curves):
    """Learning rate of each control step, or those of a few parts of the parameters."""

    steps = True

    def __init__(self, figure: Figure, cell: Cell, trace: Trace) -> None:
        names = [] if trace.has_map else [*trace.parts]
        super().__init__(figure, cell, "learning rate", "black" if names else _ORANGE)
        self._columns = [trace.parts[name] for name in names]
        for k in range(max(1, len(names))):
            self.add_line(_CYCLE[k])
        if names:
            # Above the axes, where it covers no curve.
            self.axes.legend(
                self._lines, names, loc="lower right", bbox_to_anchor=(1.02, 0.97),
                ncols=len(names), frameon=False, fontsize=_SMALL, handlelength=1.0,
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


class _Rules(_StepsPanel):
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
            axes.axhline(row - 0.5, color="#DDDDDD", linewidth=0.5)

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


class _Multipliers(_StepsPanel):
    """Multipliers of the learning rate of every part: a row of a heat map each."""

    def __init__(self, figure: Figure, cell: Cell, trace: Trace) -> None:
        super().__init__(figure, cell, "multiplier of each tensor")
        axes = self.axes
        self._columns = [*trace.parts.values()]
        colors = colormaps["RdBu_r"].with_extremes(bad=(1.0, 1.0, 1.0, 0.0))
        blank = np.full((len(self._columns), 1), np.nan)
        self._image = self.animate(
            axes.imshow(blank, aspect="auto", interpolation="none", cmap=colors)
        )
        axes.set_facecolor("#EEEEEE")
        axes.set_yticks(_few(len(self._columns)))
        axes.set_ylabel("tensor", size=_SMALL, labelpad=2)
        # The scale of the colours, above the map.
        height = self.cell.axes[3] * HEIGHT
        scale = axes.inset_axes((0.84, 1 + 6 / height, 0.1, 9 / height))
        scale.imshow(np.linspace(-1, 1, 64)[None], aspect="auto", cmap=colors)
        scale.set_axis_off()
        self._ends = [
            self.write(0.83, "", ha="right", size=_SMALL),
            self.write(0.95, "", ha="left", size=_SMALL),
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
        for text, power in zip(self._ends, (-bound, bound), strict=True):
            text.set_text(_power(power))

    def share_axes(self, panels: Sequence[Any]) -> None:
        self._set_bound(max(panel._bound for panel in panels))


class _Path(_Panel):
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
            [], [], color=_ORANGE, linewidth=1.3, marker="o", markersize=2.2
        )
        self.animate(self._line)
        marks: dict[str, tuple[str, str, int]] = {
            "start": ("s", "white", 34), "now": ("o", _ORANGE, 40),
            "minimum": ("*", "#FFE000", 90),
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
            fontsize=_SMALL, handletextpad=0.3,
        )  # fmt: skip

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        assert place is not None  # it tells the losses
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


# Axes


def grown(
    values: np.ndarray,
    is_log: bool,
    least: float,
    old: tuple[float, float] | None,
    headroom: float = 0.0,
) -> tuple[float, float]:
    """Return limits of an axis that hold all values.

    They stay as they are while they do, and grow by half otherwise, so that an axis
    changes a few times in an episode.

    Args:
        values: finite numbers; positive ones for a logarithmic axis.
        is_log: whether the axis is logarithmic.
        least: least span, in powers of ten or relative to the largest value.
        old: limits before.
        headroom: part of the axis above the values that stays free.
    """
    low, high = float(values.min()), float(values.max())
    if is_log:
        low, high = math.log10(low), math.log10(high)
        if old is not None:
            old = math.log10(old[0]), math.log10(old[1])
    span = max(high - low, least * (1.0 if is_log else max(abs(low), abs(high), 1e-12)))
    if old is None:
        middle, half = (low + high) / 2, 0.6 * span
        limits = middle - half, middle + half * (1 + 2 * headroom)
    else:
        ceiling = old[1] - headroom * (old[1] - old[0])
        pad = 0.5 * span
        limits = (
            low - pad if low < old[0] else old[0],
            (high + pad) + headroom * span if high > ceiling else old[1],
        )
    if is_log:
        limits = 10.0 ** limits[0], 10.0 ** limits[1]
    return limits


def ticks_between(low: float, high: float, is_log: bool) -> list[float]:
    """Return two to five round numbers within the limits of an axis."""
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for digits in ((1,), (1, 3), (1, 2, 5)):
            ticks = [d * 10.0**k for k in range(first, last + 1) for d in digits]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) >= 3:
                return ticks[:: math.ceil(len(ticks) / 5)]
    # The finest of steps of 1, 2 or 5 that gives at most five of them.
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-300)) - 1)
    for factor in (1, 2, 5, 10, 20, 50):
        size = factor * step
        first, last = math.ceil(low / size), math.floor(high / size)
        if last - first < 5:
            break
    return [k * size for k in range(first, last + 1)]


def _few(count: int) -> list[int]:
    """Return numbers of at most about eight rows out of ``count``."""
    return list(range(0, count, math.ceil(count / 8)))


def _number(value: float) -> str:
    """Write a number in three digits."""
    if not math.isfinite(value):
        return ""
    if 0.99 < value < 1:  # decay rates are told by what they lack
        return f"{value:.5g}"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.3g}"


def _power(exponent: float) -> str:
    """Write a power of two, or one over it."""
    return f"×{2**exponent:g}" if exponent >= 0 else f"÷{2**-exponent:g}"
