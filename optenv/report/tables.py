"""Tables of recorded runs, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..intervals import interval
from .runs import Recording, groups_of

__all__ = ["markdown"]


def markdown(recordings: Sequence[Recording]) -> str:
    """Format the returns of each group of runs, and the times of a control step.

    Args:
        recordings: recordings to compare.
    """
    return f"{_returns(recordings)}\n{_times(recordings)}"


def _returns(recordings: Sequence[Recording]) -> str:
    rows = []
    for name in groups_of(recordings):
        for each in recordings:
            own = each.group == name
            if own.any():
                rows.append([name, each.label, *_measures(each, own)])
    if len(groups_of(recordings)) > 1:
        rows += [["**mean**", each.label, *_overall(each)] for each in recordings]
    head = ["instance", "policy", "runs", "return (95 %)", "final loss", "diverged"]
    return _table(head, rows, left=2)


def _measures(recording: Recording, own: np.ndarray) -> list[str]:
    """Format the measures of some runs, with the median loss, as losses may be infinite."""
    loss = np.quantile(recording.final_loss[own], 0.5, method="inverted_cdf")
    return [
        f"{int(own.sum())}",
        _mean(recording.returns[own].tolist()),
        f"{loss:.4g}",
        f"{int(recording.diverged[own].sum())}",
    ]


def _overall(recording: Recording) -> list[str]:
    """Format the mean of the groups' mean returns, with an interval over the groups."""
    measures = _measures(recording, np.ones(len(recording.returns), np.bool_))
    return [measures[0], _mean(recording.group_means()), *measures[2:]]


def _mean(values: list[float]) -> str:
    """Format a mean with its 95 % interval, if there is one."""
    found = interval(values)
    return f"{found.mean:.3f}" + (f" ± {found.half:.3f}" if found.half >= 0 else "")


def _times(recordings: Sequence[Recording]) -> str:
    rows = []
    for each in recordings:
        for part, seconds in each.seconds.items():
            low, middle, high = 1e3 * np.quantile(seconds, (0.05, 0.5, 0.95))
            rows.append([each.label, part, f"{middle:.3g}", f"{low:.3g} to {high:.3g}"])
    return _table(["policy", "time of", "ms a control step", "5 % to 95 %"], rows, left=2)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Format a table whose first ``left`` columns are aligned to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = [
        "-" * width if i < left else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    lines = []
    for row in [head, rule, *rows]:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)
