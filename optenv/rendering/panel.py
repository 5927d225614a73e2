"""Panels of a picture: axes with artists that are redrawn in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from ..colors import FRAME, GRAY, TEXT
from ..group import Group
from .axes import ticks_between
from .trace import Trace

__all__ = ["HEIGHT", "SMALL", "WIDTH", "Cell", "Panel", "Place", "StepsPanel", "over_steps"]

#: Group of a run, and the run's index in it.
Place = tuple[Group, int] | None

#: Size of a picture in pixels: even numbers, which video formats need.
WIDTH, HEIGHT = 960, 540

#: Size of small letters, in points.
SMALL = 7.5

#: Largest number of runs whose boundaries are labelled.
_FEW_RUNS = 6


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


class Panel:
    """Axes with artists that are redrawn in every frame, on a background.

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
        axes.tick_params(labelsize=SMALL, length=2.5, color=GRAY, labelcolor=TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FRAME)

    def write(self, x: float, text: str, **style: Any) -> Any:
        """Write text above the axes, where it covers no curve.

        Matplotlib would compute the place of a title each time it is drawn.

        Args:
            x: place between the left end (0) and the right end (1) of the axes.
            text: the text.
            **style: properties of the text.
        """
        above = 1 + 6 / (self.cell.axes[3] * HEIGHT)
        return self.axes.text(x, above, text, transform=self.axes.transAxes, **style)

    def animate(self, artist: Any) -> Any:
        """Redraw an artist in every frame, and return it."""
        artist.set_animated(True)
        self.animated.append(artist)
        return artist

    def update(self, trace: Trace, place: Place, is_new: bool) -> bool:
        """Update the artists to the present state of an episode.

        Args:
            trace: the episode.
            place: group of its run, and the run's index in it; None if they are not
                available.
            is_new: whether the last call was about another episode.

        Returns:
            Whether the background has changed.
        """
        raise NotImplementedError

    def share_axes(self, panels: Sequence[Any]) -> None:
        """Give the axes limits that contain the values of panels of the same kind."""

    def draw(self) -> None:
        """Draw the animated artists onto the background."""
        for artist in self.animated:
            self.axes.draw_artist(artist)


class StepsPanel(Panel):
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
            self.axes.axvline(start, color=GRAY, linewidth=0.8, linestyle=(0, (4, 3)))
            for start in trace.starts[1:]
        ]
        labels = []
        if self.labels_runs and 1 < trace.runs <= _FEW_RUNS:
            labels = [
                self.axes.annotate(
                    f"run {number + 1}", (start, 1), xycoords=("data", "axes fraction"),
                    xytext=(3, -2), textcoords="offset points", va="top",
                    size=SMALL, color=GRAY,
                )
                for number, start in enumerate(trace.starts)
            ]  # fmt: skip
        self._boundaries = [*lines, *labels]


def over_steps(panels: Sequence[StepsPanel]) -> list[Panel]:
    """Label the axis of control steps only below the lowest panel; return the panels."""
    *others, lowest = panels
    for panel in others:
        panel.axes.tick_params(labelbottom=False)
    lowest.axes.set_xlabel("control step", size=SMALL, labelpad=2)
    return [*panels]
