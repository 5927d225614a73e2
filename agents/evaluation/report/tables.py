"""Tables of a benchmark, as text and as files.

Columns that do not fit on a line are continued below. The printed tables are, in this
order: losses and paired differences (:func:`format_table`), runs that are too long
(:func:`format_overshoots`), and aggregates over tasks (:func:`format_standings`): the
summary, wins and ties, and CPU time.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optenv.atomic import replacing, write_text

from ..arms.controls import CONTROLS
from ..row import DEFAULT, SHARED, TUNED, Row, ordered_arms
from ..runs.jobs import Choices
from ..stats.intervals import Estimate, Interval, interval
from ..stats.normalise import (
    MAX_NORMALISED,
    MISSED_SPEEDUP,
    difference,
    final_losses,
    measure,
    remaining_gap,
)
from ..stats.overshoot import TOLERANCE, overshoots
from ..stats.profiles import TIE_TOLERANCE, Record, lead, versus, worst_case
from ..stats.summary import Summary, cpu_ratios, summarize

__all__ = [
    "format_cpu",
    "format_overshoots",
    "format_records",
    "format_standings",
    "format_summary",
    "format_table",
    "with_worst_cases",
    "write_choices",
    "write_csv",
    "write_summary",
]

#: Largest number of characters of a line of losses, and of a line of a summary.
LOSS_TABLE_WIDTH = 120
SUMMARY_WIDTH = 140

#: Explanations of the arms to which results are relative.
ARMS_LEGEND = {
    DEFAULT: "AdamW with torch's default settings",
    SHARED: "AdamW at one setting tuned for all tasks",
    TUNED: "AdamW at the setting tuned for each task",
}

#: Explanations of the controls of a policy.
CONTROLS_LEGEND = {
    "untrained": "the policy's network before its training",
    "noise": "random moves of the learning rate, as large as the policy's",
    "replay": "the policy's mean schedule, whatever happens",
}

#: Suffix of the name of a policy's worst arm on each task.
WORST = ", worst lr"

#: Largest lead over the reference with which a run counts, in % of the gap.
MOST_AHEAD = f"{100.0 * (MAX_NORMALISED - 1.0):g} %"


# Losses of each task


def format_table(rows: Sequence[Row], width: int = LOSS_TABLE_WIDTH) -> str:
    """Format the mean losses, then each learned arm against every baseline.

    Args:
        rows: results of :func:`~agents.evaluation.evaluate`.
        width: characters of a line; columns that do not fit are continued below.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = ordered_arms(rows)
    seeds = len({row["seed"] for row in rows})
    cells = {
        arm: [
            _loss(interval(list(final_losses(rows, task, arm).values()))) for task in tasks
        ]
        for arm in arms
    }
    # 1. Losses of all arms.
    title = [f"Validation loss, mean ± 95 % interval over {seeds} seeds", *_legend(arms)]
    parts = [_grid("\n".join(title), tasks, cells, width)]
    # 2. Each learned arm against every baseline.
    learned = {row["arm"] for row in rows if row["learned"]}
    baselines = [arm for arm in arms if arm not in learned]
    for arm in (arm for arm in arms if arm in learned and baselines):
        text = [f"{arm} minus the baseline, seed by seed: below 0 is better, * excludes 0"]
        columns = _differences(rows, arm, baselines)
        if TUNED in baselines:
            text += [
                f"gap to tuned: final loss minus that of {TUNED}, in % of the decrease of "
                f"{TUNED}'s loss: below 0 is better;",
                "without a limit, so that a single task may dominate the mean (in IQM and "
                f"ahead, no run counts as more than {MOST_AHEAD} ahead)",
            ]
        parts.append(_grid("\n".join(text), [*tasks, "all tasks"], columns, width))
    return "\n\n".join(parts)


def _legend(arms: Sequence[str]) -> list[str]:
    """Explain arms whose names need an explanation, a line each."""
    lines = [f"{name}: {text}" for name, text in ARMS_LEGEND.items() if name in arms]
    for control in CONTROLS:
        if any(f" {control} lr " in arm for arm in arms):
            lines.append(f"{control}: {CONTROLS_LEGEND[control]}")
    return lines


