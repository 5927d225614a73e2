"""An optimizer with a policy, saved, copied and restored."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from . import controller
from .losses import LossTap
from .policy import Policy

__all__ = ["Resumable"]


class Resumable(Optimizer):
    """What torch's own saving and copying of an optimizer leaves out.

    The controller of the policy is in the first parameter group, where torch saves, copies
    and restores it with the rest; copies keep the policy, and the state of half-precision
    parameters stays in single precision.
    """

    _policy: Policy
    _tap: LossTap
    _synchronize: bool
    _partitioned: bool
    _guard: str
    _rollback: bool

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_tap" not in self.__dict__:  # a copy: torch calls this also for what is loaded
            self._tap = LossTap()

    def __getstate__(self) -> dict[str, Any]:
        names = ("_policy", "_synchronize", "_partitioned", "_guard", "_rollback")
        own = {name: self.__dict__[name] for name in names}
        return {**super().__getstate__(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: it is not the state of a :class:`LearnedOptimizer`, or of one with
                another policy.
        """
        found = state_dict["param_groups"][0].get("controller")
        restored = controller.restored(self._policy, found)
        super().load_state_dict(state_dict)
        self._restore_precision(state_dict)
        self.param_groups[0]["controller"] = restored

    def _restore_precision(self, state_dict: dict[str, Any]) -> None:
        """Undo torch's cast of state to the type of its parameter."""
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and self.state[p][name].dtype != value.dtype:
                    self.state[p][name] = value.to(p.device)
