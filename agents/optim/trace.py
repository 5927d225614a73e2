"""What a learned optimizer saw and did, decision by decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optenv.rules.switching import NAMES
from optenv.telemetry import FEATURES, OBSERVATION_BOUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation", "empty", "record"]

#: What a decision is, before what was seen at it.
_DECISION = {
    "step": "steps taken before the decision",
    "moved": "change of the log-multiplier that the policy asked for, in nats",
    "multiplier": "of the learning rate, without the schedule, from this step on",
}

_RULE = "update rule that moves the parameters, from this step on"


#: Decisions that are shown of a run that may have any number of them: the last ones.
MANY = 1000


def empty(decisions: int | None, dtype: torch.dtype) -> Tensor:
    """Trace without decisions, with room for as many as there will be; None: nobody knows.

    Its shape never changes, so that a checkpoint of one moment can be loaded at another.
    """
    shape = (decisions or MANY, len(_DECISION) + len(FEATURES) + 1)
    return torch.full(shape, -1.0, dtype=dtype, device="cpu")


def record(
    trace: Tensor,
    step: int,
    observation: Tensor,
    moved: Tensor,
    log_multiplier: Tensor,
    chosen: Tensor,
) -> Tensor:
    """The trace with one more decision, the last row; the first is dropped.

    Args:
        trace: ``[n, 3 + F + 1]``, from :func:`empty` or from here.
        step: steps taken before it.
        observation: ``[1, F]``.
        moved: change of the log-multiplier that the policy asked for, ``[1]``.
        log_multiplier: what it came to, ``[1]``.
        chosen: update rule, an index of ``switching.NAMES``, ``[1]``; -1 for none.
    """
    first = torch.full((1,), float(step), dtype=trace.dtype, device="cpu")
    row = torch.cat(
        [first, moved, log_multiplier.exp(), observation[0], chosen.to(trace.dtype)]
    )
    return torch.cat([trace[1:], row[None]])


class Explanation(list[dict[str, Any]]):
    """A dict for each decision: ``step`` (taken before it), ``moved`` (change of the
    log-multiplier that the policy asked for, nats), ``multiplier`` (of the learning rate,
    without the schedule, from this step on), and every feature of the observation
    by its name, in the units that the policy sees, which
    :data:`optenv.telemetry.FEATURES` tells. Of a policy that chooses update rules also
    ``rule``, the name of the one in force from this step on.

    ``print`` shows a table of the first three and of three features, and what they are;
    ``pandas.DataFrame(explanation)`` makes one of all.
    """

    def __init__(self, trace: Tensor) -> None:
        names = (*_DECISION, *FEATURES)
        made: list[dict[str, Any]] = []
        for *row, chosen in trace[trace[:, 0] >= 0].tolist():
            made.append(dict(zip(names, row, strict=True)))
            if chosen >= 0:
                made[-1]["rule"] = NAMES[int(chosen)]
        super().__init__(made)

    def __str__(self) -> str:
        shown = (*_DECISION, "loss_vs_initial", "loss_vs_previous", "cos_grads_mean")
        head = ["rule"] if any("rule" in row for row in self) else []
        lines = ["  ".join([*(f"{name:>16}" for name in shown), *head])]
        for row in self:
            values = [f"{row['step']:16.0f}", *(f"{row[name]:16.4g}" for name in shown[1:])]
            lines.append("  ".join([*values, row.get("rule", "")]).rstrip())
        meanings = {**_DECISION, **FEATURES, "rule": _RULE}
        lines += [""] + [f"{name}: {meanings[name]}" for name in (*shown, *head)]
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the multiplier, and every feature, over the steps (needs matplotlib).

        Of a policy that chooses update rules, each has a colour of its own.

        Args:
            path: of a picture to write.

        Raises:
            ValueError: no decision has been made yet.
            ImportError: matplotlib is not installed.
        """
        if not self:
            raise ValueError("there is nothing to plot: no decision has been made yet")
        # Not pyplot, which would keep the figure, and choose how to show it.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 8), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(1, 3))
        steps = [row["step"] for row in self]
        above.step(steps, [row["multiplier"] for row in self], where="post", marker=".")
        for rule in dict.fromkeys(row["rule"] for row in self if "rule" in row):
            chosen = [row for row in self if row.get("rule") == rule]
            places = [row["step"] for row in chosen], [row["multiplier"] for row in chosen]
            above.plot(*places, linestyle="", marker="o", label=rule)
            above.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        above.set(yscale="log", xlabel="step", ylabel="multiplier")
        above.grid(alpha=0.3)
        seen = torch.tensor([[row[name] for row in self] for name in FEATURES])
        bound = OBSERVATION_BOUND
        image = below.imshow(
            seen.numpy(), aspect="auto", cmap="coolwarm", vmin=-bound, vmax=bound,
            interpolation="nearest",
        )  # fmt: skip
        below.set_yticks(range(len(FEATURES)), list(FEATURES))
        shown = range(0, len(self), max(1, len(self) // 8))
        below.set_xticks(shown, [f"{steps[i]:.0f}" for i in shown])
        below.set(xlabel="step of the decision")
        figure.colorbar(image, ax=below, label="observation")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
