"""An optimizer with a policy, saved, copied, restored, and begun anew."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from . import run_state
from .loss_hook import LossTap
from .reporting import Reporting

__all__ = ["Resumable"]


class Resumable(Reporting):
    """What torch's own saving and copying of an optimizer leaves out.

    The controller of the policy is in a parameter group, where torch saves, copies and
    restores it with the rest; copies keep the policy and the settings, and state stays of
    the type that it was saved in.
    """

    _tap: LossTap
    _synchronize: bool
    _partitioned: bool
    _guard: str
    _rollback: bool

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a state that was saved without some of them
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        for own in self.state.values():
            if isinstance(own.get("step"), float):  # as torch once had it
                own["step"] = torch.tensor(own["step"], dtype=torch.float32)
        if "_tap" not in self.__dict__:  # a copy: torch calls this also for what is loaded
            self._tap = LossTap()
            self._latest = self._run

    def __getstate__(self) -> dict[str, Any]:
        self._run = self._run  # into a group, should that which had it be removed
        names = ("_policy", "_synchronize", "_partitioned", "_guard", "_rollback")
        own = {name: self.__dict__[name] for name in names}
        return {**super().__getstate__(), **own}

    @property
    def _precision(self) -> torch.dtype:
        """Type of the telemetry: double where all parameters are."""
        doubles = (torch.float64, torch.complex128)
        every = [p for group in self.param_groups for p in group["params"]]
        return torch.float64 if all(p.dtype in doubles for p in every) else torch.float32

    def new_run(
        self, params: ParamsT | None = None, *, total_steps: int | None = None
    ) -> None:
        """Begin another training run of the same task, from new parameters.

        A policy with a memory keeps what it has learned of the task, across
        :meth:`state_dict` too; everything else begins anew: the state of the update rule,
        the telemetry (:meth:`explain`), and the counts (``skipped`` and the like). Call
        ``zero_grad`` before the first step, and ``attach_loss`` for a new criterion; losses
        that were attached and not used are dropped.

        Args:
            params: parameters or groups, as for the constructor, in the place of those so
                far; what a group does not say is as the constructor was given it. By
                default the same groups with their settings, whose parameters the caller has
                initialised anew; a learning rate that a scheduler of torch's has changed is
                what it was before.
            total_steps: steps that the run will take, by default as many as the last one.

        Raises:
            ValueError, TypeError: as of the constructor; the optimizer stays as it was.
        """
        groups, state = self.param_groups, self._run
        if params is not None:
            new = list(params)
            if not new:
                raise ValueError("new_run got an empty parameter list")
            self.param_groups = []
            try:
                for part in new if isinstance(new[0], dict) else [{"params": new}]:
                    self.add_param_group(part)  # type: ignore[arg-type]
            except BaseException:
                self.param_groups = groups
                raise
        try:
            fresh = run_state.again(self._policy, state, total_steps, self._precision)
        except BaseException:  # also of warnings that are errors
            self.param_groups = groups
            raise
        self.state.clear()
        for group in self.param_groups:
            group["effective_lr"] = 0.0
            if "initial_lr" in group:
                _set_lr(group, group.pop("initial_lr"))
        self._run = fresh
        self._tap.take()  # losses of the run before

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: it is not the state of a :class:`LearnedOptimizer`, or of one with
                another policy.
        """
        loaded: dict[str, Any] = {}

        def check(_: Optimizer, final: dict[str, Any]) -> None:
            held = (g["controller"] for g in final["param_groups"] if "controller" in g)
            loaded["controller"] = run_state.restored(self._policy, next(held, None))
            loaded["final"] = final

        # Behind the hooks of others, which may change what is loaded.
        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        self._restore_precision(loaded["final"])
        self._run = loaded["controller"]
        self._tap.take()  # losses of another run

    def _restore_precision(self, state_dict: dict[str, Any]) -> None:
        """Undo torch's cast of state to the type of its parameter, and moves of numbers."""
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if name == "mu_product":  # no tensor like ``p``, as little as "step" is
                    self.state[p][name] = value
                elif isinstance(value, Tensor) and self.state[p][name].dtype != value.dtype:
                    self.state[p][name] = value.to(p.device)


def _set_lr(group: dict[str, Any], lr: Any) -> None:
    """Set a learning rate; one that is a tensor in place, as torch's schedulers do."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(float(lr))
    else:
        group["lr"] = lr
