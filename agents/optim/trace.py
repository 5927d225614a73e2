"""Trace of the policy's decisions, and the :class:`Explanation` made from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optenv.actions import Action
from optenv.atomic import replacing
from optenv.rules.switching import NAMES
from optenv.telemetry import (
    FEATURES,
    OBSERVATION_BOUND,
    meaning_of,
    observed_features,
    registered_among,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MEANINGS",
    "Explanation",
    "append",
    "columns",
    "empty",
    "extra_names",
    "note_rate",
    "rules_of",
    "widened",
]

#: Columns before the features, and their meanings.
_DECISION = {
    "step": "steps taken before the decision",
    "moved": "requested change of the log learning rate; +0.1 asks for a rate 11 % higher",
    "multiplier": "factor that the policy applies to the learning rate, from this step on; "
    "before the first decision, e to the power of the start of the policy's action",
    "schedule": "factor that warm-up, final decay and a torch scheduler apply to the "
    "learning rate at this step; 1 if there are none",
    "rate": "learning rate used at this step; with several groups, the highest",
    "loss": "mean loss since the previous decision; none if no loss was given",
}

#: Columns that traces of version 0.1 lack.
_LATER = ("schedule", "rate", "loss")


def _unknown(dtype: torch.dtype) -> list[float]:
    """Return the values of the columns :data:`_LATER` that stand for unknown ones.

    Schedule and rate are never below 0; a loss may be.
    """
    return [-1.0, -1.0, -torch.finfo(dtype).max]


#: Meanings of the features, with examples of their values.
_FEATURES = {
    "progress": "fraction of the run completed; -1: at the start, +1: at the end",
    "elapsed": "log of the fraction of the run completed; -1: 1/20 of it, 0: all of it",
    "remaining": "log of the fraction of the run that remains; 0: all of it, -1: 1/20",
    "run_length": "log of the number of steps of the run; 0: 400 steps, +1: 20 times as "
    "many",
    "log_multiplier": "log of the multiplier before this decision; 0: multiplier 1, +1: "
    "20, -1: 1/20",
    "learning_rate": "log of the base rate times the multiplier; 0: the rule's usual rate, "
    "+1: 7.4 times that rate",
    "previous_action": "requested change of the log learning rate at the previous decision",
    "has_loss": "1: losses were given; 0: none was, and all features of the loss are 0",
    "loss_vs_initial": "mean loss relative to the first; 0: equal, -1: 1/7.4 of it",
    "loss_vs_previous": "mean loss relative to the previous decision's; 0: equal, +0.5: "
    "4 % higher, +1: 13 % higher",
    "loss_vs_best": "mean loss relative to the lowest so far; 0: equal, +0.5: 4 % higher, "
    "+1: 13 % higher",
    "loss_trend": "recent losses relative to earlier ones; 0: equal, -0.5: 4 % lower",
    "loss_noise": "standard deviation of the losses relative to their mean; 0: 14 %, +1: "
    "7.4 times as much",
    "grad_vs_initial": "gradient norm relative to the first; 0: equal, +1: 7.4 times as "
    "large",
    "grad_vs_previous": "gradient norm relative to the previous decision's; 0: equal, +1: "
    "3.4 times as large",
    "cos_grads": "cosine between the last two gradients; +1.5: same direction, 0: "
    "orthogonal, -1.5: opposite directions",
    "cos_grads_mean": "average cosine between consecutive gradients; +1.5: same direction, "
    "0: orthogonal, -1.5: opposite directions",
    "cos_step": "cosine between the gradient and the last step; negative: the loss still "
    "falls in the direction of the step, positive: it rises again",
    "cos_step_mean": "average cosine between the gradient and the step before it; "
    "negative: the loss still falls in the direction of the step, positive: it rises again",
    "cos_descent": "cosine between a step and the gradient it used; -1.5: straight "
    "downhill, 0: orthogonal to the gradient",
    "slope_ratio": "slope of the loss along the last step, after it relative to before it; "
    "-0.9: unchanged, 0: at a minimum, positive: past the minimum",
    "step_size": "norm of the last step relative to that of the parameters; 0: 0.1 %, +1: "
    "7.4 times as large",
    "predicted_decrease": "decrease of the loss that the slope predicts, relative to the "
    "loss; 0: 0.7 %, +1: 20 times as much",
    "param_growth": "norm of the parameters relative to the first; 0: equal, +1: 3.4 times "
    "as large",
    "loss_fall": "decrease of the mean loss since the previous decision, relative to the "
    "range of the losses so far; 0: none, +0.5: 4 % of the range, negative: an increase",
    "loss_rise": "mean loss above the lowest so far, relative to the range of the losses "
    "so far; 0: equal to the lowest, +0.5: 4 % of the range above it",
    "loss_fall_noise": "decrease of the mean loss in standard errors; 0: none, +0.9: 3 "
    "standard errors, negative: an increase",
    "loss_fall_usual": "decrease of the mean loss relative to its usual change; 0: none, "
    "+0.44: the usual change, negative: an increase",
    "loss_fall_trend": "mean loss below its moving average, relative to its usual change; "
    "+0.44: below it by the usual change, negative: above it",
    "loss_usual_change": "usual change of the mean loss relative to the range of the "
    "losses so far; 0: 5 %, +1: 7.4 times as much",
    "loss_noise_range": "standard deviation of the losses relative to the range of their "
    "means so far; 0: 5 %, +1: 7.4 times as much",
    "has_validation": "1: a validation loss has been given; 0: none has, and all features "
    "of it are 0",
    "validation_age": "log of the number of decisions since the last validation loss; 0: "
    "none, +1: 6",
    "validation_fall": "decrease of the last validation loss relative to the range of "
    "validation losses so far; 0: none, +0.5: 4 % of the range, negative: an increase",
    "validation_rise": "last validation loss above the lowest so far, relative to the "
    "range of validation losses so far; 0: equal to the lowest, +0.5: 4 % of the range "
    "above it",
    "validation_usual_change": "usual change of the validation loss relative to the range "
    "of validation losses so far; 0: 14 %, +1: all of the range",
    "validation_gap": "last validation loss above the training loss, relative to the range "
    "of training losses so far; 0: equal, +0.5: 12 % of the range above it",
}

#: Columns of some policies, and their meanings.
_OTHERS = {
    "rule": "update rule used from this step on",
    "batch_size": "number of examples in the next batches",
}

#: Meanings of all columns of an :class:`Explanation`, in plain words.
MEANINGS = {
    **_DECISION,
    **_FEATURES,
    **_OTHERS,
}

#: Columns that ``print`` shows; of the features, those that the policy observes.
_SHOWN = (
    *_DECISION, "loss_vs_initial", "loss_vs_previous", "loss_fall", "cos_grads_mean",
    "validation_fall",
)  # fmt: skip

#: Number of decisions that are kept in a run of unknown length: the latest ones.
MAX_DECISIONS = 1000


def extra_names(action: Action) -> tuple[str, ...]:
    """Return the names of a trace's last columns: what an action sets besides the rate."""
    if action.sets_batch_size:
        return ("batch_size",)
    parts = ("lowest", "highest") if action.per_tensor else action.roles
    return (*action.sets, *(f"multiplier_{part}" for part in parts))


