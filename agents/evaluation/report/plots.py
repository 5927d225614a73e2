"""Pictures of a benchmark: curves, final losses task by task, and performance profiles."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optenv import colors
from optenv.atomic import replacing
from optenv.report.style import new_figure, tidy

from ..row import DEFAULT, SHARED, TUNED, Row, ordered_arms
from ..stats.intervals import interval
from ..stats.normalise import measure, per_task
from ..stats.profiles import MAX_TIME_RATIO, profile, profile_score, time_ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curves", "plot_final_losses", "plot_main_curves", "plot_profiles"]

#: Colours of learned arms, and of the others.
LEARNED_COLORS = (colors.ORANGE, colors.PINK, colors.YELLOW)
BASELINE_COLORS = (colors.SILVER, colors.GREEN, colors.SKY, colors.BLUE, colors.GOLD)
DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))

#: Largest number of panels side by side: of curves, and of final losses.
CURVE_COLUMNS = 3
LOSS_COLUMNS = 8
#: Ratio of the largest to the smallest learning rate on a panel: a cosine ends at zero.
LR_RANGE = 3000.0

#: Colour of the rim of dots and of intervals.
RIM_COLOR = "#404040"
#: Largest number of characters of a line of a panel's title, and of the label per inch.
TITLE_CHARACTERS = 22
CHARACTERS_PER_INCH = 14
#: Normalised losses below this are drawn at the edge, with their value. On a scale that
#: shows all, the others, most of them near 1, would be hard to distinguish.
LOWEST_SHOWN = 0.7


# Curves


def plot_curves(rows: Sequence[Row], path: str | Path) -> None:
    """Plot validation loss over updates, a panel per task.

    Lines are means over seeds, bands their 95 % intervals. If there are learned arms, a
    second panel below shows their learning rates beside tuned AdamW's.

    Args:
        rows: rows with curves of one length per task.
        path: file to write; its suffix chooses the format.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no results to plot")
    # 1. Lay out a panel for each task, in bands of losses and learning rates.
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = ordered_arms(rows)
    learned = _learned_arms(rows)
    traced = [*(arm for arm in arms if arm == TUNED), *learned] if learned else []
    heights = [3.0, 1.3] if traced else [3.0]
    columns = min(CURVE_COLUMNS, len(tasks))
    bands = math.ceil(len(tasks) / columns)
    figure = new_figure(4.0 * columns, sum(heights) * bands + 0.7)
    axes = figure.subplots(
        bands * len(heights), columns, squeeze=False, height_ratios=heights * bands
    )
    for ax in axes.flat:
        ax.set_visible(False)
    # 2. Draw them.
    styles = _arm_styles(rows)
    for i, task in enumerate(tasks):
        row, column = i // columns * len(heights), i % columns
        panel = axes[row, column]
        panel.set_visible(True)
        _loss_panel(panel, [r for r in rows if r["task"] == task], arms, styles)
        panel.set_title(task)
        panel.set_ylabel("validation loss" if column == 0 else "")
        if traced:
            panel.tick_params(labelbottom=False)
            panel = axes[row + 1, column]
            panel.set_visible(True)
            _lr_panel(panel, [r for r in rows if r["task"] == task], traced, styles)
            panel.set_ylabel("learning rate" if column == 0 else "")
        panel.set_xlabel("update")
    # 3. One legend for all panels.
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", frameon=False,
        ncols=min(len(arms), 2 * columns),
    )  # fmt: skip
    with replacing(path) as part:
        figure.savefig(part, dpi=150)


def plot_main_curves(rows: Sequence[Row], path: str | Path) -> None:
    """Plot the curves of learned arms and of AdamW, tuned and not.

    With all arms of a benchmark, two dozen curves in a panel would be hard to distinguish.
    """
    shown = (DEFAULT, SHARED, TUNED)
    plot_curves([row for row in rows if row["learned"] or row["arm"] in shown], path)


def _loss_panel(
    ax: Axes, rows: Sequence[Row], arms: Sequence[str], styles: dict[str, dict[str, Any]]
) -> None:
    """Draw one panel: mean validation loss over seeds, with intervals."""
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
    # Limits are from the means: intervals may reach below zero, diverged runs far up.
    if low == math.inf:
        ax.text(0.5, 0.5, "no finite loss", transform=ax.transAxes, ha="center")
        ax.set_yticks([])
    elif low <= 0.0:  # a loss that has no logarithm
        margin = 0.08 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)
    else:
        ax.set_yscale("log")
        if low < high:
            ax.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
    tidy(ax)


def _lr_panel(
    ax: Axes, rows: Sequence[Row], arms: Sequence[str], styles: dict[str, dict[str, Any]]
) -> None:
    """Draw one panel: geometric mean over seeds of the learning rate in force."""
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
        ax.set_ylim(highest / LR_RANGE, 2.0 * highest)
        ax.yaxis.set_major_locator(LogLocator(numticks=8))
        ax.yaxis.set_minor_formatter(NullFormatter())
    tidy(ax)


def _columns(curves: Sequence[Sequence[tuple[int, float]]]) -> np.ndarray:
    """Return the values of curves of one length, ``[points, seeds]``."""
    return np.array([[value for _, value in curve] for curve in curves]).T


# Final losses and profiles


