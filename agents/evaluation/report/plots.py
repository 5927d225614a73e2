"""Pictures of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arms.defaults import TUNED
from ..stats.results import Row, interval, shown_arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["arm_styles", "new_figure", "plot_curves", "tidy"]

COLUMNS = 3
#: Okabe & Ito's colours, told apart with every kind of colour vision; ours come first.
OURS = ("#D55E00", "#CC79A7", "#F0E442")
BASELINES = ("#7F7F7F", "#009E73", "#56B4E9", "#0072B2", "#E69F00")
#: Learning rates lower than the highest one by this factor are off the panel: a cosine
#: ends at zero.
RATE_RANGE = 3000.0
DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def plot_curves(rows: Sequence[Row], path: str | Path) -> None:
    """Validation loss over updates, a panel per task; learning rates of ours below.

    Lines are means over seeds, bands their 95 % intervals. Where rows of a learned arm
    carry a learning-rate trace, a second panel shows it beside tuned AdamW's.

    Args:
        rows: with curves of one length per task.
        path: where to write; the ending chooses the format.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no results to plot")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = shown_arms(rows)
    learned = _learned(rows)
    traced = [*(arm for arm in arms if arm == TUNED), *learned] if learned else []
    heights = [3.0, 1.3] if traced else [3.0]
    columns = min(COLUMNS, len(tasks))
    bands = math.ceil(len(tasks) / columns)
    figure = new_figure(4.0 * columns, sum(heights) * bands + 0.7)
    axes = figure.subplots(
        bands * len(heights), columns, squeeze=False, height_ratios=heights * bands
    )
    for ax in axes.flat:
        ax.set_visible(False)
    styles = arm_styles(rows)
    for i, task in enumerate(tasks):
        row, column = i // columns * len(heights), i % columns
        panel = axes[row, column]
        panel.set_visible(True)
        _curves(panel, [r for r in rows if r["task"] == task], arms, styles)
        panel.set_title(task)
        panel.set_ylabel("validation loss" if column == 0 else "")
        if traced:
            panel.tick_params(labelbottom=False)
            panel = axes[row + 1, column]
            panel.set_visible(True)
            _rates(panel, [r for r in rows if r["task"] == task], traced, styles)
            panel.set_ylabel("learning rate" if column == 0 else "")
        panel.set_xlabel("update")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", frameon=False,
        ncols=min(len(arms), 2 * columns),
    )  # fmt: skip
    figure.savefig(path, dpi=150)


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, not pyplot's: no backend is chosen, nothing is left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _learned(rows: Sequence[Row]) -> list[str]:
    ours = {row["arm"] for row in rows if row["learned"]}
    return [arm for arm in shown_arms(rows) if arm in ours]


def arm_styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and width of every arm: ours are thick, solid and on top."""
    styles: dict[str, dict[str, Any]] = {}
    learned = _learned(rows)
    baselines = [arm for arm in shown_arms(rows) if arm not in learned]
    for i, arm in enumerate(baselines):
        color = "#000000" if arm == TUNED else BASELINES[i % len(BASELINES)]
        # Every further round of the colours has other dashes, so that no two look alike.
        dash = "-" if arm == TUNED else DASHES[(i + i // len(BASELINES)) % len(DASHES)]
        styles[arm] = {"color": color, "linestyle": dash, "linewidth": 1.4, "zorder": 2}
    for i, arm in enumerate(learned):
        color = OURS[i % len(OURS)]
        dash = ("-", *DASHES)[i // len(OURS) % (1 + len(DASHES))]
        styles[arm] = {"color": color, "linestyle": dash, "linewidth": 2.2, "zorder": 3}
    return styles


def _curves(
    ax: Axes, rows: Sequence[Row], arms: Sequence[str], styles: dict[str, dict[str, Any]]
) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    low, high = math.inf, -math.inf
    for arm in arms:
        curves = [row["curve"] for row in rows if row["arm"] == arm]
        if not curves:
            continue
        updates = [update for update, _ in curves[0]]
        points = [interval(losses) for losses in _columns(curves)]
        mean = np.array([point.mean for point in points])
        half = np.nan_to_num(np.array([point.half for point in points]))
        ax.plot(updates, mean, label=arm, **styles[arm])
        ax.fill_between(
            updates,
            mean - half,
            mean + half,
            color=str(styles[arm]["color"]),
            alpha=0.12,
            lw=0,
        )
        ax.set_xlim(0, updates[-1])
        finite = mean[np.isfinite(mean)]
        low, high = min([low, *finite]), max([high, *finite[:1]])
    ax.set_yscale("log")
    if low < high:
        # Intervals may reach below zero, and a diverged run far above its start.
        ax.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    tidy(ax)


def _rates(
    ax: Axes, rows: Sequence[Row], arms: Sequence[str], styles: dict[str, dict[str, Any]]
) -> None:
    """Geometric mean over seeds of the learning rate in force."""
    from matplotlib.ticker import LogLocator, NullFormatter

    highest = 0.0
    for arm in arms:
        traces = [row["lr_trace"] for row in rows if row["arm"] == arm]
        if not traces:
            continue
        updates = [update for update, _ in traces[0]]
        rates = np.maximum(_columns(traces), 1e-12)
        ax.plot(updates, np.exp(np.log(rates).mean(1)), **styles[arm])
        highest = max(highest, float(rates.max()))
        ax.set_xlim(0, updates[-1])
    ax.set_yscale("log")
    if highest > 0.0:
        ax.set_ylim(highest / RATE_RANGE, 2.0 * highest)
        ax.yaxis.set_major_locator(LogLocator(numticks=8))
        ax.yaxis.set_minor_formatter(NullFormatter())
    tidy(ax)


def _columns(curves: Sequence[Sequence[tuple[int, float]]]) -> np.ndarray:
    """Values of curves of one length, ``[points, seeds]``."""
    return np.array([[value for _, value in curve] for curve in curves]).T


def tidy(ax: Axes) -> None:
    """No frame at the top and right, and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
