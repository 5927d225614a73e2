"""A learned policy as a drop-in ``torch.optim.Optimizer``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from torch.utils.hooks import RemovableHandle

from ..policies import ANYTIME, DEFAULT
from ..policy.files import load_policy
from ..policy.module import Policy
from . import arguments, controller, run_state, snapshots
from . import guard as guarding
from .distributed import agreed_loss
from .driving import downhill, drive
from .kernels import fill, switching, update
from .kernels.base import Implementation
from .loss_hook import LossTap, is_scalar
from .resuming import Resumable
from .rollback import ROLLED_BACK, keep_good, roll_back

__all__ = ["LearnedOptimizer"]


class LearnedOptimizer(Resumable):
    r"""Optimizer whose learning rate is chosen by a policy learned in an environment.

    Some policies choose the update rule too, and some remember a task from one training run
    to the next (:meth:`new_run`).

    The policy looks at the run at a fixed number of moments, more of them early on (an
    anytime policy at fixed steps, further and further apart), and moves the log-multiplier
    :math:`s` of the learning rate. The update itself is the rule that the policy was
    trained with, in torch's own implementation where there is one, at
    :math:`\eta_t = \text{lr} \cdot \text{schedule}(t / T) \cdot e^s`. ``group["lr"]`` is
    never written, so that torch's schedulers can drive it; the learning rate in force is
    ``group["effective_lr"]``, 0 before the first step.

    The policy was trained on runs of certain lengths; if ``total_steps`` is more than twice
    the longest, or less than half the shortest, a warning says so. Loading a saved state
    restores the ``total_steps`` and the ``schedule`` that it was saved with.

    A step with a gradient that is not finite, or so large that its square is not, is
    skipped and counted in ``skipped``; a loss that is not finite is ignored, and after a
    negative one all are. Gradients whose norm, over all parameters, is more
    than ten times the root mean square of those so far are scaled down to that, and counted
    in ``clipped``; those of ordinary training hardly ever are. The state of parameters in
    half precision is in single precision.

    A policy that chooses among rules (:mod:`optenv.rules.switching`) keeps the averages of
    all of
    them, four numbers for each parameter; ``effective_lr`` is then of Adam's steps, and
    ``foreach`` makes no difference.

    Besides the state of its update rule, it keeps gradients and changes of the parameters
    from one step to the next, around each of the policy's decisions: in half the width of
    single-precision parameters, so that they take at most the memory of one copy of the
    gradients. Of a tensor of more than 65,536 numbers (no ``DTensor``), a fixed sample of
    about as many is kept.

    Args:
        params: parameters or parameter groups, as for any torch optimizer.
        policy: name of a shipped policy (one of :data:`agents.SHIPPED`), path of a policy
            file, or a :class:`~agents.policy.Policy`. By default the shipped
            ``"default"``, or ``"anytime"`` if there is no ``total_steps``.
        total_steps: number of steps that the run will take. An anytime policy needs none,
            and has no use for it.
        lr: base learning rate, which the policy multiplies; it need not be right. By
            default a usual one of the policy's rule: 1e-3 of ``adam``, ``orthogonal-adam``,
            ``network`` and a choice among rules, 1e-2 of ``momentum``.
        weight_decay: decoupled weight decay (Loshchilov & Hutter, 2019): each step takes
            ``effective_lr * weight_decay`` off the parameters.
        schedule: of the policy's own base schedule (that of ``default`` is constant, then
            falls to zero over the last three tenths): ``"auto"`` follows it unless a
            scheduler of torch's drives a group (which has ``"initial_lr"`` then;
            ``ReduceLROnPlateau`` leaves none), ``"always"`` in any case, None never.
        foreach, fused: as in torch, which chooses if both are None. Fused are the rules
            ``sgd``, ``momentum``, ``nesterov`` and ``adam``.
        maximize: whether to make the loss larger. What counts for the policy is then the
            negative of what it is given, so that objectives above zero count as none.
        guard: ``"step"`` looks at the gradients of each step, as told above; ``"probe"``
            only where the policy's telemetry is taken, at two steps a decision, which
            costs less: other steps are those of the bare update rule.
        rollback: whether to keep a copy of the parameters at each decision and to return
            to it, at a quarter of the learning rate and with a warning, after five steps
            in a row (of those that are looked at) whose gradients are not finite. The
            update rule then begins anew. What is frozen, and buffers, stay as they are.
        synchronize: whether the processes of ``torch.distributed``, if there are several,
            train one model, and are to use the mean of their losses. All of them must then
            take all steps. Gradients are those that data-parallel training has averaged.
        partitioned: whether each process holds other parameters of that model, as under
            ``ZeroRedundancyOptimizer``. Each must have some that have a gradient.

    Raises:
        ValueError: an argument is out of its range, or the policy cannot be used.
        TypeError: an argument is not of its type.
        FileNotFoundError: there is no such policy file.

    Example::

        optimizer = LearnedOptimizer(model.parameters(), total_steps=1000)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step(loss=loss)
    """

    def __init__(
        self,
        params: ParamsT,
        policy: str | Path | Policy | None = None,
        *,
        total_steps: int | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        schedule: str | None = "auto",
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        guard: str = "step",
        rollback: bool = False,
        synchronize: bool = True,
        partitioned: bool = False,
    ) -> None:
        if policy is None:
            policy = ANYTIME if total_steps is None else DEFAULT
        own = policy if isinstance(policy, Policy) else load_policy(policy)
        lr = own.rule.default_lr if lr is None else lr
        flags = {
            "rollback": rollback, "synchronize": synchronize, "partitioned": partitioned,
        }  # fmt: skip
        arguments.check(schedule, guard, flags)
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "foreach": foreach, "fused": fused,
            "maximize": maximize, "effective_lr": 0.0,
        }  # fmt: skip
        self._policy = own  # whose rule the groups are checked against
        super().__init__(params, defaults)
        self._tap = LossTap()
        self._synchronize, self._partitioned = synchronize, partitioned
        self._guard, self._rollback = guard, rollback
        dtype = self._precision
        self._policy = copy.deepcopy(own).to(dtype)  # the caller's stays as it is
        # In a param group, where torch saves, copies and restores it with the rest.
        self._run = run_state.start(self._policy, total_steps, dtype, schedule)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to those that are moved, also in the middle of a run.

        Raises:
            ValueError, TypeError: a setting of the group is out of its range, or what are
                to be parameters are none.
        """
        if isinstance(param_group, dict):
            group = {**self.defaults, **param_group}
            arguments.check_group(group, self._policy.rule.name)
        super().add_param_group(param_group)

    def attach_loss(self, module: nn.Module, reduction: str = "mean") -> RemovableHandle:
        """Take the loss from ``module`` at every step that is not given one.

        Forward passes with gradients enabled count: validate under ``torch.no_grad()``.
        Copies of the optimizer or of the
        module, and what is loaded from a pickle, are not attached.

        Args:
            module: a criterion, such as ``nn.CrossEntropyLoss()``, or a model that returns
                its own loss: in a mapping with ``"loss"``, as an attribute ``loss``, or
                first in a tuple.
            reduction: what the losses of several passes before one step (accumulation) are
                made into: their ``"mean"``, or their ``"sum"`` where each is a share of
                the whole already, as the models of Hugging Face have it in a ``Trainer``.

        Returns:
            A handle whose ``remove()`` ends it.

        Raises:
            TypeError: it is no module. In a forward pass: it returns no loss.
            ValueError: ``reduction`` is unknown. In a forward pass: its loss is no scalar.
        """
        return self._tap.attach(module, reduction)

    # Compiled code calls it as it is: its numbers change at every step.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: Tensor | float | None = None,
    ) -> Any:
        """Take one step.

        Args:
            closure: re-evaluates the model and returns the loss.
            loss: the loss whose gradients the parameters hold (a scalar; its graph is not
                used). By default what ``closure`` returns, or else what an attached module
                returned; without any, the policy sees gradients alone, as one that was
                trained without losses always does.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            ValueError, TypeError: the loss is no scalar, or the closure no function.
            RuntimeError: a gradient is sparse.
        """
        result = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(
                    f"closure must be callable, got {closure!r}; "
                    "a loss is given by name: step(loss=loss)"
                )
            with torch.enable_grad():
                result = closure()
            if loss is None and is_scalar(result):
                loss = result
        attached = self._tap.take()
        loss = attached if loss is None else loss
        if loss is not None:
            controller.check_loss(loss)
        # Lists, not a dict of parameters: to hash those would take longer than all else.
        groups = [group["params"] for group in self.param_groups]
        parts = [[p for p in group if p.grad is not None] for group in groups]
        if any(parts):
            self._step(parts, loss)
        return result

    def _step(self, parts: list[list[Tensor]], loss: Any) -> None:
        """Take a step; ``parts`` of the groups are the parameters that have a gradient."""
        groups = self.param_groups
        params = [p for part in parts for p in part]
        grads = [cast(Tensor, p.grad) for p in params]
        if not any(group["lr"] for group, own in zip(groups, parts, strict=True) if own):
            # No step of the run, as in torch.distributed.checkpoint, which takes one to
            # have all state in place.
            self._update(parts, grads, 0.0)
            snapshots.prepare(params, self.state)
            if self._rollback:
                keep_good(self.state, groups, every=False)
            return
        grads, state = downhill(groups, parts, grads), self._run
        if self._guard == "step" or controller.is_watched(self._policy, state):
            state, usable = guarding.inspect(state, grads, self._partitioned)
            if usable is None:
                lowest = -self._policy.action.bound
                self._run = roll_back(state, self.state, groups, lowest)
                if self._run is not state:
                    warnings.warn(ROLLED_BACK, stacklevel=7)
                return
            grads = usable
            if self._rollback:
                every = controller.is_decision(self._policy, state)
                keep_good(self.state, groups, every)
        if self._policy.sees_loss:
            loss = agreed_loss(loss, params) if self._synchronize else loss
            if loss is not None and groups[0]["maximize"]:
                loss = -loss
            state = controller.record(state, loss)
        state, multiplier = drive(
            self._policy, state, params, grads, self.state, groups, self._partitioned
        )
        if state["chosen"] < 0:
            self._update(parts, grads, multiplier)
        else:
            state = switching.move(
                state, groups, parts, grads, self.state, multiplier, self._partitioned
            )
        if state["probing"]:
            snapshots.settle(self.state)
        self._run = state

    def _update(
        self, parts: list[list[Tensor]], grads: list[Tensor], multiplier: float
    ) -> None:
        rule, done = self._policy.rule, 0
        for group, params in zip(self.param_groups, parts, strict=True):
            lr = group["effective_lr"] = float(group["lr"]) * multiplier
            states = [self.state[p] for p in params]
            how = Implementation(group["foreach"], group["fused"])
            own, done = grads[done : done + len(params)], done + len(params)
            if not lr:
                fill(rule, params, states, how)
            elif params:
                decay = group["weight_decay"]
                update(rule, params, own, states, lr, weight_decay=decay, how=how)
