"""Record of an episode for its rendering, extended at every control step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ..actions import Decision
from ..group import Group, StepResult
from ..rules import switching
from ..tasks import Function
from ..telemetry import Probe
from ..tensor_telemetry import of_run

__all__ = [
    "MEASURES",
    "Trace",
    "measures",
    "named_values",
    "new_trace",
    "recorded",
    "two_parameters",
]

#: Names in pictures of a run's statistics: the loss between two control steps, and three
#: statistics of the last update before a control step.
MEASURES = ("loss", "gradient norm", "gradient cosine", "relative step")

#: Parts of a decision that are recorded separately. All other parts are drawn under their
#: names, so that a new kind of action needs no code here.
_RECORDED = (
    "log_multiplier", "shift", "rule", "hyperparameters", "part_multipliers", "part_shifts",
)  # fmt: skip

#: Largest number of entries of a part of a decision for which each entry has a curve.
_MOST_ENTRIES = 4

#: Largest number of parts of the parameters whose learning rates are drawn as curves.
_MOST_CURVES = 4


@dataclass
class Trace:
    """Values of one episode of a sub-environment that a rendering draws.

    Points are values at the beginning of a run and after each of its control steps. Other
    values hold during a control step.

    Attributes:
        title: task and update rule, the title of the picture.
        run_steps: number of control steps of a run.
        runs: number of runs of the episode.
        chooses_rule: whether actions choose the update rule.
        parts: column of the log-multiplier of each part of the parameters that has a
            learning rate of its own, see :func:`parts`.
        per_tensor: whether these parts are the parameter tensors.
        starts: number of control steps of the episode before each of its runs.
        at: number of control steps of the episode before each point.
        points: values at each point, by the names in :data:`MEASURES`; NaN between runs.
        path: parameters at each point if there are two parameters; otherwise empty.
        lr: learning rate of each control step.
        rule: update rule of each control step; None if actions do not choose it.
        named: further values of each control step by name.
        multipliers: log-multipliers ``[K]`` of each control step; :attr:`parts` names the
            columns.
        reward: last reward.
        diverged: whether the last run has diverged.
    """

    title: str
    run_steps: int
    runs: int
    chooses_rule: bool = False
    parts: dict[str, int] = field(default_factory=dict)
    per_tensor: bool = False
    starts: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    points: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in MEASURES}
    )
    path: list[tuple[float, float]] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    rule: list[str | None] = field(default_factory=list)
    named: dict[str, list[float]] = field(default_factory=dict)
    multipliers: list[Sequence[float]] = field(default_factory=list)
    reward: float = 0.0
    diverged: bool = False

    @property
    def steps(self) -> int:
        """Number of control steps of the episode so far."""
        return len(self.lr)

    @property
    def length(self) -> int:
        """Number of control steps of the whole episode, if no run diverges."""
        return self.run_steps * self.runs

    @property
    def run(self) -> int:
        """Number of the last run, from 0."""
        return len(self.starts) - 1

    @property
    def loss(self) -> float:
        """Last loss of a run."""
        return self.points["loss"][-1]

    def begin(self, values: Sequence[float], params: Sequence[float]) -> None:
        """Record the beginning of a run.

        Args:
            values: values of :data:`MEASURES`.
            params: parameters of the run; recorded only if there are two.
        """
        if self.starts:
            self._add_point([math.nan] * len(MEASURES), [math.nan] * len(params))
        self.starts.append(self.steps)
        self.diverged = False
        self._add_point(values, params)

    def _add_point(self, values: Sequence[float], params: Sequence[float]) -> None:
        self.at.append(self.steps)
        for name, value in zip(MEASURES, values, strict=True):
            self.points[name].append(value)
        if len(params) == 2:
            self.path.append((params[0], params[1]))

    @property
    def has_map(self) -> bool:
        """True if learning rates of the parts are drawn as a heat map, not as curves."""
        return self.per_tensor or len(self.parts) > _MOST_CURVES

    def step(
        self,
        lr: float,
        rule: str | None,
        named: dict[str, float],
        multipliers: Sequence[float],
        values: Sequence[float],
        params: Sequence[float],
        reward: float,
        diverged: bool,
    ) -> None:
        """Record a control step: the decision, and the state after it."""
        self.lr.append(lr)
        self.rule.append(rule)
        for name, value in named.items():
            self.named.setdefault(name, []).append(value)
        self.multipliers.append(multipliers)
        self.reward, self.diverged = reward, diverged
        self._add_point(values, params)

    def until(self, steps: int) -> Trace:
        """Return the episode as it was after a number of control steps."""
        starts = [start for start in self.starts if start <= steps]
        count = sum(at <= steps for at in self.at)
        return replace(
            self,
            starts=starts,
            at=self.at[:count],
            points={name: values[:count] for name, values in self.points.items()},
            path=self.path[:count],
            lr=self.lr[:steps],
            rule=self.rule[:steps],
            named={name: values[:steps] for name, values in self.named.items()},
            multipliers=self.multipliers[:steps],
        )

    def text(self) -> str:
        """Return the state of the episode as one line."""
        parts = [f"step {self.steps}/{self.length}"]
        if self.runs > 1:
            parts.append(f"run {self.run + 1}/{self.runs}")
        parts.append(f"loss {self.loss:.4g}")
        if self.steps:
            parts.append(f"lr {self.lr[-1]:.3g}")
            if self.rule[-1] is not None:
                parts.append(f"rule {self.rule[-1]}")
            parts += [f"{name} {values[-1]:.3g}" for name, values in self.named.items()]
        parts.append(f"reward {self.reward:+.4f}")
        return "  ".join(parts + ["diverged"] * self.diverged)


def new_trace(group: Group, run: int, runs: int) -> Trace:
    """Make the trace of an episode that begins.

    Args:
        group: group of the run.
        run: index of the run in the group.
        runs: number of runs of the episode.
    """
    own, family, task = group.instances[run], group.family, group.task
    name = "/".join(family) if family else type(task).__name__
    if own is not None:
        name = own.name
    if isinstance(task, Function):
        name = f"{name}: {task.function}, {task.dim} parameters"
    return Trace(
        title=f"{name} · {group.rule.name}",
        run_steps=group.num_steps,
        runs=runs,
        parts=parts(group),
        per_tensor=group.action.per_tensor,
        named={name: [] for name in group.action.sets},
        chooses_rule=group.action.chooses_rule,
    )


def measures(group: Group) -> np.ndarray:
    """Compute the :data:`MEASURES` of all runs of a group, ``[B, 4]``."""
    state = group.state
    probe: Probe = of_run(state.run.probe) if group.action.per_tensor else state.run.probe
    norms = (probe.grad_sq * probe.last_grad_sq).sqrt()
    values = (
        state.loss[:, 0],
        probe.grad_sq.sqrt(),
        probe.grad_dot_last / norms,
        (probe.step_sq / probe.param_sq).sqrt(),
    )
    # Before the first update there is neither a cosine nor a step.
    first = probe.last_grad_sq == 0
    columns = [_numbers(value) for value in values]
    for column in columns[2:]:
        column[_numbers(first) > 0] = math.nan
    return np.stack(columns, 1)


def named_values(decision: Decision) -> dict[str, Tensor]:
    """Return the values of a decision that are drawn under their names, ``[B]`` each.

    These are the hyperparameters, and every part of the decision that has no panel of its
    own and is a number, or a few numbers, for each run.
    """
    named = dict(decision.hyperparameters)
    for name, value in decision._asdict().items():
        if name in _RECORDED or not isinstance(value, Tensor):
            continue
        if value.dim() == 1:
            named[name] = value
        elif value.dim() == 2 and value.shape[1] <= _MOST_ENTRIES:
            entries = value.unbind(1)
            named |= {f"{name} {k + 1}": each for k, each in enumerate(entries)}
    return named


def recorded(group: Group, result: StepResult) -> list[dict[str, Any]]:
    """Return the arguments of :meth:`Trace.step` for every run of a group."""
    decision, state = result.decision, group.state
    lr, reward = result.lr.tolist(), result.reward.tolist()
    diverged, values = result.diverged.tolist(), measures(group).tolist()
    params = two_parameters(group)
    named = {name: value.tolist() for name, value in named_values(decision).items()}
    chosen = [-1] * group.size if decision.rule is None else decision.rule.tolist()
    parts = decision.part_multipliers
    multipliers = [()] * group.size if parts is None else state.part_multipliers.tolist()
    return [
        {
            "lr": lr[i],
            "rule": None if chosen[i] < 0 else switching.NAMES[chosen[i]],
            "named": {name: column[i] for name, column in named.items()},
            "multipliers": multipliers[i],
            "values": values[i],
            "params": params[i],
            "reward": reward[i],
            "diverged": diverged[i],
        }
        for i in range(group.size)
    ]


def two_parameters(group: Group) -> list[list[float]]:
    """Return the parameters of each run that are evaluated, if there are two of them."""
    if group.task.num_params != 2:
        return [[]] * group.size
    return group.state.run.evaluated.tolist()


def parts(group: Group) -> dict[str, int]:
    """Return the parts of the parameters that have learning rates of their own.

    Returns:
        The columns of their log-multipliers, by name: the task's roles, or the numbers of
        the parameter tensors.
    """
    if group.action.per_tensor:
        return {str(number): number for number in range(len(group.task.shapes))}
    roles = group.action.roles
    return {role: roles.index(role) for role in roles if role in group.task.roles}


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