def plot_final_losses(
    rows: Sequence[Row], path: str | Path, reference: str = TUNED
) -> None:
    """Plot normalised final losses: a panel per arm, a line per task; 1 is the reference.

    Dots are means over seeds, bars their 95 % t intervals; further right is better.

    Args:
        rows: rows with curves; all arms with the same tasks and seeds.
        path: file to write; its suffix chooses the format.
        reference: arm to which losses are relative.

    Raises:
        ValueError: see :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows, reference)
    arms, styles = ordered_arms(rows), _arm_styles(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    bands = math.ceil(len(arms) / LOSS_COLUMNS)
    columns = math.ceil(len(arms) / bands)
    width = 2.0 + 1.5 * columns
    figure = new_figure(width, bands * (0.9 + 0.2 * len(tasks)))
    axes = figure.subplots(bands, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(arms) :]:
        ax.set_visible(False)
    by_arm = {arm: per_task(runs, arm, "normalised") for arm in arms}
    for ax, arm in zip(axes.flat, arms, strict=False):
        _dots(ax, [by_arm[arm][task] for task in tasks], styles[arm])
        ax.set_title(textwrap.fill(arm, TITLE_CHARACTERS), fontsize=8)
        ax.tick_params(labelsize=8, labelbottom=True)
    first = axes[0, 0]
    highest = max(values.mean() for each in by_arm.values() for values in each.values())
    first.set_xlim(LOWEST_SHOWN - 0.03, max(1.05, highest + 0.03))
    first.set_yticks(range(len(tasks)), tasks)
    first.set_ylim(len(tasks) - 0.5, -0.5)
    label = (
        f"normalised final validation loss: 0 initial, 1 {reference}; higher is better "
        f"(triangles: below {LOWEST_SHOWN:g}, with their value)"
    )
    figure.supxlabel(textwrap.fill(label, int(width * CHARACTERS_PER_INCH)), fontsize=9)
    with replacing(path) as part:
        figure.savefig(part, dpi=150)


def _dots(
    ax: Axes, scores: Sequence[npt.NDArray[np.float64]], style: Mapping[str, Any]
) -> None:
    """Draw one panel: a dot and its interval for every task, from the top down."""
    ax.axvline(1.0, color="#000000", linewidth=0.8)
    points = [(i, *interval(list(values))) for i, values in enumerate(scores)]
    if shown := [point for point in points if point[1] >= LOWEST_SHOWN]:
        places, means, halves = np.array(shown).T
        # Intervals in grey and dots with a rim: a light colour alone is lost on white.
        ax.errorbar(
            means, places, xerr=np.nan_to_num(halves), fmt="o", markersize=4.5,
            color=style["color"], markeredgecolor=RIM_COLOR, markeredgewidth=0.4,
            ecolor=RIM_COLOR, elinewidth=1.0,
        )  # fmt: skip
    for i, mean, _ in points:
        if mean < LOWEST_SHOWN:
            ax.plot(LOWEST_SHOWN, i, marker="<", color=style["color"], markersize=4)
            ax.annotate(
                f"{mean:.2f}", (LOWEST_SHOWN, i), (5, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
    tidy(ax)


def plot_profiles(
    rows: Sequence[Row],
    path: str | Path,
    reference: str = TUNED,
    gap_fraction: float = 1.0,
) -> None:
    """Plot performance profiles in updates, with arms from best to worst score.

    Args:
        rows: rows with curves; all arms with the same tasks and seeds.
        path: file to write; its suffix chooses the format.
        reference: arm that sets the targets.
        gap_fraction: fraction of the reference's gap to close; see
            :func:`~agents.evaluation.stats.normalise.measure`.

    Raises:
        ValueError: see :func:`~agents.evaluation.stats.normalise.measure`.
    """
    ratios = time_ratios(measure(rows, reference, gap_fraction))
    scores = {arm: profile_score(ratios[arm]) for arm in ordered_arms(rows)}
    styles = _arm_styles(rows)
    figure = new_figure(8.5, 4.5)
    ax = figure.subplots()
    for arm in sorted(scores, key=lambda arm: -scores[arm]):
        steps = ratios[arm][ratios[arm] <= MAX_TIME_RATIO]
        taus = np.unique([1.0, *steps, MAX_TIME_RATIO])
        ax.plot(
            taus,
            profile(ratios[arm], taus),
            label=f"{scores[arm]:.2f}  {arm}",
            drawstyle="steps-post",
            **styles[arm],
        )
    ax.set_xlim(1.0, MAX_TIME_RATIO)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel(
        f"updates to {100 * gap_fraction:g} % of the way to {reference}'s final loss,\n"
        "as a multiple of the fastest arm's"
    )
    ax.set_ylabel("part of the tasks")
    tidy(ax)
    figure.legend(
        loc="outside right upper",
        title="score and arm",
        alignment="left",
        frameon=False,
        handlelength=3.5,
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=150)


# Styles


def _learned_arms(rows: Sequence[Row]) -> list[str]:
    """Return the names of the learned arms, in order of appearance."""
    ours = {row["arm"] for row in rows if row["learned"]}
    return [arm for arm in ordered_arms(rows) if arm in ours]


def _arm_styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return colour, dashes and width of every arm: learned ones are thick and on top."""
    styles: dict[str, dict[str, Any]] = {}
    learned = _learned_arms(rows)
    baselines = [arm for arm in ordered_arms(rows) if arm not in learned]
    for i, arm in enumerate(baselines):
        color = "#000000" if arm == TUNED else BASELINE_COLORS[i % len(BASELINE_COLORS)]
        # Every further round of the colours has different dashes.
        dash = (
            "-" if arm == TUNED else DASHES[(i + i // len(BASELINE_COLORS)) % len(DASHES)]
        )
        styles[arm] = {"color": color, "linestyle": dash, "linewidth": 1.4, "zorder": 2}
    for i, arm in enumerate(learned):
        color = LEARNED_COLORS[i % len(LEARNED_COLORS)]
        dash = ("-", *DASHES)[i // len(LEARNED_COLORS) % (1 + len(DASHES))]
        styles[arm] = {"color": color, "linestyle": dash, "linewidth": 2.2, "zorder": 3}
    return styles
