"""A learned policy as a learning-rate scheduler of any torch optimizer."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle

from optenv.checks import positive, quoted

from ..policies import ANYTIME
from ..policy.module import Policy
from ..utils.warning import warn_user
from . import clock
from .arguments import given_policy
from .capture import refuse_capture
from .controller import Controller, initial_state
from .loss_hook import check_loss, is_scalar
from .reports import numbers, summarized
from .state_checks import check_buffers, check_controller, check_scheduler
from .tensors import GradientBatch, grad_norm, parameters_of
from .trace import Explanation

__all__ = ["LearnedLR"]

#: Default policies: for SGD, and for all other optimizers.
SGD_POLICY, OTHER_POLICY = "momentum", "adam"

#: Entries of a state that all of torch's schedulers have.
COMMON = ("base_lrs", "last_epoch", "_step_count", "_last_lr")

#: Optimizers that are refused, with the reason.
NOT_DRIVEN: dict[type[Optimizer], str] = {
    torch.optim.LBFGS: "its lr scales a Newton step; policies were trained with rates far "
    "below its usual 1",
    torch.optim.Adadelta: "its lr scales a step of the right size; policies were trained "
    "with rates far below its usual 1",
    torch.optim.Rprop: "its lr is only used at the first step",
    torch.optim.SparseAdam: "its gradients are sparse",
}

#: Name prefixes of other packages' optimizers that estimate their own learning rates.
ESTIMATING = ("Prodigy", "DAdapt", "DoG", "LDoG", "DoWG", "Mechanic")

#: How to combine a learned policy with other schedules.
COMBINE = (
    "for a warm-up give LearnedLR warmup_steps=; any other schedule combines with "
    "LearnedOptimizer, of whose factor and the policy's the lower one applies"
)


class LearnedLR(LRScheduler):
    r"""Learning-rate scheduler of any torch optimizer, driven by a learned policy.

    Before each of the optimizer's steps, ``group["lr"]`` is set to the group's initial
    learning rate, ``group["initial_lr"]``, times the policy's base schedule, times its
    multiplier :math:`e^s`, as in :class:`~agents.LearnedOptimizer`. The policy observes
    losses, gradients, parameters and updates, which every optimizer has. It works best
    with the update rule that it was trained with.

    Call ``scheduler.step(loss)`` after every ``optimizer.step()``, as with torch's own
    schedulers; the policy observes that loss at the next step. The loss that a closure
    returns is observed at once. Without losses, the policy observes gradients only.

    The scheduler drives the optimizer until :meth:`remove` is called, and must be the only
    one: learning rates that another scheduler sets are overwritten, with a warning, and it
    cannot be part of a ``SequentialLR``. A step at which all learning rates are 0 does not
    count. A copy of the scheduler drives its own copy of the optimizer; a copy of the
    optimizer alone is not driven. Gradients must be dense. Optimizers whose ``lr`` is not a
    learning rate in the usual sense are refused: ``LBFGS``, ``Adadelta``, ``Rprop``,
    ``SparseAdam`` for its sparse gradients, and those of other packages that estimate their
    own learning rate, such as Prodigy and D-Adaptation.

    Args:
        optimizer: an optimizer of torch, or one that behaves as they do.
        total_steps: number of steps of the run, an integer or a float without a fraction
            such as ``1e4``; an anytime policy needs none.
        policy: name of a shipped policy, path of a policy file, or a
            :class:`~agents.policy.Policy`. By default ``"anytime"`` if there is no
            ``total_steps``, else ``"momentum"`` for ``torch.optim.SGD`` and ``"adam"`` for
            all other optimizers.
        max_lr: upper limit of the learning rate, whatever the policy chooses; useful for
            fine-tuning. It is written into the optimizer's groups, except those with a
            ``"max_lr"`` of their own, and can be changed there.
        warmup_steps: number of steps over which the learning rate rises linearly from
            zero.
        synchronize: as for :class:`~agents.LearnedOptimizer`; all processes must then call
            ``scheduler.step``, with or without a loss.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, already has a policy, or cannot be
            driven; ``synchronize`` is neither True nor False; at the first step: the
            scheduler is part of a ``SequentialLR``.
        ValueError: ``total_steps`` is no positive integer, or missing where the policy
            needs it; ``max_lr`` is not positive; the policy chooses update rules; or
            another ``LearnedLR`` drives the optimizer.
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
        max_lr: float | None = None,
        warmup_steps: int = 0,
        synchronize: bool = True,
    ) -> None:
        # 1. The arguments, and the optimizer.
        if not isinstance(synchronize, bool):
            raise TypeError(f"synchronize must be True or False, got {synchronize!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"LearnedLR needs a torch optimizer, got {optimizer!r}")
        if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
            raise TypeError(
                f"LearnedLR cannot drive a {type(optimizer).__name__}: make it from the "
                "optimizer within, as before accelerate's prepare"
            )
        for refused, reason in NOT_DRIVEN.items():
            if isinstance(optimizer, refused):
                raise TypeError(f"LearnedLR cannot drive {refused.__name__}: {reason}")
        for each in type(optimizer).__mro__:
            if each.__name__.startswith(ESTIMATING):
                raise TypeError(
                    f"LearnedLR cannot drive {each.__name__}: it estimates its learning "
                    "rate itself, and its lr, usually 1, multiplies that"
                )
        if any("controller" in group for group in optimizer.param_groups):
            raise TypeError(
                "a LearnedOptimizer has a policy already; LearnedLR is for others"
            )
        hooks = optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), LearnedLR) for hook in hooks):
            raise ValueError(
                "this optimizer is driven by a LearnedLR already, whose remove() ends that"
            )
        rates = (g.get("initial_lr", g["lr"]) for g in optimizer.param_groups)
        if not any(map(float, rates)):
            warn_user("lr is 0 for all parameters, which the policy only multiplies")
        limits = [g.get("max_lr", max_lr) for g in optimizer.param_groups]
        for limit in limits:
            if limit is not None:
                positive("max_lr", limit)
        # 2. The policy.
        if isinstance(total_steps, (str, Path, Policy)):
            shown = "..." if isinstance(total_steps, Policy) else repr(str(total_steps))
            raise ValueError(
                f"total_steps must be a positive integer, got {quoted(total_steps)}; a "
                f"policy is given by name: policy={shown}"
            )
        if policy is None:
            named = SGD_POLICY if isinstance(optimizer, torch.optim.SGD) else OTHER_POLICY
            policy = ANYTIME if total_steps is None else named
            if total_steps is None:
                clock.warn_of_unknown_length(ANYTIME, named)
        given = given_policy(policy, "the learning rate is that of the optimizer, lr={}")
        if not given.action.sets_one_rate:
            raise ValueError(
                "this policy sets more than a learning rate (its action is "
                f"{given.action.kind!r}), which a scheduler cannot; use LearnedOptimizer"
            )
        self._policy = copy.deepcopy(given).to(torch.float32)
        # 3. The controller. Its schedule always applies: the torch scheduler that has
        # marked the groups by "initial_lr" is this one.
        state = initial_state(
            self._policy, total_steps, torch.float32, "always", warmup_steps
        )
        self._controller = Controller(self._policy, state, synchronize=synchronize)
        self._states: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for group, limit in zip(optimizer.param_groups, limits, strict=True):
            if limit is not None:
                group["max_lr"] = limit
        super().__init__(optimizer)
        self._set_lrs: list[float] | None = None  # learning rates at the last step
        self._removed, self._warned = False, False
        self._register_hooks()

    def _initial_step(self) -> None:
        # torch's constructor calls it, and SequentialLR again for its first scheduler.
        if "_hooks" in self.__dict__:
            raise TypeError(f"LearnedLR cannot be part of a SequentialLR: {COMBINE}")
        super()._initial_step()

    def _register_hooks(self) -> None:
        self._hooks: tuple[RemovableHandle, ...] = (
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hooks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hooks = ()
        if not self._removed:
            self._register_hooks()

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self._policy

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the run; None in a run of unknown length."""
        return clock.end_of_run(self._controller.state)

    @total_steps.setter
    def total_steps(self, value: Any) -> None:
        raise AttributeError(
            "total_steps cannot be assigned: extend(total_steps) changes the length of the "
            "run"
        )

    def extend(self, total_steps: int) -> None:
        """Continue until ``total_steps`` steps; see :meth:`agents.LearnedOptimizer.extend`.

        Raises:
            ValueError: ``total_steps`` is not valid, or not more than the steps so far.
        """
        self._controller.extend(total_steps)

    def finish(self, steps: int) -> None:
        """End the run, with a falling rate; see :meth:`agents.LearnedOptimizer.finish`.

        Raises:
            ValueError: ``steps`` is no positive integer, or the run has ended.
        """
        self._controller.finish(steps)

    def remove(self) -> None:
        """Stop driving the optimizer, which keeps its current learning rates."""
        self._removed = True
        for hook in self._hooks:
            hook.remove()

    def explain(self) -> Explanation:
        """Return the observations and actions of the decisions so far.

        After :meth:`extend` those are the latest, as many as a run has.
        """
        state = self._controller.state
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        note = clock.describe_progress(self._policy, state)
        features = self._policy.observed
        return Explanation(state["trace"], note, state["steps"], rate, features=features)

    def __repr__(self) -> str:
        # groups=(): no other torch scheduler drives the optimizer's groups.
        policy, *rest = summarized(self._policy, self._controller.state, groups=())
        driven = "no longer driven" if self._removed else "driven"
        rates = ", ".join(f"{float(g['lr']):.4g}" for g in self.optimizer.param_groups)
        lines = [
            f"{type(self).__name__} (",
            policy,
            f"optimizer: {type(self.optimizer).__name__}, {driven}",
            *rest,
            f"learning rates: {rates}",
        ]
        return "\n".join([*lines, ")"])

    def log_dict(self, prefix: str = "") -> dict[str, float]:
        """Return numbers for a logger; see :meth:`agents.LearnedOptimizer.log_dict`.

        Args:
            prefix: put before each key, such as ``"scheduler/"``.
        """
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return numbers(self._controller.state, rates, prefix)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the groups, which the optimizer's step sets."""
        return [_copy_lr(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, loss: Tensor | float | None = None) -> None:  # type: ignore[override]
        """Record the loss of the step that the optimizer has just taken.

        Raises:
            ValueError, TypeError: the loss is no scalar.
        """
        if "_hooks" in self.__dict__:  # torch's constructor calls it once, too early
            self._record(loss)
        super().step()

    def validated(self, loss: Tensor | float) -> None:
        """Pass the validation loss of the current parameters to the policy.

        See :meth:`agents.LearnedOptimizer.validated`.

        Raises:
            ValueError, TypeError: the loss is no scalar.
        """
        self._controller.begin_step(self._controller.state)
        self._controller.validated(loss)

    def _record(self, loss: Any) -> None:
        if loss is not None:
            check_loss(loss)
        groups = self.optimizer.param_groups
        self._controller.begin_step(self._controller.state)
        self._controller.record_loss(
            loss, parameters_of(groups), bool(groups[0].get("maximize"))
        )

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Set the learning rates as soon as the gradients of this step are available."""
        refuse_capture(
            parameters_of(optimizer.param_groups), "a step that LearnedLR drives",
            "capture the gradients alone",
        )  # fmt: skip
        _, *positional = args  # the first is the optimizer
        closure = positional[0] if positional else kwargs.get("closure")
        if closure is None:
            self._set_rates()
            return None
        wrapped = self._wrap(closure)
        if positional:
            return (args[0], wrapped, *positional[1:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _wrap(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Wrap the closure, so that its first call sets the learning rates."""
        is_first = [True]

        def evaluate() -> Any:
            result = closure()
            if is_first:
                is_first.clear()
                with torch.no_grad():
                    self._record(result if is_scalar(result) else None)
                    self._set_rates()
            return result

        return evaluate

    @torch.no_grad()
    def _set_rates(self) -> None:
        """Ask the controller for this step's multiplier, and write the learning rates."""
        if self.last_epoch < 0:  # SequentialLR has set its later schedulers back by a step
            raise TypeError(f"LearnedLR cannot be part of a SequentialLR: {COMBINE}")
        groups = self.optimizer.param_groups
        if not any(group["lr"] for group in groups):
            return  # not a step: torch.distributed.checkpoint takes one to allocate state
        # 1. The gradients. Before a fused step, a GradScaler has not unscaled them.
        batch = GradientBatch.collect(groups, self._states)
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:
            batch = batch.with_grads([grad / scale for grad in batch.grads])
        if not batch.params or not math.isfinite(grad_norm(batch.grads)):
            return  # the optimizer handles this step as without a scheduler
        # 2. The base learning rates, with a warning if someone else has changed them.
        current = [float(group["lr"]) for group in groups]
        last = self._set_lrs
        if last is not None and current[: len(last)] != last and not self._warned:
            self._warned = True
            warn_user(
                f"learning rates were {last}, and have been set to {current} by someone "
                f"else; LearnedLR overwrites that, also at later steps. Instead, {COMBINE}"
            )
        for group in groups:
            group.setdefault("initial_lr", _copy_lr(group["lr"]))
        base = [{**group, "lr": float(group["initial_lr"])} for group in groups]
        # 3. The multiplier, and the learning rates.
        self._controller.begin_step(self._controller.state)
        multipliers = self._controller.before_update(batch.with_groups(base))
        for group, multiplier in zip(groups, multipliers, strict=True):
            rate = float(group["initial_lr"] * multiplier)
            if isinstance(group["lr"], Tensor):  # in place, for compiled steps
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._set_lrs = [float(group["lr"]) for group in groups]

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._controller.after_update(self._states)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`: tensors and plain numbers."""
        buffers = {
            i: {name: value.clone() for name, value in self._states[p].items()}
            for i, p in enumerate(parameters_of(self.optimizer.param_groups))
            if self._states.get(p)
        }
        groups = self.optimizer.param_groups  # including groups added since
        common = {name: self.__dict__[name] for name in COMMON}
        common["base_lrs"] = [_copy_lr(g.get("initial_lr", g["lr"])) for g in groups]
        common["_last_lr"] = [_copy_lr(group["lr"]) for group in groups]
        return {**common, "controller": self._controller.state, "kept": buffers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; the optimizer's own state has to be loaded, too.

        Raises:
            ValueError: the state is not that of a :class:`LearnedLR` with the same policy,
                is for more parameters, or has an entry that is not valid. Nothing has
                changed then.
        """
        # 1. Check everything
        if not isinstance(state_dict, dict):
            raise ValueError(f"a state to load is a dictionary, got {quoted(state_dict)}")
        saved = state_dict.get("controller")
        restored = check_controller(self._policy, saved, "LearnedLR")
        common = check_scheduler(state_dict, COMMON, len(self.optimizer.param_groups))
        params = parameters_of(self.optimizer.param_groups)
        buffers = state_dict["kept"]
        if any(i >= len(params) for i in buffers):
            raise ValueError(
                f"the state to load is of more than the {len(params)} parameters here"
            )
        for i, values in buffers.items():
            check_buffers(f"kept[{i}]", values, params[i])
        # 2. Take it
        self._states.clear()
        for i, values in buffers.items():
            device = params[i].device
            self._states[params[i]] = {
                name: value.to(device, copy=True) for name, value in values.items()
            }
        clock.warn_of_other_length(restored, self._controller.state["total_steps"])
        self._controller.replace_state(restored)
        self._set_lrs = None
        super().load_state_dict(common)


def _copy_lr(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
