"""Decisions of a policy on each parameter tensor.

A policy whose action is on tensors (:class:`optenv.actions.LayerwiseMultipliers`) decides
on every tensor that moves. What it needs at the next decision is kept in the tensor's state
in the optimizer (:data:`~agents.optim.state_keys.DECIDED`,
:data:`~agents.optim.state_keys.REMEMBERED`), where torch saves, copies and restores it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from optenv.actions import Action, Decision
from optenv.telemetry import Control, History, Losses, Probe
from optenv.tensor_telemetry import observe_tensors

from ..policy.module import Policy
from ..utils.warning import warn_user
from . import clock
from .state_keys import DECIDED, REMEMBERED
from .tensors import GradientBatch, States

__all__ = [
    "DECIDED_NUMEL",
    "TensorDecisions",
    "carry_over",
    "column",
    "remembered_numel",
]

#: Number of elements of the entry ``DECIDED`` in a tensor's state.
DECIDED_NUMEL = 2 + len(History._fields)


class TensorDecisions:
    """Log-multipliers of the parameter tensors of an optimizer.

    At a decision, call :meth:`begin`, :meth:`observe`, :meth:`decode` and :meth:`keep`, and
    after the update :meth:`commit`. If a step fails before that, no state has changed.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.action: Action = policy.action
        #: Width of the encoding of a tensor's last action, and shape of its hidden state.
        self._said, self._memory = policy.action.outputs, tuple(policy.blank(1).shape[1:])
        self._remembers = remembered_numel(policy)
        #: The ``T`` tensors of a decision; their entries ``DECIDED`` and ``REMEMBERED``,
        #: ``[T, N]`` each; and their probe ``[1, T]``.
        self._params: list[Tensor] = []
        self._entries = torch.zeros(0, DECIDED_NUMEL, device="cpu")
        self._remembered = torch.zeros(0, self._remembers, device="cpu")
        self._probe: Probe | None = None
        #: Logs ``[T]`` of their base learning rates and of their largest multipliers.
        self._log_lr = self._highest = torch.zeros(0, device="cpu")
        #: New entries by tensor and key, which :meth:`commit` stores after the update.
        self._pending: dict[Tensor, dict[str, Tensor]] = {}

    def begin(self, batch: GradientBatch, probe: Probe, mean: Tensor) -> None:
        """Begin a decision on the tensors of a batch that move.

        Args:
            batch: gradients of the step.
            probe: inner products of each tensor of the batch, ``[1, N]``.
            mean: mean log-multiplier before the decision, ``[1]``.
        """
        rates, limits = [], []
        for group, params, _ in batch.by_group():
            rates += [float(group["lr"])] * len(params)
            limits += [clock.largest_multiplier(group)] * len(params)
        moving = [rate > 0.0 for rate in rates]
        self._params = list(compress(batch.params, moving))
        entries = [_entry(batch.states[p], mean) for p in self._params]
        self._entries = torch.stack(entries).to(mean.dtype)
        remembered = [self._remembered_of(batch.states[p], mean) for p in self._params]
        self._remembered = torch.stack(remembered).to(mean.dtype)
        chosen = torch.tensor(moving, device="cpu")
        self._probe = Probe(*(part[:, chosen] for part in probe))
        logs = torch.tensor([rates, limits], dtype=torch.float64, device="cpu").log()
        self._log_lr, self._highest = logs[:, chosen].to(mean.dtype)

    def observe(self, losses: Losses, control: Control) -> Tensor:
        """Return the observations ``[T, F]`` of the tensors.

        Args:
            losses: losses of the window, ``[1]``.
            control: progress and multiplier of the run, ``[1]``, at a base learning rate
                of 1.
        """
        assert self._probe is not None
        multipliers, shifts = self._entries[:, :2].T
        history, mean = self._entries[:, 2:], control.log_multiplier
        of_one = control.log_lr - mean
        seen, history = observe_tensors(
            self._probe,
            losses,
            history.unsqueeze(0),
            control._replace(
                log_multiplier=multipliers.unsqueeze(0),
                log_lr=(of_one + self._log_lr + multipliers).unsqueeze(0),
                previous_action=shifts.unsqueeze(0),
            ),
        )
        self._entries = torch.cat([self._entries[:, :2], history[0]], dim=1)
        return seen[0]

    @property
    def previous_actions(self) -> Tensor:
        """Encodings ``[T, outputs]`` of the last action on each tensor; at first zeros."""
        return self._remembered[:, : self._said]

    @property
    def memories(self) -> Tensor:
        """Hidden states of the policy ``[T, ...]``, one for each tensor; at first zeros."""
        numbers = self._remembered[:, self._said :]
        return numbers.reshape(len(numbers), *self._memory)

    def decode(self, action: Tensor, mean: Tensor) -> Decision:
        """Decode the actions ``[T, 1]`` on the tensors.

        Log-multipliers are limited by ``max_lr`` of the tensor's group, beyond which they
        would have no effect.

        Args:
            action: actions of the policy for the observations of :meth:`observe`.
            mean: mean log-multiplier before the decision, ``[1]``.
        """
        before = self._entries[:, 0].unsqueeze(0)
        decision = self.action.decode(action.reshape(1, -1), mean, before)
        return decision.limited(self._highest.clamp(min=-self.action.bound))

    def keep(self, decision: Decision | None, action: Tensor, memories: Tensor) -> None:
        """Prepare the entries after a decision.

        Args:
            decision: the decision; None keeps multipliers, actions and memories before.
            action: actions ``[T, 1]`` that it was decoded from.
            memories: hidden states after them, as :attr:`memories`.
        """
        entries, remembered = self._entries, self._remembered
        if decision is not None:
            assert decision.part_multipliers is not None
            assert decision.part_shifts is not None
            decided = torch.stack([decision.part_multipliers[0], decision.part_shifts[0]])
            entries = torch.cat([decided.T, entries[:, 2:]], dim=1)
            if self._remembers:
                said = self.action.encode(action).to(entries.dtype)
                remembered = torch.cat([said, memories.flatten(1)], dim=1)
        # Copies: a checkpoint saves the whole storage of a view.
        self._pending = {
            p: {DECIDED: entry.clone()}
            for p, entry in zip(self._params, entries, strict=True)
        }
        if self._remembers:
            for p, each in zip(self._params, remembered, strict=True):
                self._pending[p][REMEMBERED] = each.clone()

    def spread(self) -> Tensor:
        """Return the lowest and highest log-multiplier after a decision, ``[1, 2]``."""
        logs = torch.stack([entries[DECIDED][0] for entries in self._pending.values()])
        return torch.stack([logs.min(), logs.max()]).unsqueeze(0)

    def commit(self, states: States) -> None:
        """Store the new entries in the tensors' states, after the update."""
        for p, entries in self._pending.items():
            states[p].update(entries)
        self.drop()

    def drop(self) -> None:
        """Discard a decision whose step was not completed."""
        self._params, self._pending, self._probe = [], {}, None

    def forget_norms(self, params: Sequence[Tensor], states: States) -> None:
        """Take the norms of the tensors' next windows as their initial ones."""
        for p in params:
            if DECIDED in states[p]:
                entry = states[p][DECIDED].clone()
                entry[column("windows")] = 0.0
                states[p][DECIDED] = entry

    def allocate(self, params: Sequence[Tensor], states: States, mean: Tensor) -> None:
        """Allocate the entries of tensors that have none."""
        for p in params:
            states[p].setdefault(DECIDED, _entry(states[p], mean))
            if self._remembers:
                states[p].setdefault(REMEMBERED, self._remembered_of(states[p], mean))

    def factors(self, batch: GradientBatch, mean: Tensor) -> list[list[float]]:
        """Return each tensor's multiplier relative to the mean multiplier, by group.

        It is 1 for a tensor without a decision.
        """
        centre = float(mean)

        def factor(p: Tensor) -> float:
            entry = self._pending.get(p, batch.states[p]).get(DECIDED)
            return 1.0 if entry is None else math.exp(float(entry[0]) - centre)

        return [[factor(p) for p in params] for _, params, _ in batch.by_group()]

    def _remembered_of(self, state: Mapping[str, Any], mean: Tensor) -> Tensor:
        """Return the entry ``REMEMBERED`` of a tensor's state; zeros if it has none."""
        entry = state.get(REMEMBERED)
        if entry is None:
            return torch.zeros(self._remembers, dtype=mean.dtype, device="cpu")
        assert isinstance(entry, Tensor)
        return entry.cpu()