def columns(features: Sequence[str], action: Action) -> int:
    """Return the number of a trace's columns: decision, features, rule, and the rest.

    Args:
        features: names of the features that are observed.
        action: action of the policy.
    """
    return len(_DECISION) + len(features) + 1 + len(extra_names(action))


def rules_of(trace: Tensor, features: Sequence[str]) -> Tensor:
    """Return the column of update rules: indices of ``switching.NAMES``, or -1 for none."""
    return trace[:, len(_DECISION) + len(features)]


def empty(decisions: int | None, dtype: torch.dtype, width: int) -> Tensor:
    """Make a trace without decisions, ``[n, width]``.

    The shape of a trace never changes, so that a checkpoint loads at any step of a run.

    Args:
        decisions: number of decisions in the run; None if unknown.
        dtype: data type of the trace.
        width: number of columns, see :func:`columns`.
    """
    shape = (decisions or MAX_DECISIONS, width)
    return torch.full(shape, -1.0, dtype=dtype, device="cpu")


def append(
    trace: Tensor,
    step: int,
    features: Tensor,
    shift: Tensor,
    log_multiplier: Tensor,
    rule: Tensor,
    loss: float | None,
    extra: Tensor,
) -> Tensor:
    """Return the trace with another decision as its last row, and without its first row.

    The decision's schedule and rate are unknown until :func:`note_rate`.

    Args:
        trace: trace ``[n, columns]`` so far.
        step: steps taken before the decision.
        features: telemetry features, ``[1, F]``.
        shift: change of the log-multiplier that the policy asked for, in nats, ``[1]``.
        log_multiplier: log-multiplier after the decision, in nats, ``[1]``.
        rule: chosen update rule, an index of ``switching.NAMES``, ``[1]``; -1 for none.
        loss: mean loss since the previous decision; None if there was none.
        extra: values of the columns :func:`extra_names`, ``[1, k]``.
    """
    later_values = _unknown(trace.dtype)
    if loss is not None:
        most = torch.finfo(trace.dtype).max
        later_values[-1] = min(max(loss, -most / 2), most)
    first, later = (
        torch.tensor(values, dtype=trace.dtype, device="cpu")
        for values in ([float(step)], later_values)
    )
    chosen = rule.to(trace.dtype)
    parts = [first, shift, log_multiplier.exp(), later, features[0], chosen, extra[0]]
    row = torch.cat(parts)
    return torch.cat([trace[1:], row[None]])


