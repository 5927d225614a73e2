"""Trace of the policy's decisions, and the :class:`Explanation` made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optenv.rules.switching import NAMES
from optenv.telemetry import FEATURES, OBSERVATION_BOUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation", "append", "empty"]

#: Columns of a decision ahead of the features, and their meanings.
_DECISION = {
    "step": "steps taken before the decision",
    "moved": "change of the log-multiplier that the policy asked for, in nats",
    "multiplier": "of the learning rate, without the schedule, from this step on",
}

_RULE = "update rule in force from this step on"

#: Decisions kept of a run of unknown length: the latest.
MAX_DECISIONS = 1000


def empty(decisions: int | None, dtype: torch.dtype) -> Tensor:
    """Make a trace without decisions, ``[n, 3 + F + 1]``.

    Its shape never changes, so that a checkpoint of one moment loads at another.

    Args:
        decisions: number of decisions of the run; None if unknown.
        dtype: of the trace.
    """
    shape = (decisions or MAX_DECISIONS, len(_DECISION) + len(FEATURES) + 1)
    return torch.full(shape, -1.0, dtype=dtype, device="cpu")


def append(
    trace: Tensor,
    step: int,
    features: Tensor,
    shift: Tensor,
    log_multiplier: Tensor,
    rule: Tensor,
) -> Tensor:
    """Return the trace with one more decision as its last row, without its first row.

    Args:
        trace: ``[n, 3 + F + 1]``, from :func:`empty` or from here.
        step: steps taken before the decision.
        features: telemetry features, ``[1, F]``.
        shift: change of the log-multiplier that the policy asked for, ``[1]``.
        log_multiplier: the log-multiplier after the decision, ``[1]``.
        rule: chosen update rule, an index of ``switching.NAMES``, ``[1]``; -1 for none.
    """
    first = torch.full((1,), float(step), dtype=trace.dtype, device="cpu")
    row = torch.cat([first, shift, log_multiplier.exp(), features[0], rule.to(trace.dtype)])
    return torch.cat([trace[1:], row[None]])


class Explanation(list[dict[str, Any]]):
    """Decisions of a policy, one dict each.

    The keys are ``step`` (steps taken before the decision), ``moved`` (change of the
    log-multiplier that the policy asked for, in nats), ``multiplier`` (of the learning
    rate, without the schedule, from this step on), and the name of every feature, in the
    units that the policy sees (:data:`optenv.telemetry.FEATURES`). Policies that choose
    update rules add ``rule``, the name of the one in force from this step on.

    ``print`` shows a table of the first three keys and of three features, with their
    meanings; ``pandas.DataFrame(explanation)`` makes a table of all.

    Args:
        trace: of the controller, see :func:`append`.
        note: how far the run is, which ``print`` shows at the end.
    """

    def __init__(self, trace: Tensor, note: str = "") -> None:
        self.note = note
        names = (*_DECISION, *FEATURES)
        decisions: list[dict[str, Any]] = []
        for *row, rule in trace[trace[:, 0] >= 0].tolist():
            decisions.append(dict(zip(names, row, strict=True)))
            if rule >= 0:
                decisions[-1]["rule"] = NAMES[int(rule)]
        super().__init__(decisions)

    def __str__(self) -> str:
        columns = (*_DECISION, "loss_vs_initial", "loss_vs_previous", "cos_grads_mean")
        rule = ["rule"] if any("rule" in row for row in self) else []
        lines = ["  ".join([*(f"{name:>16}" for name in columns), *rule])]
        for row in self:
            values = [
                f"{row['step']:16.0f}",
                *(f"{row[name]:16.4g}" for name in columns[1:]),
            ]
            lines.append("  ".join([*values, row.get("rule", "")]).rstrip())
        meanings = {**_DECISION, **FEATURES, "rule": _RULE}
        lines += [""] + [f"{name}: {meanings[name]}" for name in (*columns, *rule)]
        lines += ["", self.note] if self.note else []
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the multiplier, and every feature, over the steps (needs matplotlib).

        Update rules, where the policy chooses them, have a colour each.

        Args:
            path: of a picture to write.

        Raises:
            ValueError: no decision has been made yet.
            ImportError: matplotlib is not installed.
        """
        if not self:
            raise ValueError("there is nothing to plot: no decision has been made yet")
        # Not pyplot, which would keep the figure, and choose how to show it.
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install matplotlib, which the extra "
                '"train" has too'
            ) from error

        figure = Figure(figsize=(8, 8), layout="constrained")
        figure.suptitle(f"Decisions of a policy; {self.note}" if self.note else "Decisions")
        above, below = figure.subplots(2, 1, height_ratios=(1, 3), sharex=True)
        # 1. The multiplier, marked by update rule.
        steps = [row["step"] for row in self]
        above.step(steps, [row["multiplier"] for row in self], where="post", marker=".")
        for rule in dict.fromkeys(row["rule"] for row in self if "rule" in row):
            chosen = [row for row in self if row.get("rule") == rule]
            points = [row["step"] for row in chosen], [row["multiplier"] for row in chosen]
            above.plot(*points, linestyle="", marker="o", label=rule)
            above.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        above.set(yscale="log", ylabel="multiplier")
        above.grid(alpha=0.3)
        # 2. The features, as an image whose columns last from one decision to the next.
        features = torch.tensor([[row[name] for row in self] for name in FEATURES])
        bound = OBSERVATION_BOUND
        last = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
        image = below.pcolormesh(
            [*steps, last], range(len(FEATURES) + 1), features.numpy(),
            cmap="coolwarm", vmin=-bound, vmax=bound,
        )  # fmt: skip
        below.set_yticks([i + 0.5 for i in range(len(FEATURES))], list(FEATURES))
        below.invert_yaxis()
        below.set(xlabel="step")
        figure.colorbar(image, ax=below, label="observation")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
