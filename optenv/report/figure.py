"""Picture of a policy's behaviour: returns, learning rates, actions and times."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..atomic import replacing
from ..colors import BLACK, COLORS, DARK, RULE_COLORS
from ..intervals import interval
from .runs import Recording, groups_of, over_progress, shares
from .style import new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["draw"]

#: Largest numbers of groups of runs, and of components of the action, that are drawn.
MAX_GROUPS, MAX_COMPONENTS = 30, 6
#: Heights in inches of the panel of times, and of panels in the grid (least and largest).
TIME_HEIGHT, MIN_PANEL, MAX_PANEL = 1.4, 2.4, 4.0
#: Largest number of characters of a group's name.
NAME_LENGTH = 28


def draw(recordings: Sequence[Recording], path: str | os.PathLike[str]) -> None:
    """Draw the behaviour of policies over their runs.

    The panels are: the return of each group of runs with its 95 % interval; the learning
    rate, and each component of the action, over the control steps, with median and
    quantiles over runs; the shares of the update rules, if the action chooses one; and the
    time of a control step.

    Args:
        recordings: recordings to compare.
        path: path of the picture; its suffix determines the format.

    Raises:
        ValueError: there are no recordings.
    """
    if not recordings:
        raise ValueError("there are no recordings to draw")
    # 1. Lay out the panels: returns and times on the left, the others beside them.
    names = [name for each in recordings for name in each.components]
    components = list(dict.fromkeys(names))
    drawn = components[:MAX_COMPONENTS]
    choosing = [each for each in recordings if each.rules is not None]
    count = 1 + len(drawn) + len(choosing)
    groups = groups_of(recordings)[:MAX_GROUPS]
    dots = 0.7 + len(groups) * (0.22 + 0.08 * (len(recordings) - 1))
    columns = 1 if count == 2 and dots > MIN_PANEL else 2 if count < 5 else 3
    rows = math.ceil(count / columns)
    width = 5.2 if columns == 1 else 3.4 * columns
    height = max(dots + TIME_HEIGHT, MIN_PANEL * rows)
    figure = new_figure(4.6 + width, height + 0.5)
    halves = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.6, width])
    left, right = halves.flat
    heights = _filled([max(dots, 1.2), TIME_HEIGHT], height)
    returns, times, *empty = _column(left, heights, 1)
    grid = _filled([min(height / rows, MAX_PANEL)] * rows, height)
    panels = _column(right, grid, columns)
    for panel in [*empty, *panels[count:]]:
        panel.set_visible(False)
    # 2. Draw them.
    _draw_returns(returns, recordings, groups)
    _draw_times(times, recordings)
    if len(recordings) > 1:
        handles, labels = returns.get_legend_handles_labels()
        left.legend(
            handles, labels, loc="outside lower center", frameon=False, fontsize=9,
            ncols=min(3, len(recordings)),
        )  # fmt: skip
    remaining = iter(panels)
    panel = next(remaining)
    for i, each in enumerate(recordings):
        _draw_curve(panel, each, each.lr, COLORS[i % len(COLORS)])
    panel.set_title("learning rate", fontsize=10)
    if all((each.lr > 0).all() for each in recordings):
        panel.set_yscale("log")
    for name in drawn:
        panel = next(remaining)
        panel.axhline(0.0, color=BLACK, linewidth=0.7, zorder=1)
        for i, each in enumerate(recordings):
            if name in each.components:
                _draw_curve(panel, each, each.components[name], COLORS[i % len(COLORS)])
        panel.set_title(_component_title(name), fontsize=10)
    for each in choosing:
        _draw_shares(next(remaining), each, several=len(recordings) > 1)
    # 3. Explain the bands, and say how many components are left out.
    text = "lines: median over runs; bands: 25 to 75 % and 5 to 95 % of the runs"
    if len(components) > len(drawn):
        text += f"; {len(components) - len(drawn)} more components are not drawn"
    right.supxlabel(text, fontsize=8, color=DARK)
    with replacing(os.fspath(path)) as part:
        figure.savefig(part, dpi=150)


def _filled(heights: list[float], total: float) -> list[float]:
    """Add an empty row that takes the rest of the total height, if there is much of it."""
    spare = total - sum(heights)
    return [*heights, spare] if spare > 0.3 else heights


def _column(parent: SubFigure, heights: Sequence[float], columns: int) -> list[Axes]:
    """Make rows of panels with the given relative heights."""
    made = parent.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    return list(made.flat)


def _component_title(name: str) -> str:
    """Return the title of the panel of a component of the action."""
    return name if " " in name else f"action on {name.replace('_', ' ')}"


def _draw_returns(ax: Axes, recordings: Sequence[Recording], groups: Sequence[str]) -> None:
    """Draw a dot and an interval for each group and recording, from the top down."""
    total = len(groups_of(recordings))
    spread = 0.0 if len(recordings) == 1 else 0.6 / len(recordings)
    for i, each in enumerate(recordings):
        offset = spread * (i - (len(recordings) - 1) / 2)
        places, means, halves = [], [], []
        for place, name in enumerate(groups):
            own = each.returns[each.group == name]
            if len(own):
                found = interval(own.tolist())
                places.append(place + offset)
                means.append(found.mean)
                halves.append(0.0 if math.isnan(found.half) else found.half)
        color = COLORS[i % len(COLORS)]
        ax.errorbar(
            means, places, xerr=halves, fmt="o", markersize=4.5, color=color,
            ecolor=color, elinewidth=1.2, label=each.label, zorder=3,
        )  # fmt: skip
        if len(groups) > 1:
            mean = float(np.mean(each.group_means()))
            ax.axvline(mean, color=color, linewidth=0.9, linestyle=":", zorder=1)
    ax.tick_params(labelsize=8)
    ax.set_yticks(range(len(groups)), [_shortened(name) for name in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel(
        "mean and 95 % interval" + ("; dotted: mean of all" if len(groups) > 1 else ""),
        fontsize=8,
    )
    if total > len(groups):
        ax.set_title(f"return, the first {len(groups)} of {total} instances", fontsize=10)
    else:
        ax.set_title("return", fontsize=10)
    tidy(ax)


def _shortened(name: str) -> str:
    """Return a name without its middle, if it is long."""
    if len(name) <= NAME_LENGTH:
        return name
    half = NAME_LENGTH // 2
    return f"{name[:half]}…{name[1 - half :]}"


def _draw_curve(ax: Axes, recording: Recording, values: np.ndarray, color: str) -> None:
    """Draw median and bands of a column over progress."""
    curve = over_progress(recording, values)
    # An action holds until the next one, the last one until the end.
    progress = np.append(curve.progress, 1.0)
    low, lower, middle, upper, high = np.append(
        curve.quantiles, curve.quantiles[:, -1:], axis=1
    )
    for bottom, top, alpha in ((low, high, 0.13), (lower, upper, 0.25)):
        ax.fill_between(
            progress, bottom, top, step="post", color=color, alpha=alpha, linewidth=0
        )
    ax.plot(progress, middle, drawstyle="steps-post", color=color, linewidth=1.6)
    _label_progress(ax)


def _label_progress(ax: Axes) -> None:
    ax.set_xlim(0, 1)
    ax.set_xlabel("fraction of the control steps", fontsize=8)
    ax.tick_params(labelsize=8)
    tidy(ax)


def _draw_shares(ax: Axes, recording: Recording, several: bool) -> None:
    """Draw the shares of the update rules over progress, stacked."""
    progress, parts = shares(recording)
    progress, parts = np.append(progress, 1.0), np.append(parts, parts[:, -1:], axis=1)
    ax.stackplot(
        progress, parts, labels=recording.rule_names, step="post", linewidth=0,
        colors=[RULE_COLORS[i % len(RULE_COLORS)] for i in range(len(parts))],
    )  # fmt: skip
    title = "share of the update rules"
    ax.set_title(f"{title}: {recording.label}" if several else title, fontsize=10)
    ax.set_ylim(0, 1)
    _label_progress(ax)
    ax.grid(False)
    ax.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.26), frameon=False,
        handlelength=0.8, handletextpad=0.4, columnspacing=0.9, ncols=4,
    )  # fmt: skip


def _draw_times(ax: Axes, recordings: Sequence[Recording]) -> None:
    """Draw the median time of a control step, with the 5 % and 95 % quantiles."""
    parts = list(recordings[0].seconds)
    spread = 0.0 if len(recordings) == 1 else 0.6 / len(recordings)
    for i, each in enumerate(recordings):
        offset = spread * (i - (len(recordings) - 1) / 2)
        for place, part in enumerate(parts):
            low, middle, high = 1e3 * np.quantile(each.seconds[part], (0.05, 0.5, 0.95))
            ax.errorbar(
                middle, place + offset, xerr=[[middle - low], [high - middle]], fmt="o",
                markersize=4.5, color=COLORS[i % len(COLORS)], elinewidth=1.2,
            )  # fmt: skip
    ax.set_xscale("log")
    ax.tick_params(labelsize=8)
    ax.set_yticks(range(len(parts)), parts)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    ax.set_xlabel("milliseconds, median and 5 to 95 %", fontsize=8)
    ax.set_title("time of a control step", fontsize=10)
    tidy(ax)