def note_rate(trace: Tensor, schedule: float, rate: float) -> Tensor:
    """Return the trace with schedule factor and learning rate of its last decision."""
    trace = trace.clone()
    begin = list(_DECISION).index("schedule")
    trace[-1, begin : begin + 2] = torch.tensor(
        [schedule, rate], dtype=trace.dtype, device="cpu"
    )
    return trace


def widened(trace: Any, features: Sequence[str], action: Action) -> Any:
    """Return a trace of version 0.1 with the columns added since; others unchanged.

    Such a trace always has the features of positive losses; those that the policy does not
    observe are dropped.
    """
    observed = observed_features("positive")
    begin = len(_DECISION) - len(_LATER)
    width = columns(observed, action) - len(_LATER)
    if not isinstance(trace, Tensor) or trace.shape[1:] != (width,):
        return trace
    unknown = trace.new_tensor(_unknown(trace.dtype)).expand(len(trace), -1)
    nothing = trace.new_zeros(len(trace))
    rest = begin + len(observed)
    by_name = dict(zip(observed, trace[:, begin:rest].T, strict=True))
    shown = [by_name.get(name, nothing) for name in features]
    parts = [trace[:, :begin], unknown, torch.stack(shown, dim=1), trace[:, rest:]]
    return torch.cat(parts, dim=1)


