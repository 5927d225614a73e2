"""A learned policy as a learning-rate scheduler of any torch optimizer."""

from __future__ import annotations

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from optenv.actions import RuleChoice

from ..policies import ANYTIME
from ..policy.files import load_policy
from ..policy.module import Policy
from . import controller, probe, run_state, snapshots
from .distributed import agreed_loss
from .driving import downhill, drive
from .loss_hook import is_scalar
from .optimizer import LearnedOptimizer
from .trace import Explanation

__all__ = ["LearnedLR"]

#: Shipped policy for SGD, and for every other optimizer.
SGD_POLICY, OTHER_POLICY = "momentum", "adam"


class LearnedLR(LRScheduler):
    r"""Learning rates of any torch optimizer, chosen by a learned policy.

    Before each of the optimizer's steps, ``group["lr"]`` is set to the group's learning
    rate at the start, ``group["initial_lr"]``, times the policy's base schedule, times its
    multiplier :math:`e^s`, as :class:`~agents.LearnedOptimizer` does. The policy looks at
    losses, gradients, parameters and their change, which every optimizer has; it does best
    with the update rule that it was trained with.

    ``scheduler.step(loss)`` belongs behind every ``optimizer.step()``, as with torch's own
    schedulers; what it is told is seen one step later. The loss that a closure returns is
    seen at once. Without losses the policy has less to go by.

    It drives the optimizer until ``scheduler.remove()`` is called, and has to be alone:
    what other schedulers set is overwritten, with a warning. A step at a learning rate of
    0 in all groups is none of the run. A copy of the scheduler drives its own copy of the
    optimizer; a copy of the optimizer alone is not driven. Gradients must be dense.
    ``torch.optim.LBFGS`` reads its learning rate before it has gradients, so that each
    comes a step late there.

    Args:
        optimizer: any of torch's, or one that behaves as they do.
        total_steps: steps that the run will take; an anytime policy needs none.
        policy: name of a shipped policy, path of a policy file, or a
            :class:`~agents.policy.Policy`. By default ``"anytime"`` if there is no
            ``total_steps``, else ``"momentum"`` for ``torch.optim.SGD`` and ``"adam"`` for
            all others.
        synchronize: as for :class:`~agents.LearnedOptimizer`; all processes must then call
            ``scheduler.step``, whether with a loss or without.

    Raises:
        TypeError: ``optimizer`` is none, or one that has a policy already.
        ValueError: ``total_steps`` is no positive integer, or the policy needs it, or
            chooses update rules, or another ``LearnedLR`` drives the optimizer.
        FileNotFoundError: there is no such policy file.

    Example::

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = LearnedLR(optimizer, total_steps=1000)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step(loss)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        policy: str | Path | Policy | None = None,
        *,
        synchronize: bool = True,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"LearnedLR needs a torch optimizer, got {optimizer!r}")
        if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
            raise TypeError(
                f"LearnedLR cannot drive a {type(optimizer).__name__}: make it from the "
                "optimizer within, as before accelerate's prepare"
            )
        if isinstance(optimizer, LearnedOptimizer):
            raise TypeError(
                "a LearnedOptimizer has a policy already; LearnedLR is for others"
            )
        hooks = optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), LearnedLR) for hook in hooks):
            raise ValueError(
                "this optimizer is driven by a LearnedLR already, whose remove() ends that"
            )
        if policy is None:
            named = SGD_POLICY if isinstance(optimizer, torch.optim.SGD) else OTHER_POLICY
            policy = ANYTIME if total_steps is None else named
        own = policy if isinstance(policy, Policy) else load_policy(policy)
        if isinstance(own.action, RuleChoice):
            raise ValueError(
                "this policy chooses update rules, which a scheduler cannot; "
                "use LearnedOptimizer"
            )
        self._policy = copy.deepcopy(own).to(torch.float32)
        # The scheduler of the groups is this one.
        self._controller = run_state.start(
            self._policy, total_steps, torch.float32, "always"
        )
        self._synchronize = synchronize
        self._kept: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        super().__init__(optimizer)
        self._own: list[float] | None = None  # the rates that it has set
        self._removed, self._told = False, False
        self._drive()

    def _drive(self) -> None:
        self._hooks = (
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hooks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._removed:
            self._drive()

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self._policy

    def remove(self) -> None:
        """Leave the optimizer alone from now on, at the learning rates that it has."""
        self._removed = True
        for hook in self._hooks:
            hook.remove()

    def explain(self) -> Explanation:
        """What the policy saw and did at each decision so far."""
        return Explanation(self._controller["trace"])

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the groups, which only the optimizer's own step changes."""
        return [_value(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, loss: Tensor | float | None = None) -> None:  # type: ignore[override]
        """Take note of the loss of the step that the optimizer has just taken.

        Raises:
            ValueError, TypeError: the loss is no scalar.
        """
        if "_hooks" in self.__dict__:  # torch's constructor takes a step of its own
            self._record(loss)
        super().step()

    def _record(self, loss: Any) -> None:
        if loss is not None:
            controller.check_loss(loss)
        if self._policy.sees_loss:
            if self._synchronize:
                loss = agreed_loss(loss, self._parameters())
            if loss is not None and self.optimizer.param_groups[0].get("maximize"):
                loss = -loss
            self._controller = controller.record(self._controller, loss)

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Set the learning rates, once the gradients of this step are there."""
        _, *positional = args  # the first is the optimizer
        closure = positional[0] if positional else kwargs.get("closure")
        if closure is None:
            self._set_rates()
            return None
        within = self._within(closure)
        if positional:
            return (args[0], within, *positional[1:]), kwargs
        return args, {**kwargs, "closure": within}

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        snapshots.settle(self._kept)

    def _within(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, which sets the learning rates when it is first called."""
        first = [True]

        def evaluate() -> Any:
            result = closure()
            if first:
                first.clear()
                with torch.no_grad():
                    self._record(result if is_scalar(result) else None)
                    self._set_rates()
            return result

        return evaluate

    @torch.no_grad()
    def _set_rates(self) -> None:
        groups = self.optimizer.param_groups
        if not any(group["lr"] for group in groups):
            return  # as in torch.distributed.checkpoint, for which it is no step
        parts = [[p for p in group["params"] if p.grad is not None] for group in groups]
        params = [p for part in parts for p in part]
        grads = downhill(groups, parts, [cast(Tensor, p.grad) for p in params])
        # Optimizers with a fused step are given what a gradient scaler has scaled.
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:
            grads = [grad / scale for grad in grads]
        if not grads or not math.isfinite(probe.norm(grads)):
            return  # the optimizer will do with this step what it does
        now = [float(group["lr"]) for group in groups]
        changed = self._own is not None and now[: len(self._own)] != self._own
        if changed and not self._told:
            self._told = True
            warnings.warn(
                f"learning rates were {self._own}, and have been set to {now} by someone "
                "else; LearnedLR overwrites that, also at later steps",
                stacklevel=2,
            )
        for group in groups:
            group.setdefault("initial_lr", _value(group["lr"]))
        base = [{**group, "lr": float(group["initial_lr"])} for group in groups]
        self._controller, multiplier = drive(
            self._policy, self._controller, params, grads, self._kept, base
        )
        for group in groups:
            rate = group["initial_lr"] * multiplier
            if isinstance(group["lr"], Tensor):  # in place: a compiled step reads it there
                group["lr"].fill_(float(rate))
            else:
                group["lr"] = float(rate)
        self._own = [float(group["lr"]) for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs, in tensors and plain numbers."""
        every = self._parameters()
        kept = {
            i: {name: value.clone() for name, value in self._kept[p].items()}
            for i, p in enumerate(every)
            if self._kept.get(p)
        }
        names = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
        own = {name: self.__dict__[name] for name in names}
        return {**own, "controller": self._controller, "kept": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; the optimizer's own is to be loaded too.

        Raises:
            ValueError: it is not the state of a :class:`LearnedLR`, or of one with
                another policy or more parameters.
        """
        state = dict(state_dict)
        restored = run_state.restored(self._policy, state.pop("controller", None))
        every, kept = self._parameters(), state.pop("kept")
        if any(i >= len(every) for i in kept):
            raise ValueError(
                f"what is to be loaded is of more than the {len(every)} parameters here"
            )
        self._kept.clear()
        for i, values in kept.items():
            where = every[i].device
            self._kept[every[i]] = {
                name: v.to(where, copy=True) for name, v in values.items()
            }
        self._controller, self._own = restored, None
        super().load_state_dict(state)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _value(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
