"""Decisions of a policy on each parameter tensor.

A policy whose action is on tensors (:class:`optenv.actions.LayerwiseMultipliers`) is asked
about every tensor that moves. What it must know at the next decision is an entry of the
tensor's state in the optimizer, where it is saved, copied and restored with the rest.
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
from optenv.tensors import observe_tensors

from . import clock
from .tensors import GradientBatch, States

__all__ = ["DECIDED", "DECIDED_NUMEL", "TensorDecisions", "column"]

#: Key of a tensor's entry in its state: log-multiplier, last requested change of it, and
#: history (:func:`optenv.tensors.empty_history`), on the CPU.
DECIDED = "decided"

#: Numbers of that entry.
DECIDED_NUMEL = 2 + len(History._fields)


class TensorDecisions:
    """Log-multipliers of the parameter tensors of an optimizer.

    At a decision call :meth:`begin`, :meth:`observe`, :meth:`decode` and :meth:`keep`, and
    after the update :meth:`commit`: if a step fails in between, no state has changed.

    Args:
        action: action of the policy.
    """

    def __init__(self, action: Action) -> None:
        self.action = action
        #: Tensors of a decision; their entries ``[T, N]``, and their probe ``[1, T]``.
        self._params: list[Tensor] = []
        self._entries = torch.zeros(0, DECIDED_NUMEL, device="cpu")
        self._probe: Probe | None = None
        #: Logs ``[T]`` of their base learning rates, and of their largest multipliers.
        self._log_lr = self._highest = torch.zeros(0, device="cpu")
        #: Entries that the update of this step will make valid.
        self._pending: dict[Tensor, Tensor] = {}

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

    def keep(self, decision: Decision | None) -> None:
        """Prepare the entries after a decision; None keeps the multipliers before."""
        entries = self._entries
        if decision is not None:
            assert decision.part_multipliers is not None
            assert decision.part_shifts is not None
            decided = torch.stack([decision.part_multipliers[0], decision.part_shifts[0]])
            entries = torch.cat([decided.T, entries[:, 2:]], dim=1)
        # Copies: a checkpoint saves the whole storage of a view.
        self._pending = dict(
            zip(self._params, (each.clone() for each in entries), strict=True)
        )

    def spread(self) -> Tensor:
        """Return lowest and highest log-multiplier after a decision, ``[1, 2]``."""
        logs = torch.stack([entry[0] for entry in self._pending.values()])
        return torch.stack([logs.min(), logs.max()]).unsqueeze(0)

    def commit(self, states: States) -> None:
        """Put the entries into the tensors' states, once the tensors have moved."""
        for p, entry in self._pending.items():
            states[p][DECIDED] = entry
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

    def factors(self, batch: GradientBatch, mean: Tensor) -> list[list[float]]:
        """Return the factors of the tensors' learning rates to the mean, by group.

        A tensor without a decision of its own has factor 1.
        """
        centre = float(mean)

        def factor(p: Tensor) -> float:
            entry = self._pending.get(p, batch.states[p].get(DECIDED))
            return 1.0 if entry is None else math.exp(float(entry[0]) - centre)

        return [[factor(p) for p in params] for _, params, _ in batch.by_group()]


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
