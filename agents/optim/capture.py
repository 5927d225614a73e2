"""Updates inside CUDA graphs.

A graph replays kernels on the same addresses, without running Python. A step of the
optimizer is more than an update: it counts, reads losses and gradients, and decides. The
graph therefore only holds the update, and is replayed between decisions. Values that change
from step to step are tensors on the device: the number of updates, and the learning rate,
which the host writes before each replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _get_capturable_supported_devices

from optenv.rules import Rule

from .distributed import is_sharded
from .groups import update_group
from .tensors import DeviceRates, GradientBatch, States

__all__ = ["GraphUpdates", "check_devices", "is_capturing", "refuse_capture"]


def is_capturing(params: Sequence[Tensor]) -> bool:
    """Return whether a CUDA graph is being captured on the parameters' device."""
    return any(p.is_cuda for p in params[:1]) and torch.cuda.is_current_stream_capturing()


def refuse_capture(params: Sequence[Tensor], what: str, instead: str) -> None:
    """Refuse to continue while a CUDA graph is being captured.

    Args:
        params: parameters, on whose device a graph may be captured.
        what: name of the operation that cannot be captured, for the message.
        instead: advice to the user, for the message.

    Raises:
        RuntimeError: a graph is being captured.
    """
    if is_capturing(params):
        raise RuntimeError(f"{what} cannot be captured in a CUDA graph: {instead}")


def check_devices(params: Sequence[Tensor]) -> None:
    """Refuse parameters that ``capturable=True`` does not support.

    Raises:
        ValueError: they are sharded, on several devices, or on one without graphs.
    """
    devices = {p.device for p in params}
    valid = _get_capturable_supported_devices()
    if len(devices) > 1 or any(device.type not in valid for device in devices):
        raise ValueError(
            f"capturable=True is for parameters on one device of {', '.join(valid)}, got "
            f"{', '.join(sorted(map(str, devices)))}; leave it out"
        )
    if any(is_sharded(p) for p in params):
        raise ValueError(
            "capturable=True is not for sharded parameters, as of FSDP2; leave it out"
        )


class GraphUpdates:
    """Update that a CUDA graph holds, with a check that its tensors are still in use.

    Attributes:
        rates: learning rates in force, which the graph reads.
    """

    def __init__(self) -> None:
        self.rates = DeviceRates()
        #: Slots that the graph changes, for each parameter, and the number of groups.
        self._slots: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._groups = 0
        self._is_ready = self._is_current = False

    def note_step(self) -> None:
        """Note an ordinary step, which may have reset the state of the rule."""
        self._is_ready, self._is_current = True, False

    def note_change(self) -> None:
        """Note that groups or states have been replaced."""
        self._is_ready = self._is_current = False

    def capture(self, rule: Rule, batch: GradientBatch, slots: frozenset[str]) -> None:
        """Update parameters at the rates on the device, and remember their slots.

        Args:
            rule: update rule of the policy.
            batch: gradients, whose addresses the graph keeps.
            slots: names of the entries of a parameter's state that the rule changes.

        Raises:
            RuntimeError: a parameter has had no update before, or a group's learning rate
                is 0.
        """
        check_devices(batch.params)
        if not self._is_ready:
            raise RuntimeError(
                "groups or states have been replaced: take an ordinary step before one is "
                "captured in a CUDA graph"
            )
        fresh = sum(not slots <= batch.states[p].keys() for p in batch.params)
        if fresh:
            raise RuntimeError(
                f"{fresh} parameters in this CUDA graph have had no update before: take "
                "ordinary steps with all of their gradients first"
            )
        remembered = []
        parts = zip(batch.by_group(), batch.matrices_by_group(), strict=True)
        for i, ((group, params, grads), matrices) in enumerate(parts):
            if not params:
                continue
            if not group["effective_lr"]:
                raise RuntimeError(
                    f"the learning rate of param_groups[{i}] is 0: leave its parameters "
                    "without gradients in this CUDA graph"
                )
            states = [batch.states[p] for p in params]
            update_group(
                rule, group, params, grads, states, self.rates.read(i), matrices=matrices
            )
            remembered += [
                (p, {name: own[name] for name in slots})
                for p, own in zip(params, states, strict=True)
            ]
        self._slots, self._groups = remembered, len(batch.groups)
        self._is_current = True

    def check(self, groups: Sequence[Mapping[str, Any]], states: States) -> None:
        """Refuse a replay that would change tensors that are no longer in use.

        Raises:
            RuntimeError: no update has been captured, or a slot has been replaced since.
        """
        if not self._slots:
            raise RuntimeError(
                "no step of this optimizer has been captured: call step() within "
                "torch.cuda.graph first"
            )
        if self._is_current:
            return
        current = len(groups) == self._groups and all(
            p in states and all(states[p].get(name) is slot for name, slot in own.items())
            for p, own in self._slots
        )
        if not current:
            raise RuntimeError(
                "the state of the update rule is no longer that which was captured, as "
                "after load_state_dict, new_run or add_param_group: capture the graph anew"
            )
        self._is_current = True
