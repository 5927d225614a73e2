"""What a benchmark leaves: tables to read, files to go on with, pictures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arms.defaults import DEFAULT, SHARED, TUNED
from ..runs.jobs import Choices
from ..stats.intervals import Estimate
from ..stats.normalise import check_runs, cost, measure
from ..stats.profiles import BAND, Record, ahead, versus, worst_case
from ..stats.results import Row, grid, percent, shown_arms
from ..stats.summary import WIDTH, Summary, format_record, format_summary, summarize
from .plots import plot_curves

__all__ = [
    "cpu_ratios",
    "format_cpu",
    "format_records",
    "format_standings",
    "plot_rates",
    "with_worst_cases",
    "write_choices",
    "write_summary",
]


def with_worst_cases(
    rows: Sequence[Row], families: Mapping[str, Sequence[str]]
) -> list[Row]:
    """The rows, and those of the worst arm of each family on every task.

    Args:
        rows: of all arms.
        families: names of arms, by the name that they share; a family of one has no
            worst case. That of ``"ours"`` is the arm ``"ours, worst lr"``.
    """
    more = list(rows)
    for family, arms in families.items():
        if len(arms) > 1:
            more += worst_case(rows, arms, f"{family}, worst lr")
    return more


def cpu_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """CPU time of an update over that of AdamW's, by arm.

    It is that of forward, backward and step: the geometric mean over tasks and seeds. Each
    run was timed in updates of AdamW beside it
    (:func:`~agents.evaluation.stats.normalise.cost`),
    which are somewhat faster than those of a run of AdamW itself, as they come in pairs:
    so the ratios are to that run's.

    Raises:
        ValueError: an arm lacks runs that another has, or no CPU time was measured.
    """
    check_runs(rows, DEFAULT)
    logs: dict[str, list[float]] = {}
    for row in rows:
        if not cost(row) > 0.0:
            raise ValueError("the CPU time of some runs is not positive")
        logs.setdefault(row["arm"], []).append(math.log(cost(row)))
    means = {arm: sum(values) / len(values) for arm, values in logs.items()}
    return {arm: math.exp(mean - means[DEFAULT]) for arm, mean in means.items()}


def format_cpu(rows: Sequence[Row], width: int = WIDTH) -> str:
    """The :func:`cpu_ratios` as text, a line an arm."""
    ratios = cpu_ratios(rows)
    arms = shown_arms(rows)
    title = f"CPU time of an update, in updates of {DEFAULT}; geometric mean"
    return grid(title, arms, {"CPU": [f"{ratios[arm]:.2f}" for arm in arms]}, width)


def format_records(rows: Sequence[Row], width: int = WIDTH) -> str:
    """Tasks won, tied and lost by every learned arm, a line a baseline, and by how much.

    Raises:
        ValueError: as :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows)
    learned = {row["arm"] for row in rows if row["learned"]}
    baselines = [arm for arm in shown_arms(rows) if arm not in learned]
    ours = [arm for arm in shown_arms(rows) if arm in learned]
    title = (
        "Ours against each baseline: tasks won / won or tied within "
        f"{100 * BAND:g} % of the way / lost;\n"
        "ahead: mean over tasks, % of the way of AdamW tuned, and 95 % interval over seeds"
    )
    columns = {
        arm: [
            f"{format_record(versus(rows, arm, baseline))} "
            f"{percent(ahead(runs, arm, baseline)):>12}"
            for baseline in baselines
        ]
        for arm in ours
    }
    return grid(title, baselines, columns, width)


def format_standings(rows: Sequence[Row]) -> str:
    """All tables over the tasks together: summary, wins and ties, and CPU time.

    Raises:
        ValueError: as :func:`~agents.evaluation.summarize`.
    """
    parts = [format_summary(rows), format_cpu(rows)]
    if any(row["learned"] for row in rows):
        parts.insert(1, format_records(rows))
    return "\n\n".join(parts)


def write_summary(rows: Sequence[Row], path: str | Path) -> None:
    """One line an arm.

    The columns are the fields of :class:`~agents.evaluation.stats.summary.Summary`: of an
    estimate also the ends of its interval, ``NAME_low`` and ``NAME_high``, of the records
    ``wins``, ``wins_or_ties`` and ``losses``, each with the baseline's name behind. The
    last is ``cpu``, of :func:`cpu_ratios`.

    Raises:
        ValueError: as :func:`~agents.evaluation.summarize`.
    """
    ratios = cpu_ratios(rows)
    lines = [{**_flat(each), "cpu": ratios[each.arm]} for each in summarize(rows)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _flat(found: Summary) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, value in found._asdict().items():
        if isinstance(value, Estimate):
            line |= {
                name: value.value,
                f"{name}_low": value.low,
                f"{name}_high": value.high,
            }
        elif name == "records":
            for baseline, record in value.items():
                line |= _flat_record(record, baseline)
        else:
            line[name] = value
    return line


def _flat_record(record: Record, baseline: str) -> dict[str, int]:
    names = ("wins", "wins_or_ties", "losses")
    return {f"{name} {baseline}": getattr(record, name) for name in names}


def write_choices(choices: Choices, path: str | Path) -> None:
    """What tuning chose, as JSON: by task and column, a learning rate and a schedule."""
    found = {
        task: {column: choice._asdict() for column, choice in chosen.items()}
        for task, chosen in choices.items()
    }
    Path(path).write_text(json.dumps(found, indent=2) + "\n")


def plot_rates(rows: Sequence[Row], path: str | Path) -> None:
    """Curves and learning rates of ours and of AdamW, tuned and not.

    Of all arms of a benchmark, two dozen curves in one panel could not be told apart.
    """
    few = (DEFAULT, SHARED, TUNED)
    plot_curves([row for row in rows if row["learned"] or row["arm"] in few], path)
