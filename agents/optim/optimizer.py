"""The exported optimizer: a learned policy as a drop-in ``torch.optim.Optimizer``."""

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

    At a fixed number of decisions, more of them early in the run, the policy observes how
    training goes and moves the log-multiplier :math:`s` of the learning rate. (An anytime
    policy decides at fixed steps, further and further apart.) The update is the rule that
    the policy was trained with, by torch's own implementation where there is one, at the
    learning rate

    .. math:: \eta_t = \text{lr} \cdot \text{schedule}(t / T) \cdot e^s .

    Some policies choose the update rule as well (:mod:`optenv.rules.switching`), and some
    remember a task from one training run to the next (:meth:`new_run`).

    A step never writes ``group["lr"]``, so that torch's schedulers can drive it. The
    learning rate in force is ``group["effective_lr"]``, 0 before the first step.

    **Length of the run.** The policy was trained on runs of certain lengths: a
    ``total_steps`` of more than twice the longest, or less than half the shortest, gives a
    warning. Loading a saved state restores the ``total_steps`` and the ``schedule`` that
    it was saved with, with a warning if the length is another one. :meth:`extend` makes a
    run longer or shorter, and :meth:`finish` ends it soon, with the fall of the learning
    rate that the end of a run needs.

    **Guards.** A step with a gradient that is not finite, or whose square is not, is
    skipped and counted in ``skipped``. Gradients whose norm over all parameters is more
    than ten times the root mean square of the norms so far are scaled down to that (early
    in a run further, in the first twenty steps to the root mean square itself) and counted
    in ``clipped``; those of ordinary training hardly ever are. If one of the first steps
    turns out to have had a gradient thirty times larger than a later one, the state of the
    update rule begins anew, which counts as clipped, too. A loss that is not finite is
    ignored; after a negative loss all losses are (``ignored_losses``), unless the policy
    observes invariant features of the loss only. Losses in another unit than the gradients,
    as a sum in place of a mean, are recognised (:mod:`agents.optim.loss_unit`). After an
    exception in ``step`` before any parameter has moved, the next call does as the failed
    one would have. One in the middle of an update leaves a part of it done, as with torch's
    own optimizers.

    **Memory.** Besides the state of its update rule, the optimizer keeps the gradients and
    updates around each decision (in bfloat16 for float32 parameters), which together take
    at most as much memory as one copy of the gradients. Of a tensor of more than 65,536
    numbers (that is no ``DTensor``) a fixed subsample of about as many is kept. The state
    of parameters in half precision is in single precision. A policy that chooses update
    rules keeps the moments of all of them, four numbers for each parameter;
    ``effective_lr`` is then the rate of Adam's steps, and ``foreach`` makes no difference.

    Args:
        params: parameters or parameter groups, as for any torch optimizer.
        policy: name of a shipped policy (one of :data:`agents.SHIPPED`), path of a policy
            file, or a :class:`~agents.policy.Policy`. By default the shipped
            ``"default"``, or ``"anytime"``, with a warning, if there is no
            ``total_steps``.
        total_steps: number of updates in the run. That is the number of calls of
            ``step``, but for those that are skipped, that find no gradients, or find all
            learning rates at 0. An anytime policy needs none and has no use for it. It is
            an integer, or, like all numbers of steps here, a float without a fraction: they
            are often a product or a quotient, as ``1e4`` or ``0.5 * total_steps``.
        lr: base learning rate, which the policy multiplies; it need not be right. By
            default that of the policy (``base_lr`` in its description), or else the usual
            one of its rule: 1e-3 for ``adam``, ``orthogonal-adam``, ``network`` and
            policies that choose rules, 1e-2 for ``momentum``.
        max_lr: upper limit of the learning rate, whatever the policy says; as for
            fine-tuning, where too high a rate destroys what has been learned. Warm-up,
            final fall and torch schedulers lower the rate from there. It can be changed in
            ``group["max_lr"]``.
        betas, eps, momentum: hyperparameters of the update rule, where it has such; by
            default those that the policy was trained with.
        refresh: for the rule ``orthogonal-adam``: number of updates for which the factors
            that orthogonalise a matrix are kept, by default that which the policy was
            trained with. The more, the cheaper a step, and the further it is from
            orthogonal. Sharded parameters and ``capturable`` steps compute them at every
            update.
        weight_decay: decoupled weight decay (Loshchilov & Hutter, 2019): each step takes
            ``effective_lr * weight_decay`` off the parameters. Where the validation loss
            ends far above the training loss, begin with 0.1.
        schedule: when the policy's own base schedule is followed (that of ``default`` is
            constant, then falls to zero over the last three tenths). ``"auto"``: where a
            torch scheduler drives the groups, the lower of the two factors applies, each
            of them relative to its highest value so far; after a warm-up, that is the
            policy's. (``ReduceLROnPlateau``, and learning rates that are set by hand,
            multiply it.) ``"always"``: it multiplies all others. None: never.
        warmup_steps: number of steps over which the learning rate rises linearly from
            zero.
        foreach, fused: as in torch, which chooses if both are None. Rules ``sgd``,
            ``momentum``, ``nesterov`` and ``adam`` have fused implementations.
        capturable: whether steps can be captured in CUDA graphs, with ``guard="probe"``
            and without ``rollback``; see :meth:`replay`. Rules ``sgd``, ``momentum``,
            ``nesterov``, ``rmsprop``, ``adam``, ``nadam``, ``lion`` and
            ``orthogonal-adam`` can.
        maximize: whether to maximise the objective. The policy then observes its negative,
            so that positive objectives are treated as if no loss were given. So are all
            losses where groups differ in it, with a warning.
        matrices: whether to take the parameters that have two sides for matrices, whose
            directions ``orthogonal-adam`` orthogonalises; all others follow Adam. By
            default all are taken for matrices but embeddings and the output layer: groups
            that are named by a role say which those are, as those of :meth:`for_model`
            are; else it is guessed from the shapes in their order, see
            :func:`optenv.roles.roles_of_shapes`. It can be given by group.
        guard: ``"step"`` checks the gradients of each step; ``"probe"`` only those of the
            two steps around a decision, which costs less: all other steps are those of
            the bare update rule.
        rollback: whether to copy the parameters at each decision, and to return to the
            copy, at a quarter of the learning rate and with a warning, after five
            non-finite gradients in a row (of those that are checked). The state of the
            update rule is reset. Frozen parameters and buffers stay as they are.
        synchronize: whether the processes of ``torch.distributed``, if there are several,
            train one model and use the mean of their losses. All of them must then take
            all steps. Gradients are those that data-parallel training has averaged.
        partitioned: whether each process holds other parameters of that model, as under
            ``ZeroRedundancyOptimizer``. Each must have some with a gradient.
        batch_size: for a policy that chooses the batch size, and only there: the one that
            it chooses multiples of. The loop loads batches of :attr:`batch_size`, as the
            policy changes it. ``total_steps`` is then a number of batches of this size: the
            run has a budget of as many examples.

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
            "capturable": capturable or None,  # as states of earlier versions, without it
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
            ValueError, TypeError: as of the constructor, or ``model`` is no module with
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

        The group is copied, so that one of another optimizer stays as it is. Where groups
        differ in ``maximize``, no loss is used, of which there is a warning.

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

        Forward passes with gradients enabled count: validate under ``torch.no_grad()``.
        Copies and pickles of the optimizer or of the module are not attached.

        Args:
            module: a criterion, such as ``nn.CrossEntropyLoss()``, or a model that returns
                its own loss: in a mapping with ``"loss"``, as an attribute ``loss``, or
                first in a tuple.
            reduction: how the losses of several passes before one step (gradient
                accumulation) are combined: ``"mean"``, or ``"sum"`` where each is already
                divided by their number, as by models of Hugging Face in a ``Trainer``.

        Returns:
            A handle whose ``remove()`` detaches the module.

        Raises:
            TypeError: it is no module. In a forward pass: it returns no loss.
            ValueError: ``reduction`` is unknown. In a forward pass: its loss is no scalar.
        """
        return self._losses.attach(module, reduction)

    def validated(self, loss: Tensor | float) -> None:
        """Tell the policy the validation loss of the present parameters.

        Call it between two steps, as often or as rarely as you validate. A policy that
        observes validation losses does so at its next decision: how long ago the last one
        was given, its fall and its rise in units of their range, how much they change, and
        how far they are above the training loss. Of several since the last decision only
        the last one counts; one before the first step does not, and neither does one that
        is not finite (:attr:`ignored_losses`). With several processes it is the mean over
        those that were given one.

        Args:
            loss: a scalar of any unit and any sign, of which lower is better, also with
                ``maximize``: a mean over examples that are not trained on.

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
                used. By default the loss that ``closure`` returned, or else that of an
                attached module. (Of several passes attached with reduction ``"sum"`` the
                sum comes first: the closure's loss is but a share of it.) Without any,
                the policy observes gradients alone, as ``"gradient-only"`` always does.

        Returns:
            The result of ``closure``, or None.

        Raises:
            ValueError, TypeError: the loss is no scalar, or the closure no function.
            ValueError: a learning rate has become negative, as by a torch scheduler.
            RuntimeError: a gradient is sparse, or a CUDA graph is being captured and this
                step cannot be in it.
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
        """Collect the gradients, and where the rule asks for it, what are matrices."""
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
        """Record the loss, unless some groups descend and others ascend it."""
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

        It may not be at a decision of the policy and the step before, within the first ten
        steps, after a skipped step, and where a learning rate is 0: then call
        :meth:`step`. Without ``capturable=True`` it never may.
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

        The host counts the step and writes the learning rates to the device, and then
        replays the graph. Graphs are captured after ten ordinary steps, and anew after
        :meth:`load_state_dict`, :meth:`new_run` and :meth:`add_param_group`. Hooks of
        ``step`` are not called.

        Args:
            graph: a ``torch.cuda.CUDAGraph`` in which gradients and :meth:`step`, or
                :meth:`step` alone, have been captured.
            loss: as for :meth:`step`; that of the graph is read after the replay, for
                which the host waits.

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
        # 3. The update, on the device, and the loss that it was of.
        graph.replay()
        self._losses.take()
        self._record_loss(loss, parameters_of(self.param_groups))
        self._store_controller()

    def _capture(self, batch: GradientBatch) -> None:
        """Let a CUDA graph capture the update alone.

        Raises:
            RuntimeError: it cannot be captured, or not yet.
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
        """Return where a capturable step writes its learning rates.

        Raises:
            ValueError: the parameters are not on one device with graphs.
        """
        check_devices(params)
        self._graph.note_step()
        return self._graph.rates

    def _evaluate(self, closure: Callable[[], Any] | None, loss: Any) -> tuple[Any, Any]:
        """Call the closure, and find the loss of this step; return result and loss."""
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
        attached = self._losses.take()  # also when it is not needed: it is of this step
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
        for group in self.param_groups:  # a state that was saved without some settings
            for name, value in self.defaults.items():
                if name != "differentiable":  # torch adds it, which nothing here heeds
                    group.setdefault(name, value)
            if isinstance(group.get("controller"), dict):  # of an earlier version
                group["controller"] = {**clock.CLOCK, **group["controller"]}
        for p, param_state in self.state.items():
            if not isinstance(p, Tensor):  # an entry of the user's own
                continue
            if isinstance(param_state.get("step"), float):  # of early versions of torch
                param_state["step"] = torch.tensor(param_state["step"], dtype=torch.float32)
        if "_losses" not in self.__dict__:  # a copy: attached to no module, in no graph
            self._losses, self._graph = LossCollector(), GraphUpdates()
            self._matrices = MatrixFlags(self._guard.partitioned)
        self._note_change()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state, all of which is checked first.

        Raises:
            ValueError: it is not the state of a :class:`LearnedOptimizer`, or of one with
                another policy, or an entry of it is not valid. Nothing has changed then.
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
        for group in self.param_groups:  # how steps are made here, not what they compute
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

        A policy of trials keeps its memory and its last action, across :meth:`state_dict`
        too. One that decides on each parameter keeps them for each: a parameter in
        ``params`` goes on from those of the parameter that was at the same place of all,
        and begins without, with a warning, if that had another shape.

        Everything else is reset: the state of the update rule, the telemetry
        (:meth:`explain`), and the counters (``skipped`` and the like). Call ``zero_grad``
        before the first step, and ``attach_loss`` for a new criterion; attached losses that
        no step has used are dropped.

        Args:
            params: parameters or groups, as for the constructor, in place of those so far;
                settings that a group does not give are those of the constructor. By
                default the same groups with their settings, whose parameters the caller
                has initialised anew; a learning rate that a torch scheduler has changed is
                reset.
            total_steps: number of steps of the run, by default that of the last one.

        Raises:
            ValueError, TypeError: as of the constructor; the optimizer is then unchanged.
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
        except BaseException:  # also of warnings that are errors
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
        self._losses.take()  # losses of the run before
