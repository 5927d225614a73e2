"""Reports of an optimizer: numbers for loggers, explanations, and what ``print`` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..policy.module import Policy
from . import clock
from .controller import State
from .trace import Explanation, extra_names

__all__ = ["Reports", "numbers", "summarized"]

#: Counters of the controller's state that are reported.
COUNTERS = ("skipped", "clipped", "ignored_losses", "ignored_actions", "rollbacks")


def summarized(
    policy: Policy, state: State, groups: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return lines that summarize a run: policy, step, schedule and counters.

    Args:
        policy: the policy.
        state: state of the controller.
        groups: parameter groups, which torch's schedulers may drive.
    """
    end = clock.end_of_run(state)
    total = "unknown" if end is None else end
    counts = [f"{name} {state[name]}" for name in COUNTERS if state[name]]
    return [
        f"policy: {policy.name or policy.fingerprint()[:12]}",
        f"step: {state['steps']} of {total}"
        if state["budget"] is None
        else f"step: {clock.describe_progress(policy, state)}",
        f"schedule: {clock.describe_schedule(policy, state, groups)}",
        f"counters: {', '.join(counts) or 'all 0'}",
    ]


def numbers(state: State, rates: Sequence[float], prefix: str) -> dict[str, float]:
    """Collect numbers for a logger; see :meth:`Reports.log_dict`.

    Args:
        state: state of the controller.
        rates: learning rates in force of the groups.
        prefix: put before each key.
    """
    found: dict[str, float] = {"lr": max(rates, default=0.0)}
    if len(rates) > 1:
        found |= {f"lr_{i}": rate for i, rate in enumerate(rates)}
    found["multiplier"] = math.exp(state["log_multiplier"])
    found["step"] = state["steps"]
    if state["budget"] is not None:
        found["batch_size"] = state["budget"]["size"]
    found |= {name: int(state[name]) for name in COUNTERS}
    return {f"{prefix}{name}": value for name, value in found.items()}


class Reports:
    """Mixin of :class:`~agents.LearnedOptimizer` with its counters, reports and logs."""

    param_groups: list[dict[str, Any]]
    _policy: Policy

    def _controller_state(self) -> State:
        raise NotImplementedError

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self._policy

    @property
    def skipped(self) -> int:
        """Number of steps skipped so far because a gradient was not finite."""
        return int(self._controller_state()["skipped"])

    @property
    def clipped(self) -> int:
        """Number of steps so far whose gradients were scaled down as outliers."""
        return int(self._controller_state()["clipped"])

    @property
    def ignored_losses(self) -> int:
        """Number of losses that were not used, in steps that were not skipped.

        These are losses that are not finite, and, if the policy observes logarithms of
        losses, all losses from the first negative one on. Validation losses that are not
        finite count, too, if the policy observes them.
        """
        return int(self._controller_state()["ignored_losses"])

    @property
    def ignored_actions(self) -> int:
        """Number of decisions so far at which the policy's output was not finite."""
        return int(self._controller_state()["ignored_actions"])

    @property
    def rollbacks(self) -> int:
        """Number of times so far that the parameters were rolled back."""
        return int(self._controller_state()["rollbacks"])

    def explain(self) -> Explanation:
        """Return the observations and actions of the decisions so far.

        After :meth:`extend` those are the latest, as many as a run has.

        Example:
            >>> import torch
            >>> from agents import LearnedOptimizer
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = LearnedOptimizer([weight], total_steps=1000, lr=0.01)
            >>> weight.sum().backward()
            >>> optimizer.step(loss=2.5)
            >>> first = optimizer.explain()[0]
            >>> first["loss"], first["schedule"], first["rate"] < 0.01
            (2.5, 1.0, True)
        """
        state = self._controller_state()
        rates = [float(group["effective_lr"]) for group in self.param_groups]
        note = clock.describe_progress(self._policy, state)
        rate, extra = max(rates, default=0.0), extra_names(self._policy.action)
        features = self._policy.observed
        return Explanation(state["trace"], note, state["steps"], rate, extra, features)

    def log_dict(self, prefix: str = "") -> dict[str, float]:
        """Return numbers for a logger, after the last step.

        Args:
            prefix: put before each key, such as ``"optimizer/"``.

        Returns:
            ``lr`` (the learning rate in force; with several groups, the highest, and one
            for each group as ``lr_0``, ``lr_1`` and so on), ``multiplier`` (of the policy,
            without the schedule), ``step``, ``batch_size`` (if the policy chooses it), and
            the counters :attr:`skipped`, :attr:`clipped`, :attr:`ignored_losses`,
            :attr:`ignored_actions` and :attr:`rollbacks`.

        Example:
            >>> import torch
            >>> from agents import LearnedOptimizer
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = LearnedOptimizer([weight], total_steps=1000)
            >>> sorted(optimizer.log_dict("optimizer/"))[:2]
            ['optimizer/clipped', 'optimizer/ignored_actions']
        """
        rates = [float(group["effective_lr"]) for group in self.param_groups]
        return numbers(self._controller_state(), rates, prefix)

    def __repr__(self) -> str:
        state, groups = self._controller_state(), self.param_groups
        policy, *rest = summarized(self._policy, state, groups)
        rule = f"rule: {self._policy.rule.name}"
        lines = [f"{type(self).__name__} (", policy, rule, *rest]
        # As torch prints groups, without the controller and the second key of max_lr
        hidden = ("params", "controller", clock.LIMIT)
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in group if key not in hidden]
        return "\n".join([*lines, ")"])