class Explanation(list[dict[str, Any]]):
    """Decisions of a policy, a list with one dict each.

    Every decision has the keys

    - ``step``: steps taken before the decision;
    - ``moved``: change of the log-multiplier that the policy asked for, in nats;
    - ``multiplier``: multiplier of the policy, from this step on; before the first
      decision, it is ``exp`` of the action's ``start``;
    - ``schedule``: factor of warm-up and base schedule at this step, times the factor of a
      torch scheduler relative to the group's ``"initial_lr"``;
    - ``rate``: learning rate in force at this step; with several groups, the highest. It is
      the base learning rate (``group["initial_lr"]`` under a torch scheduler, else
      ``group["lr"]``) times ``multiplier`` times ``schedule``, at most ``max_lr``;
    - ``loss``: mean loss since the previous decision; None if no loss was given;
    - the name of every observed feature, with its value as the policy sees it
      (:data:`optenv.telemetry.ALL_FEATURES`; explained in
      :data:`agents.optim.trace.MEANINGS`).

    Some policies add keys: ``rule``, the update rule in force from this step on; the
    hyperparameters that they set, by name; or, with a learning rate for each role,
    ``multiplier_matrices`` and so on, whose geometric mean is ``multiplier``. For policies
    that decide on each parameter tensor, ``multiplier`` and ``rate`` are geometric means
    over tensors; ``multiplier_lowest`` and ``multiplier_highest`` are the extremes.

    As many decisions are kept as a run of the policy has, or 1000 if the length is unknown.
    If :meth:`~agents.LearnedOptimizer.extend` has made the run longer, the latest are kept,
    and ``note`` says so. In decisions saved by version 0.1, ``schedule``, ``rate`` and
    ``loss`` are None.

    ``print`` shows a table with the first six keys, the added ones, registered features,
    and those of ``loss_vs_initial``, ``loss_vs_previous``, ``loss_fall``,
    ``cos_grads_mean`` and ``validation_fall`` that the policy observes, together with their
    meanings. ``pandas.DataFrame(explanation)`` makes a table of everything. If a registered
    feature has the name of another column, its key is ``"observation."`` and its name.

    Args:
        trace: trace of the controller, see :func:`append`.
        note: text on how far the run is, which ``print`` shows at the end. A remark on
            decisions that are not kept is added to it.
        steps: steps taken so far.
        rate: learning rate at the last step.
        extra: names of the trace's last columns, see :func:`extra_names`.
        features: names of the features.
    """

    def __init__(
        self,
        trace: Tensor,
        note: str = "",
        steps: int = 0,
        rate: float = 0.0,
        extra: Sequence[str] = (),
        features: Sequence[str] = tuple(FEATURES),
    ) -> None:
        self.note, self.steps, self.rate = note, steps, rate
        self.extra = tuple(extra)
        taken = (*_DECISION, *_OTHERS, *self.extra)
        registered = registered_among(features)
        #: Meanings of the registered features, by the names of their columns.
        self._registered: dict[str, str] = {}
        shown = []
        for name in features:
            shown.append(f"observation.{name}" if name in taken else name)
            if name in registered:
                self._registered[shown[-1]] = meaning_of(name)
        self.features = tuple(shown)
        names = (*_DECISION, *self.features)
        unknown = dict(zip(_LATER, _unknown(trace.dtype), strict=True))
        decisions: list[dict[str, Any]] = []
        for row in trace[trace[:, 0] >= 0].tolist():
            rule, settings = row[len(names)], row[len(names) + 1 :]
            decision: dict[str, Any] = dict(zip(names, row[: len(names)], strict=True))
            decision |= dict(zip(self.extra, settings, strict=True))
            missing = [name for name in _LATER if decision[name] == unknown[name]]
            decisions.append({**decision, **dict.fromkeys(missing)})
            if rule >= 0:
                decisions[-1]["rule"] = NAMES[int(rule)]
        super().__init__(decisions)
        if decisions and (first := int(decisions[0]["step"])):
            dropped = f"decisions before step {first} are not kept"
            self.note = f"{note}; {dropped}" if note else dropped

    def __str__(self) -> str:
        chosen = any("rule" in row for row in self)
        shown = (name for name in _SHOWN if name in (*_DECISION, *self.features))
        columns = (*shown, *self._registered, *self.extra, *(["rule"] if chosen else []))
        widths = {name: max(len(name), 10) for name in columns}
        lines = ["  ".join(f"{name:>{width}}" for name, width in widths.items())]
        for row in self:
            values = (
                f"{_format(name, row.get(name)):>{width}}" for name, width in widths.items()
            )
            lines.append("  ".join(values))
        meanings = {name: _meaning(name) for name in columns} | self._registered
        lines += [""] + [f"{name}: {meaning}" for name, meaning in meanings.items()]
        lines += ["", self.note] if self.note else []
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw losses, learning rate, its factors and all features (needs matplotlib).

        All panels share one axis, in steps. If the policy chooses update rules, each rule
        has its own colour.

        Args:
            path: path of an image to write; None writes none.

        Raises:
            ValueError: no decision has been made yet.
            ImportError: matplotlib is not installed.
        """
        if not self:
            raise ValueError("there is nothing to plot: no decision has been made yet")
        # Not pyplot, which would keep a reference to the figure and choose a backend.
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install matplotlib, which the extra "
                '"train" has too'
            ) from error

        figure = Figure(figsize=(9, 11), layout="constrained")
        figure.suptitle(f"Decisions of a policy\n{self.note}" if self.note else "Decisions")
        panels = figure.subplots(4, 1, height_ratios=(2, 2, 2, 7), sharex=True)
        steps = [row["step"] for row in self]
        gap = steps[-1] - steps[-2] if len(steps) > 1 else 1.0
        end = self.steps if self.steps > steps[-1] else steps[-1] + gap
        # 1. The losses
        losses = [_number(row["loss"]) for row in self]
        panels[0].plot(steps, losses, marker=".")
        if not any(loss < 0 for loss in losses):  # of those below 0, a log axis shows none
            _scale(panels[0], losses)
        panels[0].set_ylabel("mean loss since\nthe decision before")
        if all(map(math.isnan, losses)):
            middle = {"ha": "center", "va": "center", "transform": panels[0].transAxes}
            panels[0].text(0.5, 0.5, "the policy was given no losses", **middle)
        # 2. The learning rate, also between the decisions
        times, rates = self._rates()
        panels[1].plot(times, rates)
        _scale(panels[1], rates)
        panels[1].set_ylabel("learning rate\nin force")
        # 3. Its factors; decisions are marked by update rule
        factors, multipliers = panels[2], [row["multiplier"] for row in self]
        held = [*multipliers, multipliers[-1]]
        (line,) = factors.step([*steps, end], held, where="post", label="policy")
        schedules = [_number(row["schedule"]) for row in self]
        factors.plot(steps, schedules, linestyle="--", color="gray", label="schedule")
        rules = dict.fromkeys(row.get("rule", "") for row in self)
        for rule in rules:
            points = [row for row in self if row.get("rule", "") == rule]
            factors.plot(
                [row["step"] for row in points], [row["multiplier"] for row in points],
                linestyle="", marker="o", markersize=4, label=rule or None,
                color=None if rule else line.get_color(),
            )  # fmt: skip
        _scale(factors, [*multipliers, *schedules])
        factors.set_ylabel("factor of the\nlearning rate")
        factors.legend(fontsize="small", ncols=4)
        # 4. The features, as an image whose columns last from one decision to the next
        image = panels[3].pcolormesh(
            [*steps, end], range(len(self.features) + 1),
            torch.tensor([[row[name] for row in self] for name in self.features]).numpy(),
            cmap="coolwarm", vmin=-OBSERVATION_BOUND, vmax=OBSERVATION_BOUND,
        )  # fmt: skip
        panels[3].set_yticks([i + 0.5 for i in range(len(self.features))], self.features)
        panels[3].invert_yaxis()
        panels[3].set(xlabel="step", ylabel="features that the policy sees")
        figure.colorbar(image, ax=panels[3], label="observation, clipped to ±4")
        for panel in panels[:3]:
            panel.grid(alpha=0.3)
        if path is not None:
            with replacing(path) as part:
                figure.savefig(part, dpi=120)
        return figure

    def _rates(self) -> tuple[list[float], list[float]]:
        """Return steps and the learning rates at them, before and after each decision.

        Between two decisions, the rate follows the schedule.
        """
        times: list[float] = []
        rates: list[float] = []
        highest = max((row["rate"] for row in self if row["rate"] is not None), default=0.0)
        before = self[0]["multiplier"]
        for row in self:
            # The rate jumps here: first the one with the previous multiplier. It is no
            # higher than the highest rate of all, since max_lr may limit it.
            rate = _number(row["rate"])
            rates += [min(rate * before / row["multiplier"], highest), rate]
            times += [row["step"]] * 2
            before = row["multiplier"]
        if self.steps - 1 > times[-1]:
            times.append(self.steps - 1.0)
            rates.append(self.rate)
        return times, rates


def _meaning(name: str) -> str:
    """Return the meaning of a column."""
    if name in MEANINGS:
        return MEANINGS[name]
    role = name.removeprefix("multiplier_")
    if role in ("lowest", "highest"):
        return (
            f"{role} factor that the policy applies to the learning rate of a parameter "
            "tensor, from this step on"
        )
    if role != name:
        return (
            f"factor that the policy applies to the learning rate of {role}, from this "
            "step on"
        )
    return f"value that the policy sets for {name}, from this step on"


def _number(value: float | None) -> float:
    """Return a value, or NaN (which plots leave out) if it is unknown."""
    return math.nan if value is None else value


def _format(name: str, value: Any) -> str:
    """Format a value for the table."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if name == "step" else f"{value:.4g}"


def _scale(panel: Axes, values: Sequence[float]) -> None:
    """Give a panel a logarithmic axis if any value is above zero."""
    if any(value > 0 for value in values):
        panel.set_yscale("log")
