"""Learned policy as a drop-in ``torch.optim.Optimizer``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils.hooks import RemovableHandle

from optenv.checks import quoted

from ..policies import ANYTIME, DEFAULT
from ..policy.module import Policy
from ..utils.warning import warn_user
from . import clock
from .arguments import check_arguments, check_policy, check_rates, given_policy, own_group
from .budget import warn_of_other_batch_size
from .capture import GraphUpdates, check_devices, is_capturing, refuse_capture
from .controller import (
    Controller,
    State,
    initial_state,
    next_run_state,
)
from .groups import (
    allocate_groups,
    check_group,
    check_roles,
    check_scope,
    set_lr,
    settings_of,
    update_groups,
)
from .guard import EARLY_STEPS, GradientGuard
from .kernels import kernel_of
from .layerwise import carry_over
from .loading import check_loaded, restore_dtypes
from .loss_hook import LossCollector, check_loss, is_scalar
from .modifiers import allocate_averages
from .reports import Reports
from .roles import MatrixFlags, groups_for
from .run_length import Lengths
from .state_checks import check_ranges
from .state_keys import REMEMBERED
from .tensors import DeviceRates, GradientBatch, parameters_of

__all__ = ["LearnedOptimizer"]


class LearnedOptimizer(Lengths, Reports, Optimizer):
    r"""Optimizer whose learning rate is set by a policy learned in an environment.

    At a fixed number of decisions, which are denser early in the run, the policy observes
    how training goes and changes the log-multiplier :math:`s` of the learning rate. (An
    anytime policy decides at fixed steps, at growing intervals.) Parameters are updated by
    the rule that the policy was trained with, in torch's own implementation where there is
    one, at the learning rate

    .. math:: \eta_t = \text{lr} \cdot \text{schedule}(t / T) \cdot e^s .

    Some policies choose the update rule as well (:mod:`optenv.rules.switching`), and some
    remember a task from one training run to the next (:meth:`new_run`).

    A step never writes ``group["lr"]``, so that torch's schedulers can drive it. The
    learning rate in force is ``group["effective_lr"]``, 0 before the first step.

    **Length of the run.** A ``total_steps`` of more than twice the longest run that the
    policy was trained on, or less than half the shortest, gives a warning. Loading a saved
    state restores its ``total_steps`` and ``schedule``, with a warning if the length
    differs. :meth:`extend` changes the length, and :meth:`finish` ends the run early, with
    a learning rate that falls to zero.

    **Guards.** A step is skipped, and counted in ``skipped``, if a gradient is not finite
    or its square overflows. Gradients whose norm over all parameters exceeds ten times the
    root mean square of earlier norms are scaled down to that limit and counted in
    ``clipped`` (early in a run they are scaled down further, in the first twenty steps to
    the root mean square itself). Gradients of ordinary training hardly ever are. If one of
    the first ten steps turns out to have had a gradient thirty times larger than a later
    one, the state of the update rule is reset, which also counts as clipped. A loss that
    is not finite is ignored. After a negative loss, all losses are ignored
    (``ignored_losses``), unless the policy only observes invariant features of the loss.
    Losses in another unit than the gradients, such as a sum instead of a mean, are
    recognised (:mod:`agents.optim.loss_unit`). If ``step`` raises before any parameter has
    moved, the next call does what the failed one would have done. An exception in the
    middle of an update leaves the update incomplete, as in torch's own optimizers.

    **Memory.** Besides the state of its update rule, the optimizer keeps the gradients and
    updates around each decision (in bfloat16 for float32 parameters). Together they take
    at most the memory of one copy of the gradients. Of a tensor with more than 65,536
    elements (unless it is a ``DTensor``), only a fixed subsample of about that size is
    kept. Parameters in half precision have their state in single precision. A policy that
    chooses update rules keeps the moments of all rules, four numbers per parameter;
    ``effective_lr`` is then the learning rate of Adam's steps, and ``foreach`` has no
    effect.

    Args:
        params: parameters or parameter groups, as for any torch optimizer.
        policy: name of a shipped policy (one of :data:`agents.SHIPPED`), path of a policy
            file, or a :class:`~agents.policy.Policy`. By default the shipped
            ``"default"``, or, without ``total_steps``, ``"anytime"`` with a warning.
        total_steps: number of updates in the run: calls of ``step``, except those that are
            skipped, find no gradients, or find all learning rates at 0. An anytime policy
            does not need it and ignores it. Like all numbers of steps here, it is an
            integer or a float without a fraction, such as ``1e4`` or
            ``0.5 * total_steps``.
        lr: base learning rate, which the policy multiplies; it need not be tuned. By
            default ``base_lr`` in the policy's description, or else the usual one of its
            rule: 1e-3 for ``adam``, ``orthogonal-adam``, ``network`` and policies that
            choose rules, 1e-2 for ``momentum``.
        max_lr: upper limit of the learning rate, whatever the policy chooses. It is useful
            for fine-tuning, where too high a rate destroys what the model has learned.
            Warm-up, the fall at the end of the run and torch schedulers lower the rate from
            there. It can be changed in ``group["max_lr"]``.
        betas, eps, momentum: hyperparameters of the update rule, if it has them; by
            default those that the policy was trained with.
        refresh: for the rule ``orthogonal-adam``: number of updates for which the factors
            that orthogonalise a matrix are reused, by default as in the policy's training.
            With a larger number, steps are cheaper and less exactly orthogonal. Sharded
            parameters and ``capturable`` steps compute the factors at every update.
        weight_decay: decoupled weight decay (Loshchilov & Hutter, 2019): each step
            multiplies the parameters by ``1 - effective_lr * weight_decay``. If the
            validation loss ends far above the training loss, try 0.1 first.
        schedule: when the policy's own base schedule applies (that of ``default`` is
            constant, then falls to zero over the last 30 % of the run). ``"auto"``: if a
            torch scheduler drives the groups, the lower of the two factors applies, each
            relative to its highest value so far; after a warm-up scheduler's warm-up, that
            is the policy's. (``ReduceLROnPlateau``, and learning rates set by hand,
            multiply it.) ``"always"``: it multiplies the factor of any scheduler. None:
            never.
        warmup_steps: number of steps over which the learning rate rises linearly from
            zero.
        foreach, fused: as in torch's optimizers; if both are None, torch chooses. Rules
            ``sgd``, ``momentum``, ``nesterov`` and ``adam`` have fused implementations.
        capturable: whether steps can be captured in CUDA graphs, see :meth:`replay`. It
            needs ``guard="probe"``, no ``rollback``, and one of the rules ``sgd``,
            ``momentum``, ``nesterov``, ``rmsprop``, ``adam``, ``nadam``, ``lion`` and
            ``orthogonal-adam``.
        maximize: whether to maximise the objective. The policy then observes its negative
            as the loss. If groups differ in it, losses are ignored, with a warning.
        matrices: whether to treat parameters with two or more dimensions as matrices, whose
            directions ``orthogonal-adam`` orthogonalises; all others follow Adam. By
            default all of them are matrices except embeddings and the output layer. Groups
            named by roles, as :meth:`for_model` makes them, tell which those are;
            otherwise they are guessed from the shapes in order, see
            :func:`optenv.roles.roles_of_shapes`. It can be set per group.
        guard: ``"step"`` checks the gradients of every step. ``"probe"`` only checks those
            of a decision and of the step before it, which costs less: all other steps are
            plain updates.
        rollback: whether to copy the parameters at each decision, and to restore the copy,
            at a quarter of the learning rate and with a warning, after five non-finite
            gradients in a row (among those that are checked). The state of the update rule
            is then reset. Frozen parameters and buffers are not restored.
        synchronize: whether the processes of ``torch.distributed``, if there are several,
            train one model and use the mean of their losses. All processes must then take
            every step. Gradients must already be averaged, as in data-parallel training.
        partitioned: whether each process holds a different part of the model's parameters,
            as with ``ZeroRedundancyOptimizer``. Each process must have at least one
            parameter with a gradient.
        batch_size: base batch size, for a policy that chooses the batch size and for no
            other: it chooses multiples of this number. The training loop loads batches of
            :attr:`batch_size` examples, which the policy changes. ``total_steps`` counts
            batches of the base size, so that the run has a budget of
            ``total_steps * batch_size`` examples.

    Raises:
        ValueError: an argument is out of its range, or the policy cannot be used.
        TypeError: an argument is of the wrong type.
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
        max_lr: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        momentum: float | None = None,
        refresh: int | None = None,
        weight_decay: float = 0.0,
        schedule: str | None = "auto",
        warmup_steps: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        maximize: bool = False,
        matrices: bool | None = None,
        guard: str = "step",
        rollback: bool = False,
        synchronize: bool = True,
        partitioned: bool = False,
        batch_size: int | None = None,
    ) -> None:
        # 1. The policy and the arguments.
        flags = {
            "rollback": rollback, "synchronize": synchronize, "partitioned": partitioned,
            "capturable": capturable,
        }  # fmt: skip
        self._arguments = {
            "policy": policy, "total_steps": total_steps, "schedule": schedule,
            "warmup_steps": warmup_steps, "guard": guard, "batch_size": batch_size, **flags,
        }  # fmt: skip
        if policy is None:
            policy = ANYTIME if total_steps is None else DEFAULT
            if total_steps is None:
                clock.warn_of_unknown_length(ANYTIME, DEFAULT)
        given = given_policy(policy, "a learning rate is given by name: lr={}")
        check_arguments(schedule, guard, flags)
        check_policy(given.action, capturable, partitioned)
        # 2. The parameter groups, which are checked against the policy's rule.
        defaults: dict[str, Any] = {
            "lr": given.base_lr if lr is None else lr,
            "weight_decay": weight_decay, "foreach": foreach, "fused": fused,
            "maximize": maximize, "effective_lr": 0.0,
        }  # fmt: skip
        optional = {
            "max_lr": max_lr, clock.LIMIT: max_lr,
            "betas": betas, "eps": eps, "momentum": momentum, "refresh": refresh,
            "matrices": matrices,
            "capturable": capturable or None,  # left out if False, as in earlier versions
        }  # fmt: skip
        defaults |= settings_of(given.rule)
        defaults |= {key: value for key, value in optional.items() if value is not None}
        check_group(defaults, given.rule)
        check_ranges(defaults)
        self._policy = given
        super().__init__(params, defaults)
        if not any(float(group["lr"]) for group in self.param_groups):
            warn_user("lr is 0 for all parameters, which the policy only multiplies")
        # 3. The controller, with a copy of the policy: the caller's stays as it is.
        dtype = self._telemetry_dtype
        self._policy = copy.deepcopy(given).to(dtype)
        state = initial_state(
            self._policy, total_steps, dtype, schedule, warmup_steps, batch_size
        )
        self._controller = Controller(
            self._policy, state, synchronize=synchronize, partitioned=partitioned
        )
        self._guard = GradientGuard(guard, rollback, partitioned)
        self._losses = LossCollector()
        self._graph = GraphUpdates()
        self._matrices = MatrixFlags(partitioned)
        self._matrices.warn_of_guess(given.rule, self.param_groups)
        self._store_controller()

    @classmethod
    def for_model(
        cls, model: nn.Module, *args: Any, weight_decay: float = 0.0, **arguments: Any
    ) -> Self:
        """Make an optimizer of a model, with a parameter group for each role.

        Matrices and the output layer get the weight decay; embeddings, biases and scales
        of normalisation get none. The groups are named by their roles, see
        :func:`optenv.roles.parameters_by_role`.

        Args:
            model: the model; parameters that need no gradient are left out.
            weight_decay: weight decay of matrices and output layer.
            *args, **arguments: as for the constructor, after ``params``.

        Raises:
            ValueError, TypeError: see the constructor; or ``model`` is no module with
                parameters to train.

        Example:
            >>> from torch import nn
            >>> from agents import LearnedOptimizer
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
            >>> optimizer = LearnedOptimizer.for_model(model, total_steps=1000)
            >>> [group["name"] for group in optimizer.param_groups]
            ['matrices', 'output', 'vectors']
        """
        groups = groups_for(model, weight_decay)
        return cls(groups, *args, weight_decay=weight_decay, **arguments)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters to optimize, also in the middle of a run.

        The group is copied, so that a group of another optimizer is not changed. If groups
        differ in ``maximize``, losses are ignored, with a warning.

        Raises:
            ValueError, TypeError: a setting of the group is out of its range, or
                ``params`` are no parameters.
        """
        if isinstance(param_group, dict):
            param_group = own_group(param_group)
            settings = {**self.defaults, **param_group}
            check_group(settings, self._policy.rule)
            check_ranges(settings)
            check_scope(param_group, self._arguments)
            check_roles(param_group, self._policy.action)
        super().add_param_group(param_group)
        if not self._has_one_direction and self._policy.sees_loss:
            warn_user(
                "parameter groups differ in maximize, so that no step descends the loss: "
                "the policy goes on as if none were given"
            )
        if "_graph" in self.__dict__:  # not yet within torch's constructor
            self._note_change()

    def attach_loss(self, module: nn.Module, reduction: str = "mean") -> RemovableHandle:
        """Take the loss from ``module`` at every step that is not given one.

        Only forward passes with gradients enabled count, so validate under
        ``torch.no_grad()``. Copies and pickles of the optimizer or of the module are not
        attached.

        Args:
            module: a criterion, such as ``nn.CrossEntropyLoss()``, or a model that returns
                its own loss: in a mapping with ``"loss"``, as an attribute ``loss``, or
                first in a tuple.
            reduction: how the losses of several passes before one step (gradient
                accumulation) are combined: ``"mean"``, or ``"sum"`` if each is already
                divided by their number, as Hugging Face models do in a ``Trainer``.

        Returns:
            A handle whose ``remove()`` detaches the module.

        Raises:
            TypeError: ``module`` is no module. In a forward pass: it returns no loss.
            ValueError: ``reduction`` is unknown. In a forward pass: the loss is no scalar.
        """
        return self._losses.attach(module, reduction)

    def validated(self, loss: Tensor | float) -> None:
        """Pass the validation loss of the current parameters to the policy.

        Call it between two steps, as often as you validate. A policy that observes
        validation losses does so at its next decision: how long ago the last one was given,
        its fall and its rise in units of their range, how much they change, and how far
        they are above the training loss. Only the last one since the previous decision
        counts. One before the first step is ignored, and so is one that is not finite
        (:attr:`ignored_losses`). With several processes, the mean over those that passed
        one is used.

        Args:
            loss: mean loss over examples that are not trained on: a scalar in any unit and
                of any sign. Lower is better, even with ``maximize``.

        Raises:
            ValueError, TypeError: the loss is no scalar.

        Warns:
            UserWarning: the policy observes no validation losses; once.

        Example::

            for epoch in range(10):
                train_for_an_epoch(model, optimizer)
                with torch.no_grad():
                    optimizer.validated(criterion(model(held_out_inputs), held_out_targets))
        """
        self._controller.begin_step(self._controller_state())
        self._controller.validated(loss)
        self._store_controller()

    # Compiled code calls it without tracing it: its numbers change at every step.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: Tensor | float | None = None,
    ) -> Any:
        """Perform a single optimization step.

        Args:
            closure: re-evaluates the model and returns the loss.
            loss: the loss whose gradients the parameters hold, a scalar; its graph is not
                used. By default the loss that ``closure`` returned, or else the loss of an
                attached module. (After several passes with reduction ``"sum"``, their sum
                takes precedence over the closure's loss, which is only a part of it.)
                Without a loss, the policy observes gradients only, as ``"gradient-only"``
                always does.

        Returns:
            The result of ``closure``, or None.

        Raises:
            ValueError, TypeError: the loss is no scalar, or the closure is not callable.
            ValueError: a learning rate is negative, for example because of a scheduler.
            RuntimeError: a gradient is sparse, or a CUDA graph is being captured and this
                step cannot be part of it.
        """
        result, loss = self._evaluate(closure, loss)
        batch = self._collect()
        if not batch.params:
            return result
        if is_capturing(batch.params):
            self._capture(batch)
            return result
        check_rates(self.param_groups)
        rates = self._device_rates(batch.params) if self._is_capturable else None
        if not batch.moves:
            self._allocate_state(batch)
            return result
        self._controller.begin_step(self._controller_state())
        checked = self._guard.check(batch, self._controller)
        if checked is not None:  # else the step is skipped
            self._record_loss(loss, checked.params)
            multipliers = self._controller.before_update(checked)
            state, partitioned = self._controller.state, self._guard.partitioned
            update_groups(
                self._policy, checked, multipliers, state, partitioned, rates,
                self._controller.by_tensor,
            )  # fmt: skip
            self._controller.after_update(self.state)
        self._store_controller()
        return result

    def _collect(self) -> GradientBatch:
        """Collect the gradients, and the matrices if the rule treats them differently."""
        batch = GradientBatch.collect(self.param_groups, self.state)
        if not self._policy.rule.shaped:
            return batch
        matrices = self._matrices.of(self.param_groups, batch.params)
        return replace(batch, matrices=matrices)

    def _note_change(self) -> None:
        """Note that groups or states have been replaced."""
        self._graph.note_change()
        self._matrices.note_change()

    def _record_loss(self, loss: Any, params: list[Tensor]) -> None:
        """Record the loss, unless some groups minimise and others maximise it."""
        loss = loss if self._has_one_direction else None
        maximize = bool(self.param_groups[0]["maximize"])
        self._controller.record_loss(loss, params, maximize)

    @property
    def _has_one_direction(self) -> bool:
        return len({bool(group["maximize"]) for group in self.param_groups}) == 1

    # CUDA graphs.

    @property
    def _is_capturable(self) -> bool:
        return bool(self._arguments.get("capturable"))  # pickles of 0.1 have none

    def can_replay(self) -> bool:
        """Return whether the next step may be a replay of a CUDA graph (:meth:`replay`).

        It may not within the first ten steps, at a decision of the policy and the step
        before it, after a skipped step, or while a learning rate is 0: call :meth:`step`
        then. Without ``capturable=True``, it never may.
        """
        state = self._controller_state()
        return (
            self._is_capturable
            and state["steps"] >= EARLY_STEPS
            and not self._controller.probes_gradients(state)
            and all(float(group["lr"]) > 0.0 for group in self.param_groups)
        )

    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def replay(self, graph: Any, *, loss: Tensor | float | None = None) -> None:
        """Perform a step by replaying a CUDA graph that a step was captured in.

        The host counts the step, writes the learning rates to the device, and then replays
        the graph. Capture a graph after ten ordinary steps, and again after
        :meth:`load_state_dict`, :meth:`new_run` or :meth:`add_param_group`. Hooks of
        ``step`` are not called.

        Args:
            graph: a ``torch.cuda.CUDAGraph`` in which gradients and :meth:`step`, or
                :meth:`step` alone, have been captured.
            loss: as for :meth:`step`. It is read after the replay, for which the host
                waits.

        Raises:
            RuntimeError: the next step cannot be a replay (:meth:`can_replay`), or what
                was captured is not up to date.
            ValueError, TypeError: the loss is no scalar.

        Example::

            optimizer = LearnedOptimizer(
                model.parameters(), total_steps=1000, guard="probe", capturable=True
            )
            for inputs, targets in batches:
                static_inputs.copy_(inputs)
                static_targets.copy_(targets)
                if optimizer.can_replay():
                    optimizer.replay(graph, loss=static_loss)
                else:
                    optimizer.zero_grad()
                    loss = criterion(model(static_inputs), static_targets)
                    loss.backward()
                    optimizer.step(loss=loss)
        """
        # 1. Check everything.
        if loss is not None:
            check_loss(loss)
        if not self.can_replay():
            raise RuntimeError(
                "this step cannot be a replay of a CUDA graph: call step() whenever "
                "can_replay() is False"
            )
        self._graph.check(self.param_groups, self.state)
        # 2. The clock and the learning rates, on the host.
        self._controller.begin_step(self._controller_state())
        multipliers = self._controller.advance(self.param_groups)
        for i, group in enumerate(self.param_groups):
            group["effective_lr"] = float(group["lr"]) * multipliers[i]
            self._graph.rates.write(i, group["effective_lr"])
        # 3. The update, on the device, and its loss.
        graph.replay()
        self._losses.take()
        self._record_loss(loss, parameters_of(self.param_groups))
        self._store_controller()

    def _capture(self, batch: GradientBatch) -> None:
        """Capture the update, and nothing else of the step, in a CUDA graph.

        Raises:
            RuntimeError: the step cannot be captured, or not yet.
        """
        what = "this step of LearnedOptimizer"
        if not self._is_capturable:
            refuse_capture(batch.params, what, "make the optimizer with capturable=True")
        if self._controller_state()["steps"] < EARLY_STEPS:
            refuse_capture(
                batch.params, what, f"take {EARLY_STEPS} ordinary steps before, in which "
                "its guard and torch's kernels warm up",
            )  # fmt: skip
        rule = self._policy.rule
        self._graph.capture(rule, batch, kernel_of(rule).slots)

    def _device_rates(self, params: list[Tensor]) -> DeviceRates:
        """Return the device tensors that hold a capturable step's learning rates.

        Raises:
            ValueError: the parameters are not all on one device that has graphs.
        """
        check_devices(params)
        self._graph.note_step()
        return self._graph.rates

    def _evaluate(self, closure: Callable[[], Any] | None, loss: Any) -> tuple[Any, Any]:
        """Call the closure; return its result and the loss of this step."""
        result = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(
                    f"closure must be callable, got {closure!r}; "
                    "a loss is given by name: step(loss=loss)"
                )
            try:
                with torch.enable_grad():
                    result = closure()
            except BaseException:
                self._losses.take()  # losses of a step that is not taken
                raise
            if loss is None and is_scalar(result) and not self._losses.adds_up:
                loss = result
        attached = self._losses.take()  # even if unused, so that no later step takes it
        loss = attached if loss is None else loss
        if loss is not None:
            check_loss(loss)
        return result, loss

    def _allocate_state(self, batch: GradientBatch) -> None:
        """Allocate all state without a step, as ``torch.distributed.checkpoint`` expects.

        It calls ``step`` with all learning rates at 0 before it loads a checkpoint.
        """
        allocate_groups(self._policy, batch)
        if "average" in self._policy.action.sets:
            allocate_averages(batch)
        for group in batch.groups:
            if "initial_lr" in group:
                group.setdefault(clock.PEAK, float(group["initial_lr"]))
        self._controller.allocate(batch.params, self.state)
        if self._guard.rollback:
            self._guard.keep_params(batch, renew=False)

    # Saving, loading, copying. The state of the controller is in a parameter group, where
    # torch saves, copies and restores it with the rest.

    def _controller_state(self) -> State:
        """Return the state of the controller that a parameter group holds."""
        for group in self.param_groups:
            if "controller" in group:
                return group["controller"]
        return self._controller.state  # the group that held it has been removed

    def _store_controller(self) -> None:
        """Put the state of the controller into the group that holds it, or the first."""
        holders = (group for group in self.param_groups if "controller" in group)
        for holder in [*holders, *self.param_groups][:1]:  # none where all are removed
            holder["controller"] = self._controller.state

    @property
    def _telemetry_dtype(self) -> torch.dtype:
        """Float64 if all parameters have double precision, else float32."""
        double = (torch.float64, torch.complex128)
        params = parameters_of(self.param_groups)
        return torch.float64 if all(p.dtype in double for p in params) else torch.float32

    def __getstate__(self) -> dict[str, Any]:
        self._controller.state = self._controller_state()
        self._store_controller()
        names = ("_policy", "_arguments", "_controller", "_guard")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch calls it for copies and pickles, and in load_state_dict.
        super().__setstate__(state)
        for group in self.param_groups:  # fill in settings that the saved state lacks
            for name, value in self.defaults.items():
                if name != "differentiable":  # added by torch, not used here
                    group.setdefault(name, value)
            if isinstance(group.get("controller"), dict):  # of an earlier version
                group["controller"] = {**clock.CLOCK, **group["controller"]}
        for p, param_state in self.state.items():
            if not isinstance(p, Tensor):  # an entry of the user's own
                continue
            if isinstance(param_state.get("step"), float):  # of early versions of torch
                param_state["step"] = torch.tensor(param_state["step"], dtype=torch.float32)
        if "_losses" not in self.__dict__:  # a copy has no attached module and no graph
            self._losses, self._graph = LossCollector(), GraphUpdates()
            self._matrices = MatrixFlags(self._guard.partitioned)
        self._note_change()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state, after checking all of it.

        Raises:
            ValueError: the state is not that of a :class:`LearnedOptimizer` with the same
                policy, or one of its entries is not valid. Nothing has changed then.
        """
        loaded: dict[str, Any] = {}

        def check(_: Optimizer, final: dict[str, Any]) -> None:
            loaded["controller"] = check_loaded(
                final, self._policy, self.defaults, parameters_of(self.param_groups)
            )
            loaded["final"] = final

        if not isinstance(state_dict, dict):
            raise ValueError(f"a state to load is a dictionary, got {quoted(state_dict)}")

        made_for = self.total_steps
        # After the hooks of the user, which may change the state to load.
        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        restore_dtypes(loaded["final"], parameters_of(self.param_groups), self.state)
        for group in self.param_groups:  # a choice of this optimizer, not of the state
            group.pop("capturable", None)
            group |= {"capturable": True} if self._is_capturable else {}
        clock.warn_of_other_length(loaded["controller"], made_for)
        warn_of_other_batch_size(loaded["controller"], self._controller.state)
        self._controller.replace_state(loaded["controller"])
        self._store_controller()
        self._losses.take()  # losses of another run

    def new_run(
        self, params: ParamsT | None = None, *, total_steps: int | None = None
    ) -> None:
        """Begin another training run of the same task, from new parameters.

        A policy for trials keeps its memory and its last action, also across
        :meth:`state_dict`. If it decides on each parameter tensor, it keeps them for each:
        a tensor in ``params`` takes over those of the previous tensor at the same position,
        or, with a warning, starts without them if that one had another shape.

        Everything else is reset: the state of the update rule, the telemetry
        (:meth:`explain`), and the counters (``skipped`` and the like). Call ``zero_grad``
        before the first step, and ``attach_loss`` for a new criterion; attached losses that
        no step has used are dropped.

        Args:
            params: parameters or groups, as for the constructor, that replace the current
                ones; settings that a group leaves out are taken from the constructor. By
                default the groups and their settings are kept, and the caller
                re-initialises their parameters; learning rates that a torch scheduler has
                changed are reset.
            total_steps: number of steps of the run, by default as in the last one.

        Raises:
            ValueError, TypeError: see the constructor; the optimizer is then unchanged.
        """
        groups, state = self.param_groups, self._controller_state()
        try:
            if params is not None:
                new = list(params)
                if not new:
                    raise ValueError("new_run got an empty parameter list")
                self.param_groups = []
                for part in new if isinstance(new[0], dict) else [{"params": new}]:
                    self.add_param_group(part)  # type: ignore[arg-type]
            fresh = next_run_state(self._policy, state, total_steps, self._telemetry_dtype)
            before, after = parameters_of(groups), parameters_of(self.param_groups)
            remembered = carry_over(self._policy, before, after, self.state)
        except BaseException:  # including warnings that are errors
            self.param_groups = groups
            raise
        self.state.clear()
        for p, entry in remembered.items():
            self.state[p][REMEMBERED] = entry
        self._note_change()
        for group in self.param_groups:
            group["effective_lr"] = 0.0
            group.pop(clock.PEAK, None)
            if "initial_lr" in group:
                set_lr(group, group.pop("initial_lr"))
        self._controller.replace_state(fresh)
        self._store_controller()
        self._losses.take()  # losses of the previous run