def _differences(
    rows: Sequence[Row], arm: str, baselines: Sequence[str]
) -> dict[str, list[str]]:
    """Format paired differences, the number of wins, and the gap to tuned AdamW."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = {}
    for baseline in baselines:
        paired = [difference(rows, task, arm, baseline) for task in tasks]
        wins = [each for each in paired if each.mean < 0]
        count = f"{len(wins)} of {len(tasks)} better ({sum(w.decided for w in wins)}*)"
        columns[baseline] = [*(_signed_loss(each) for each in paired), count]
    if TUNED in baselines:
        gaps = [remaining_gap(rows, [task], arm, TUNED) for task in tasks]
        gaps.append(remaining_gap(rows, tasks, arm, TUNED))
        columns["gap to tuned, %"] = [_percent(each) for each in gaps]
    return columns


def format_overshoots(rows: Sequence[Row], arm: str = TUNED) -> str:
    """List the tasks whose runs end above their lowest loss by more than intended."""
    by_task = overshoots(rows, arm)
    too_long = {task: over for task, over in by_task.items() if over > TOLERANCE}
    text = (
        f"{arm} ends within {TOLERANCE:.0%} of its lowest validation loss on "
        f"{len(by_task) - len(too_long)} of {len(by_task)} tasks"
    )
    parts = ", ".join(f"{task} +{over:.1%}" for task, over in too_long.items())
    return f"{text}; above it: {parts}" if too_long else text


# Aggregates over tasks


def format_standings(rows: Sequence[Row]) -> str:
    """Format all tables of aggregates over tasks: summary, wins and ties, and CPU time.

    Raises:
        ValueError: see :func:`~agents.evaluation.summarize`.
    """
    parts = [format_summary(rows), format_cpu(rows)]
    if any(row["learned"] for row in rows):
        parts.insert(1, format_records(rows))
    return "\n\n".join(parts)


def format_summary(
    rows: Sequence[Row],
    reference: str = TUNED,
    baselines: Sequence[str] = (DEFAULT, TUNED),
    gap_fraction: float = 1.0,
    width: int = SUMMARY_WIDTH,
) -> str:
    """Format the summary of every arm, a line each.

    Args:
        rows, reference, baselines, gap_fraction: see
            :func:`~agents.evaluation.summarize`.
        width: characters of a line; columns that do not fit are continued below.
    """
    summaries = summarize(rows, reference, baselines, gap_fraction)
    tasks = len({row["task"] for row in rows})
    target = "its final loss"
    if gap_fraction != 1.0:
        target = f"{100 * gap_fraction:g} % of its gap closed"
    title = [
        f"{tasks} tasks, {summaries[0].runs} runs an arm; "
        "[95 % interval of the stratified bootstrap over seeds]",
        "IQM: interquartile mean of final losses, 0 as at the start or worse, 1 as "
        f"{reference}; area: mean over the whole run;",
        f"in both, no run counts as more than {MOST_AHEAD} of the gap (from the initial to "
        f"{reference}'s loss) ahead",
        f"P(better): probability that a run beats one of {reference}; "
        f"reached: runs that reach the target, {target}",
        f"speed-up, CPU: {reference}'s updates and CPU time to it over the arm's, "
        f"a miss counts {MISSED_SPEEDUP:g}; profile: score of the performance profile",
    ]
    if names := " and ".join(summaries[0].records):
        tie = f"{100 * TIE_TOLERANCE:g} % of the gap"
        title.append(f"{names}: tasks won / won or tied within {tie} / lost")
    title.append("diverged: runs that end above their initial loss")
    if any(each.arm.endswith(WORST) for each in summaries):
        title.append("worst lr: at the base learning rate that is worst for each task")
    columns = {
        "IQM": [_estimate(each.iqm) for each in summaries],
        "area": [f"{each.area:.3f}" for each in summaries],
        "P(better)": [f"{each.better.value:.2f}" for each in summaries],
        "reached": [f"{each.reached:.0%}" for each in summaries],
        "speed-up": [f"{each.speedup:.2f}" for each in summaries],
        "CPU": [f"{each.cpu_speedup:.2f}" for each in summaries],
        "profile": [f"{each.profile:.2f}" for each in summaries],
        **{
            baseline: [_record(each.records[baseline]) for each in summaries]
            for baseline in summaries[0].records
        },
        "diverged": [str(each.diverged) for each in summaries],
    }
    return _grid("\n".join(title), [each.arm for each in summaries], columns, width)


def format_records(rows: Sequence[Row], width: int = SUMMARY_WIDTH) -> str:
    """Format tasks won, tied and lost by every learned arm, a line per baseline.

    Raises:
        ValueError: see :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows)
    learned = {row["arm"] for row in rows if row["learned"]}
    baselines = [arm for arm in ordered_arms(rows) if arm not in learned]
    ours = [arm for arm in ordered_arms(rows) if arm in learned]
    title = (
        "Ours against each baseline: tasks won / won or tied within "
        f"{100 * TIE_TOLERANCE:g} % of the gap / lost;\n"
        f"ahead: mean over tasks, in % of the gap, from the initial to {TUNED}'s loss, and "
        "95 % interval over seeds;\n"
        f"no run counts as more than {MOST_AHEAD} ahead of {TUNED}, or as worse than its "
        "initial loss"
    )
    columns = {
        arm: [
            f"{_record(versus(rows, arm, baseline))} "
            f"{_percent(lead(runs, arm, baseline)):>12}"
            for baseline in baselines
        ]
        for arm in ours
    }
    return _grid(title, baselines, columns, width)