def remembered_numel(policy: Policy) -> int:
    """Return the number of elements of the entry ``REMEMBERED``; 0 if there is none."""
    if not policy.action.per_tensor or not (policy.on_trials or policy.memory):
        return 0
    return policy.action.outputs + policy.blank(1).numel()


def carry_over(
    policy: Policy, before: Sequence[Tensor], after: Sequence[Tensor], states: States
) -> dict[Tensor, Tensor]:
    """Return the memories and last actions with which the next run of a trial begins.

    A tensor takes over those of the previous run's tensor at the same position, if that one
    has its shape. All others begin without them, with a warning.

    Args:
        policy: the policy.
        before: tensors of the previous run, in the order of the groups.
        after: tensors of the next run, in the same order.
        states: states of the previous run's tensors.

    Returns:
        Entries ``REMEMBERED``, by tensor of the next run.
    """
    if not (policy.on_trials and policy.action.per_tensor):
        return {}
    pairs = [
        (old, new)
        for old, new in zip(before, after, strict=False)
        if old.shape == new.shape
    ]
    if others := len(after) - len(pairs):
        warn_user(
            f"{others} of {len(after)} parameters have none of their shape at their places "
            "in the run before: the policy decides on them without a memory; give "
            "new_run() parameters in the order of those before"
        )
    return {
        new: states[old][REMEMBERED]
        for old, new in pairs
        if REMEMBERED in states.get(old, {})
    }


def column(field: str) -> int:
    """Return the index of a field of the history in the entry ``DECIDED``."""
    return 2 + History._fields.index(field)


def _entry(state: Mapping[str, Any], mean: Tensor) -> Tensor:
    """Return the entry ``DECIDED``, or a new one with the mean log-multiplier ``[1]``."""
    entry = state.get(DECIDED)
    if entry is None:
        entry = torch.cat([mean.cpu(), mean.new_zeros(DECIDED_NUMEL - 1).cpu()])
    assert isinstance(entry, Tensor)
    return entry.cpu()
