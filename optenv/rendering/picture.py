"""Picture of an episode: curves over the control steps, and the path of two parameters.

Figure and canvas are kept from frame to frame. The background (axes, ticks, titles,
contours) is drawn once, and again when an axis grows. A frame only draws the curves onto a
copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..colors import ALARM, BLUE, BROWN, CYCLE, GRAY, GREEN, PURPLE
from ..group import Group
from .curves import Named, Points, Rates
from .maps import Multipliers, Rules
from .panel import HEIGHT, WIDTH, Cell, Panel, StepsPanel, over_steps
from .path import PathPanel
from .trace import MEASURES, Trace

__all__ = ["HEIGHT", "WIDTH", "Comparison", "Picture"]

_DPI = 100
_HEADER = 38  # pixels


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

    def _draw_background(self, changed: Sequence[Panel], everything: bool) -> None:
        """Draw the background, or only the panels that have changed.

        Args:
            changed: panels whose axes have changed.
            everything: whether to draw the whole background.
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
        """Return a copy of the canvas, made by channel, which is several times faster."""
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
            used: number of cells to return, the first ones; by default, all.
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

    def _main(self, trace: Trace, left: float, width: float) -> list[Panel]:
        """Make the panels of the loss and of the learning rate, and of the update rule."""
        heights = [1.5, 1.0, *[1.0] * (trace.chooses_rule + trace.has_map)]
        margin = 92 if trace.chooses_rule else 54
        loss, rate, *others = self._rows(left, width, heights, margin)
        figure = self._figure
        made: list[StepsPanel] = [
            Points(figure, loss, "loss", BLUE, span=0.02),
            Rates(figure, rate, trace),
        ]
        if trace.chooses_rule:
            made.append(Rules(figure, others.pop(0)))
        if trace.has_map:
            made.append(Multipliers(figure, others.pop(0), trace))
        made[0].labels_runs = True
        return over_steps(made)

    def _statistics(self, trace: Trace, left: float, width: float) -> list[Panel]:
        """Make the panels of the statistics of gradients."""
        norm, cosine, step = self._rows(left, width, [1.0, 1.0, 1.0])
        _, norms, cosines, steps = MEASURES
        return over_steps(
            [
                Points(self._figure, norm, norms, GREEN),
                Points(self._figure, cosine, cosines, PURPLE, limits=(-1.05, 1.05)),
                Points(self._figure, step, steps, BROWN),
            ]
        )

    def _named(self, trace: Trace, left: float, width: float) -> list[Panel]:
        """Make the panels of named values, such as hyperparameters that actions set."""
        # No higher than other panels, even if there are few.
        count = len(trace.named)
        rows = self._rows(left, width, [1.0] * max(3, count), used=count)
        return over_steps(
            [
                Named(self._figure, cell, name, CYCLE[k % len(CYCLE)])
                for k, (cell, name) in enumerate(zip(rows, trace.named, strict=True))
            ]
        )


class Picture(_Drawing):
    """Picture of one sub-environment, from one episode to the next.

    Args:
        trace: an episode, which determines the layout of the picture.
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
            place: group of its run, and the run's index in it.

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
        self._state.set_color(ALARM if trace.diverged else GRAY)
        self._figure.draw_artist(self._state)

    def _arrange(self, trace: Trace) -> list[Panel]:
        """Make the panels: columns from left to right, and their rows."""
        panels: list[Panel] = []
        left = 0.0
        # 1. The path, in a square.
        if trace.path:
            side = 330.0 if trace.named else 390.0
            margins = (50.0, 14.0, 58.0, 22.0)
            width, height = side + sum(margins[:2]), side + sum(margins[2:])
            bottom = (HEIGHT - _HEADER - height) / 2
            panels.append(
                PathPanel(self._figure, Cell(left, bottom, width, height, margins))
            )
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
        traces: complete episodes of one environment, by the titles above them.
    """

    def __init__(self, traces: dict[str, Trace]) -> None:
        super().__init__()
        # 1. The panels of each episode.
        self._halves: list[tuple[Trace, list[Panel]]] = []
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
        # 2. Axes that contain the curves of all episodes.
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
    """Return the properties of an episode that determine the layout of its picture."""
    return (
        bool(trace.path), tuple(trace.parts), trace.has_map, trace.chooses_rule,
        tuple(trace.named),
    )  # fmt: skip