def format_cpu(rows: Sequence[Row], width: int = SUMMARY_WIDTH) -> str:
    """Format the :func:`~agents.evaluation.stats.summary.cpu_ratios`, a line per arm."""
    ratios = cpu_ratios(rows)
    arms = ordered_arms(rows)
    title = f"CPU time of an update, in updates of {DEFAULT}; geometric mean"
    return _grid(title, arms, {"CPU": [f"{ratios[arm]:.2f}" for arm in arms]}, width)


def with_worst_cases(
    rows: Sequence[Row], families: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Return the rows, and the rows of the worst arm of each family on every task.

    Args:
        rows: rows of all arms.
        families: names of the arms of each family, by the family's name. The worst case of
            the family ``"ours"`` is the arm ``"ours, worst lr"``; a family of one arm has
            none.
    """
    extended = list(rows)
    for family, arms in families.items():
        if len(arms) > 1:
            extended += worst_case(rows, arms, f"{family}{WORST}")
    return extended


# Files


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """Write a line for each run; curves, traces and shifts are left out.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no results to write")
    series = ("curve", "lr_trace", "shifts")
    names = [name for name in Row.__annotations__ if name not in series]
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_summary(rows: Sequence[Row], path: str | Path) -> None:
    """Write a line for each arm, as CSV.

    The columns are the fields of :class:`~agents.evaluation.stats.summary.Summary`. An
    estimate also has the ends of its interval, ``NAME_low`` and ``NAME_high``; the records
    are ``wins``, ``wins_or_ties`` and ``losses``, each followed by the baseline's name. The
    last column is ``cpu``, from :func:`~agents.evaluation.stats.summary.cpu_ratios`.

    Raises:
        ValueError: see :func:`~agents.evaluation.summarize`.
    """
    ratios = cpu_ratios(rows)
    lines = [{**_flatten(each), "cpu": ratios[each.arm]} for each in summarize(rows)]
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _flatten(summary: Summary) -> dict[str, Any]:
    """Return the cells of a summary by the names of their columns."""
    line: dict[str, Any] = {}
    for name, value in summary._asdict().items():
        if isinstance(value, Estimate):
            line |= {
                name: value.value,
                f"{name}_low": value.low,
                f"{name}_high": value.high,
            }
        elif name == "records":
            for baseline, record in value.items():
                for count in ("wins", "wins_or_ties", "losses"):
                    line[f"{count} {baseline}"] = getattr(record, count)
        else:
            line[name] = value
    return line


def write_choices(choices: Choices, path: str | Path) -> None:
    """Write what tuning chose for each task and column, as JSON."""
    by_task = {
        task: {column: choice._asdict() for column, choice in chosen.items()}
        for task, chosen in choices.items()
    }
    write_text(path, json.dumps(by_task, indent=2) + "\n")


# Cells and lines


def _loss(value: Interval) -> str:
    return f"{value.mean:.4f}" + _half(value.half, ".4f")


def _signed_loss(value: Interval) -> str:
    star = "*" if value.decided else " "
    return f"{value.mean:+.4f}" + _half(value.half, ".4f") + star


def _percent(value: Interval) -> str:
    """Format a percentage with its interval, as ``+1.5 ±0.7``."""
    return f"{value.mean:+.1f}" + _half(value.half, ".1f")


def _half(half: float, spec: str) -> str:
    return "" if math.isnan(half) else f" ±{half:{spec}}"


def _estimate(value: Estimate) -> str:
    if math.isnan(value.low):
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _record(record: Record) -> str:
    """Format tasks won, won or tied, and lost, as ``3/4/1``."""
    return f"{record.wins}/{record.wins_or_ties}/{record.losses}"


def _grid(
    title: str, names: Sequence[str], columns: Mapping[str, Sequence[str]], width: int
) -> str:
    """Format a table in blocks of columns that are at most ``width`` characters wide.

    Args:
        title: lines above the table.
        names: first cell of each line, repeated in every block.
        columns: cells from top to bottom, by the head of the column.
        width: characters of a line.
    """
    first = max(len(name) for name in names)
    blocks: list[list[list[str]]] = []
    used = width + 1
    for head, cells in columns.items():
        size = max(len(cell) for cell in [head, *cells])
        if used + size + 2 > width:  # begin a block, with the names of the lines
            blocks.append([[" " * first], *([name.ljust(first)] for name in names)])
            used = first
        for line, cell in zip(blocks[-1], [head, *cells], strict=True):
            line.append(cell.rjust(size))
        used += size + 2
    return "\n".join(
        [title, *("  ".join(line).rstrip() for block in blocks for line in block)]
    )
