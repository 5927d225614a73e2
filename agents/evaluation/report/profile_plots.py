"""Pictures of a benchmark: performance profiles, and final losses task by task."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..arms.defaults import TUNED
from ..stats.normalise import measure, per_task
from ..stats.profiles import SLOWEST, profile, profile_score, time_ratios
from ..stats.results import Row, interval, shown_arms
from .plots import arm_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_final_losses", "plot_profiles"]

#: Panels side by side, at most.
COLUMNS = 8
RIM = "#404040"
#: Letters that fit above a panel.
TITLE_WIDTH = 22
#: Letters of the label below that fit in an inch.
LETTERS = 14
#: Normalised losses below this are drawn at the edge, with their value: the others, most
#: of them near 1, could not be told apart on a scale that shows all.
LOWEST = 0.7


def plot_profiles(
    rows: Sequence[Row],
    path: str | Path,
    reference: str = TUNED,
    way: float = 1.0,
) -> None:
    """Performance profiles in updates, a line an arm, the legend from best to worst score.

    Args:
        rows: with curves; all arms with the same tasks and seeds.
        path: where to write; the ending chooses the format.
        reference: arm that sets the targets.
        way: see :func:`~agents.evaluation.stats.normalise.measure`.

    Raises:
        ValueError: as :func:`~agents.evaluation.stats.normalise.measure`.
    """
    ratios = time_ratios(measure(rows, reference, way))
    scores = {arm: profile_score(ratios[arm]) for arm in shown_arms(rows)}
    styles = arm_styles(rows)
    figure = new_figure(8.5, 4.5)
    ax = figure.subplots()
    for arm in sorted(scores, key=lambda arm: -scores[arm]):
        steps = ratios[arm][ratios[arm] <= SLOWEST]
        taus = np.unique([1.0, *steps, SLOWEST])
        ax.plot(
            taus,
            profile(ratios[arm], taus),
            label=f"{scores[arm]:.2f}  {arm}",
            drawstyle="steps-post",
            **styles[arm],
        )
    ax.set_xlim(1.0, SLOWEST)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel(
        f"updates to {100 * way:g} % of the way to {reference}'s final loss,\n"
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
    figure.savefig(path, dpi=150)


def plot_final_losses(
    rows: Sequence[Row], path: str | Path, reference: str = TUNED
) -> None:
    """Normalised final losses: a panel an arm, a line a task, 1 is the reference.

    Dots are means over seeds, bars their 95 % t intervals; further right is better.

    Args:
        rows: with curves; all arms with the same tasks and seeds.
        path: where to write; the ending chooses the format.
        reference: arm that losses are relative to.

    Raises:
        ValueError: as :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows, reference)
    arms, styles = shown_arms(rows), arm_styles(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    bands = math.ceil(len(arms) / COLUMNS)
    columns = math.ceil(len(arms) / bands)
    width = 2.0 + 1.5 * columns
    figure = new_figure(width, bands * (0.9 + 0.2 * len(tasks)))
    axes = figure.subplots(bands, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(arms) :]:
        ax.set_visible(False)
    found = {arm: per_task(runs, arm, "normalised") for arm in arms}
    for ax, arm in zip(axes.flat, arms, strict=False):
        _dots(ax, [found[arm][task] for task in tasks], styles[arm])
        ax.set_title(textwrap.fill(arm, TITLE_WIDTH), fontsize=8)
        ax.tick_params(labelsize=8, labelbottom=True)
    first = axes[0, 0]
    highest = max(values.mean() for each in found.values() for values in each.values())
    first.set_xlim(LOWEST - 0.03, max(1.05, highest + 0.03))
    first.set_yticks(range(len(tasks)), tasks)
    first.set_ylim(len(tasks) - 0.5, -0.5)
    label = (
        f"normalised final validation loss: 0 initial, 1 {reference}; higher is better "
        f"(triangles: below {LOWEST:g}, with their value)"
    )
    figure.supxlabel(textwrap.fill(label, int(width * LETTERS)), fontsize=9)
    figure.savefig(path, dpi=150)


def _dots(
    ax: Axes, scores: Sequence[npt.NDArray[np.float64]], style: Mapping[str, Any]
) -> None:
    """One panel: a dot and its interval for every task, from the top down."""
    ax.axvline(1.0, color="#000000", linewidth=0.8)
    points = [(i, *interval(list(values))) for i, values in enumerate(scores)]
    if shown := [point for point in points if point[1] >= LOWEST]:
        places, means, halves = np.array(shown).T
        # Intervals in grey and dots with a rim: a light colour alone is lost on white.
        ax.errorbar(
            means, places, xerr=np.nan_to_num(halves), fmt="o", markersize=4.5,
            color=style["color"], markeredgecolor=RIM, markeredgewidth=0.4, ecolor=RIM,
            elinewidth=1.0,
        )  # fmt: skip
    for i, mean, _ in points:
        if mean < LOWEST:
            ax.plot(LOWEST, i, marker="<", color=style["color"], markersize=4)
            ax.annotate(
                f"{mean:.2f}", (LOWEST, i), (5, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
    tidy(ax)
