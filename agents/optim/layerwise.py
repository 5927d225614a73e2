"""Decisions of a policy on each parameter tensor.

A policy whose action is on tensors (:class:`optenv.actions.LayerwiseMultipliers`) is asked
about every tensor that moves. What it must know at the next decision are entries of the
tensor's state in the optimizer, where they are saved, copied and restored with the rest.
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

#: Numbers of the entry of a decision in the state of a tensor.
DECIDED_NUMEL = 2 + len(History._fields)


class TensorDecisions:
    """Log-multipliers of the parameter tensors of an optimizer.

    At a decision call :meth:`begin`, :meth:`observe`, :meth:`decode` and :meth:`keep`, and
    after the update :meth:`commit`: if a step fails in between, no state has changed.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.action: Action = policy.action
        #: Numbers that a tensor's last action is encoded by, and shape of a hidden state.
        self._said, self._memory = policy.action.outputs, tuple(policy.blank(1).shape[1:])
        self._remembers = remembered_numel(policy)
        #: Tensors of a decision; their entries ``[T, N]`` of both kinds, and their probe
        #: ``[1, T]``.
        self._params: list[Tensor] = []
        self._entries = torch.zeros(0, DECIDED_NUMEL, device="cpu")
        self._remembered = torch.zeros(0, self._remembers, device="cpu")
        self._probe: Probe | None = None
        #: Logs ``[T]`` of their base learning rates, and of their largest multipliers.
        self._log_lr = self._highest = torch.zeros(0, device="cpu")
        #: Entries that the update of this step will make valid, by tensor and key.
        self._pending: dict[Tensor, dict[str, Tensor]] = {}

    def begin(self, batch: GradientBatch, probe: Probe, mean: Tensor) -> None:
        """Take the tensors of a batch that move, which a decision is about.

        Args:
            batch: gradients of the step.
            probe: inner products of each tensor of the batch, ``[1, N]``.
            mean: mean log-multiplier before, ``[1]``.
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
            control: of the run, ``[1]``, for a base learning rate of 1.
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
        """Encodings ``[T, outputs]`` of the last actions on the tensors; 0 for none."""
        return self._remembered[:, : self._said]

    @property
    def memories(self) -> Tensor:
        """Hidden states of the policy ``[T, ...]``, one for each tensor.

        Those of :meth:`~agents.policy.module.Policy.blank` for tensors without a decision.
        """
        numbers = self._remembered[:, self._said :]
        return numbers.reshape(len(numbers), *self._memory)

    def decode(self, action: Tensor, mean: Tensor) -> Decision:
        """Decode the actions ``[T, 1]`` on the tensors.

        Log-multipliers stay within ``max_lr`` of the tensor's group, beyond which they
        would have no effect.

        Args:
            action: of the policy, on the observations of :meth:`observe`.
            mean: mean log-multiplier before, ``[1]``.
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
        """Return lowest and highest log-multiplier after a decision, ``[1, 2]``."""
        logs = torch.stack([entries[DECIDED][0] for entries in self._pending.values()])
        return torch.stack([logs.min(), logs.max()]).unsqueeze(0)

    def commit(self, states: States) -> None:
        """Put the entries into the tensors' states, once the tensors have moved."""
        for p, entries in self._pending.items():
            states[p].update(entries)
        self.drop()

    def drop(self) -> None:
        """Forget a decision whose step was not completed."""
        self._params, self._pending, self._probe = [], {}, None

    def forget_norms(self, params: Sequence[Tensor], states: States) -> None:
        """Compare later norms of the tensors with those of their next windows."""
        for p in params:
            if DECIDED in states[p]:
                entry = states[p][DECIDED].clone()
                entry[column("windows")] = 0.0
                states[p][DECIDED] = entry

    def allocate(self, params: Sequence[Tensor], states: States, mean: Tensor) -> None:
        """Make the entries of tensors that have none."""
        for p in params:
            states[p].setdefault(DECIDED, _entry(states[p], mean))
            if self._remembers:
                states[p].setdefault(REMEMBERED, self._remembered_of(states[p], mean))

    def factors(self, batch: GradientBatch, mean: Tensor) -> list[list[float]]:
        """Return the factors of the tensors' learning rates to the mean, by group.

        A tensor without a decision of its own has factor 1.
        """
        centre = float(mean)

        def factor(p: Tensor) -> float:
            entry = self._pending.get(p, batch.states[p]).get(DECIDED)
            return 1.0 if entry is None else math.exp(float(entry[0]) - centre)

        return [[factor(p) for p in params] for _, params, _ in batch.by_group()]

    def _remembered_of(self, state: Mapping[str, Any], mean: Tensor) -> Tensor:
        """Return the entry of what a state remembers; zeros at the beginning."""
        entry = state.get(REMEMBERED)
        if entry is None:
            return torch.zeros(self._remembers, dtype=mean.dtype, device="cpu")
        assert isinstance(entry, Tensor)
        return entry.cpu()


def remembered_numel(policy: Policy) -> int:
    """Count the numbers of the entry :data:`REMEMBERED`; 0 for a policy without it."""
    if not policy.action.per_tensor or not (policy.on_trials or policy.memory):
        return 0
    return policy.action.outputs + policy.blank(1).numel()


def carry_over(
    policy: Policy, before: Sequence[Tensor], after: Sequence[Tensor], states: States
) -> dict[Tensor, Tensor]:
    """Return the memories and last actions that the next run of a trial begins with.

    A tensor goes on from those of the tensor at the same place, if that has its shape. All
    others begin without, of which there is a warning.

    Args:
        policy: the policy.
        before: tensors of the run before, in the order of the groups.
        after: tensors of the next run, likewise.
        states: states of the former.

    Returns:
        Entries :data:`REMEMBERED` by tensor of the next run.
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
    """Return the index of a field of the history in a tensor's entry."""
    return 2 + History._fields.index(field)


def _entry(state: Mapping[str, Any], mean: Tensor) -> Tensor:
    """Return the entry of a tensor's state, or one at the mean log-multiplier ``[1]``."""
    entry = state.get(DECIDED)
    if entry is None:
        entry = torch.cat([mean.cpu(), mean.new_zeros(DECIDED_NUMEL - 1).cpu()])
    assert isinstance(entry, Tensor)
    return entry.cpu()
