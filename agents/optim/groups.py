"""Parameter groups: their settings, checks of these, and the update of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import compress
from types import MappingProxyType
from typing import Any

from torch import Tensor

from optenv.actions import Action
from optenv.checks import is_number, quoted
from optenv.rules import Rule

from ..policy.module import Policy
from .clock import end_of_run, limit_of
from .kernels import CAPTURABLE, FUSED, allocate, allocate_kept, switching, update
from .kernels.base import KernelOptions
from .modifiers import clip_gradients, settings_in_force, update_average
from .tensors import DeviceRates, GradientBatch

__all__ = [
    "KNOWN",
    "allocate_groups",
    "check_group",
    "check_roles",
    "check_scope",
    "set_lr",
    "settings_of",
    "update_group",
    "update_groups",
]

#: Settings that a parameter group can have.
KNOWN = (
    "lr", "max_lr", "betas", "eps", "momentum", "refresh", "weight_decay", "foreach",
    "fused", "maximize", "matrices",
)  # fmt: skip

#: Arguments of the optimizer that apply to all groups together.
GLOBAL = (
    "policy", "total_steps", "schedule", "warmup_steps", "guard", "rollback",
    "synchronize", "partitioned", "capturable", "batch_size",
)  # fmt: skip

#: Settings of other optimizers that no rule here has; a group may have them switched off.
FOREIGN = (
    "adjust_lr_fn", "alpha", "amsgrad", "beta", "beta1", "beta2", "beta2_decay", "beta3",
    "caution", "cautious", "centered", "clip_threshold", "d", "dampening", "decay_rate",
    "differentiable", "etas", "final_lr", "grad_clip", "history_size",
    "initial_accumulator_value", "lambd", "learning_rate", "line_search_fn", "lookahead",
    "lr_decay", "max_eval", "max_grad_norm", "max_iter", "min_lr", "momentum_decay",
    "nesterov", "ns_coefficients", "ns_steps", "rho", "step_sizes", "t0",
    "tolerance_change", "tolerance_grad", "trust_coefficient", "use_muon", "warmup",
    "weight_decouple", "weight_lr_power",
)  # fmt: skip

#: Similarity above which a key is taken for a misspelt setting.
SAME_SPELLING = 0.94

#: Keys among :data:`FOREIGN` that torch's schedulers write beside an ``"initial_lr"``.
OF_SCHEDULERS = ("min_lr",)


def check_group(group: Mapping[str, Any], rule: Rule) -> None:
    """Refuse settings of a parameter group that ``rule`` does not support.

    Keys that are not settings of an optimizer, such as ``"name"``, are ignored.

    Raises:
        ValueError: a setting is out of its range, or would have no effect.
        TypeError: a setting is of the wrong type.
    """
    # 1. The learning rate, its limit, and weight decay.
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {list(lr.shape)}")
        lr = lr.item()
    numbers = {"lr": lr, "weight_decay": group["weight_decay"]}
    limit = limit_of(group)
    if limit is not None:
        numbers["max_lr"] = limit
    for name, value in numbers.items():
        if not is_number(value):
            raise TypeError(f"{name} must be a number, got {quoted(value)}")
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0 and finite, got {quoted(value)}")
    if numbers.get("max_lr") == 0:
        raise ValueError("max_lr must be above 0, got 0; lr=0 keeps a group as it is")
    # 2. Flags.
    for name in ("foreach", "fused", "matrices"):
        flag = group.get(name)
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} must be True, False or None, got {flag!r}")
    if not isinstance(group["maximize"], bool):
        raise TypeError(f"maximize must be True or False, got {group['maximize']!r}")
    if group["fused"] and group["foreach"]:
        raise ValueError("fused=True and foreach=True exclude each other")
    if group["fused"] and rule.name not in FUSED:
        raise ValueError(
            f"fused=True is for the rules {', '.join(FUSED)}, but this policy's is "
            f"{rule.name!r}"
        )
    if group.get("capturable") and rule.name not in CAPTURABLE:
        raise ValueError(
            f"capturable=True is for the rules {', '.join(CAPTURABLE)}, but this policy's "
            f"is {rule.name!r}"
        )
    # 3. Hyperparameters of the rule, and settings that would be ignored.
    _rule_of(rule, group)
    for name in group:
        if name in OF_SCHEDULERS and "initial_lr" in group:
            continue
        meant = _misspelt(name)
        if meant is not None:
            raise ValueError(
                f"{name}={group[name]!r} would have no effect; did you mean {meant!r}? A "
                f"parameter group can have {', '.join(KNOWN)}"
            )
        if name in FOREIGN and not _is_off(group[name]):
            raise ValueError(
                f"{name}={group[name]!r} would have no effect; a parameter group can have "
                f"{', '.join(KNOWN)}"
            )


def check_scope(group: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse settings of one group that apply to all groups together.

    A group may repeat the optimizer's own value, since ``ZeroRedundancyOptimizer`` repeats
    all arguments of the optimizer in its groups.

    Args:
        group: the parameter group.
        arguments: values of the settings :data:`GLOBAL` of the whole optimizer.

    Raises:
        ValueError: the group has another value.
    """
    for name in GLOBAL:
        if name in group and not _is_same(group[name], arguments[name]):
            raise ValueError(
                f"{name} is of the whole optimizer, not of a parameter group; a group can "
                f"have {', '.join(KNOWN)}"
            )


def check_roles(group: Mapping[str, Any], action: Action) -> None:
    """Refuse a group without a role, if the action sets a learning rate for each role.

    Raises:
        ValueError: the group is not named by a role.
    """
    if action.roles and group.get("name") not in action.roles:
        raise ValueError(
            "this policy sets a learning rate for each role of parameters, so that groups "
            f"must be named {', '.join(action.roles)}, got {group.get('name')!r}; "
            "LearnedOptimizer.for_model(model, ...) makes such groups"
        )


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two settings are equal or identical; arrays are only identical."""
    equal = value is other or value == other
    return isinstance(equal, bool) and equal


def update_groups(
    policy: Policy,
    batch: GradientBatch,
    multipliers: Sequence[float],
    state: dict[str, Any],
    partitioned: bool = False,
    rates: DeviceRates | None = None,
    by_tensor: Sequence[Sequence[float]] | None = None,
) -> None:
    """Update the parameters of all groups, at their learning rates times multipliers.

    Args:
        policy: policy, whose rule updates the parameters.
        batch: gradients of the step. ``group["effective_lr"]`` of its groups is set.
        multipliers: multiplier of each group's learning rate.
        state: state of the controller, which has already counted this step.
        partitioned: whether other processes hold further parameters.
        rates: device tensors of the learning rates, if steps are capturable.
        by_tensor: multiplier of the learning rate of each parameter in the batch, by
            group; replaces ``multipliers``. None uses these.
    """
    rule = policy.rule
    settings = settings_in_force(policy.action, state)
    if "clip" in settings:
        batch = clip_gradients(batch, state, settings["clip"], partitioned)
    parts = zip(batch.by_group(), multipliers, batch.matrices_by_group(), strict=True)
    for i, ((group, params, grads), multiplier, matrices) in enumerate(parts):
        lr = group["effective_lr"] = float(group["lr"]) * multiplier
        states = [batch.states[p] for p in params]
        if not lr or not params or state["chosen"] >= 0:
            allocate(rule, params, states, _options(group))
            continue
        if by_tensor is not None:
            each = zip(params, grads, states, by_tensor[i], strict=True)
            for j, (p, grad, of_p, own) in enumerate(each):
                own_lr = float(group["lr"]) * own
                may_be = None if matrices is None else matrices[j : j + 1]
                update_group(rule, group, [p], [grad], [of_p], own_lr, settings, may_be)
            continue
        rate = lr if rates is None else rates.write(i, lr, params[0])
        update_group(rule, group, params, grads, states, rate, settings, matrices)
    if state["chosen"] >= 0:
        switching.update(batch, state, partitioned)
    if "average" in settings:
        is_last = end_of_run(state) == state["steps"]
        update_average(batch, state, settings["average"], is_last)


def allocate_groups(policy: Policy, batch: GradientBatch) -> None:
    """Allocate the state that an update would add, and set effective rates to 0.

    Args:
        policy: policy, whose rule has the state.
        batch: parameters, by group; they are not updated.
    """
    parts = zip(batch.by_group(), batch.matrices_by_group(), strict=True)
    for (group, params, _), matrices in parts:
        group["effective_lr"] = 0.0
        states = [batch.states[p] for p in params]
        allocate(policy.rule, params, states, _options(group))
        flags = [True] * len(params) if matrices is None else matrices
        allocate_kept(
            _rule_of(policy.rule, group),
            list(compress(params, flags)), list(compress(states, flags)),
        )  # fmt: skip


def update_group(
    rule: Rule,
    group: Mapping[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float | Tensor,
    settings: Mapping[str, float] = MappingProxyType({}),
    matrices: Sequence[bool] | None = None,
) -> None:
    """Update parameters of one group at a learning rate, with the group's settings.

    Args:
        rule: update rule.
        group: parameter group, with the settings.
        params, grads, states: parameters of the group, their gradients and states.
        lr: learning rate; a tensor on the device if the step is capturable.
        settings: hyperparameters that the policy has set, which replace the group's. Its
            weight decay only applies in groups without their own.
        matrices: see :class:`~agents.optim.tensors.GradientBatch`.
    """
    values = {name: settings[name] for name in rule.fields if name in settings}
    own_rule = _rule_of(rule, group)
    if values:
        own_rule = own_rule.with_hyperparameters(**values)
    update(
        own_rule, params, grads, states, lr,
        weight_decay=group["weight_decay"] or settings.get("weight_decay", 0.0),
        options=_options(group), matrices=matrices,
    )  # fmt: skip


def _options(group: Mapping[str, Any]) -> KernelOptions:
    return KernelOptions(group["foreach"], group["fused"], bool(group.get("capturable")))


def settings_of(rule: Rule) -> dict[str, Any]:
    """Return the hyperparameters of a rule that a group can set, by torch's names."""
    if rule.name == "switching":
        return {}
    own = {name: getattr(rule.hyperparameters, name) for name in rule.fields}
    names = ("eps", "momentum", "refresh")
    settings: dict[str, Any] = {name: own[name] for name in names if name in own}
    if "beta1" in own and "beta2" in own:
        settings["betas"] = (own["beta1"], own["beta2"])
    return settings


@lru_cache(maxsize=256)
def _misspelt(name: str) -> str | None:
    """Return the setting that a key such as ``"Weight-decay"`` misspells; None if none."""
    if not isinstance(name, str) or name in (*KNOWN, *GLOBAL):
        return None
    plain = {each.replace("_", ""): each for each in (*KNOWN, *GLOBAL)}
    written = name.lower().replace("_", "").replace("-", "")
    close = get_close_matches(written, plain, 1, cutoff=SAME_SPELLING)
    return plain[close[0]] if close else None


def _is_off(value: Any) -> bool:
    """Return whether a setting is None, False or 0, which switches it off."""
    return value is None or value is False or (is_number(value) and value == 0)


def _rule_of(rule: Rule, group: Mapping[str, Any]) -> Rule:
    """Return the update rule with the hyperparameters of a group.

    Raises:
        ValueError: the rule has no such hyperparameter, or it is out of its range.
        TypeError: a hyperparameter is of the wrong type.
    """
    betas = group.get("betas")
    betas = tuple(betas) if isinstance(betas, list) else betas
    given = (group.get("eps"), group.get("momentum"), group.get("refresh"), betas)
    try:
        return _cached_rule(rule, *given)
    except TypeError:  # an unhashable value, which is refused there
        return _rule_with(rule, *given)


def _rule_with(rule: Rule, eps: Any, momentum: Any, refresh: Any, betas: Any) -> Rule:
    """Return the update rule with hyperparameters of a group; see :func:`_rule_of`."""
    own = rule.hyperparameters
    changed = {}
    for name, value in (("eps", eps), ("momentum", momentum), ("refresh", refresh)):
        if value is not None and not is_number(value):
            raise TypeError(f"{name} must be a number, got {quoted(value)}")
        # A setting that is off is valid even if the rule lacks it.
        off = 1 if name == "refresh" else 0
        if value is not None and value != getattr(own, name, off):
            changed[name] = value
    if betas is not None:
        if (
            not isinstance(betas, tuple)
            or len(betas) != 2
            or not all(map(is_number, betas))
        ):
            raise ValueError(f"betas must be two numbers, got {quoted(betas)}")
        if tuple(betas) != (getattr(own, "beta1", None), getattr(own, "beta2", None)):
            changed["beta1"], changed["beta2"] = betas
    return _with_hyperparameters(rule, **changed) if changed else rule


#: Cached by type as well: True must be refused, though it equals 1.
_cached_rule = lru_cache(maxsize=256, typed=True)(_rule_with)


def _with_hyperparameters(rule: Rule, **changed: Any) -> Rule:
    """Return the rule with other hyperparameters."""
    missing = [name for name in changed if not hasattr(rule.hyperparameters, name)]
    if missing or rule.name == "switching":
        given = "betas" if "beta1" in changed else next(iter(changed))
        raise ValueError(f"{given} would have no effect: rule {rule.name!r} has none")
    return rule.with_hyperparameters(**changed)


def set_lr(group: dict[str, Any], lr: Any) -> None:
    """Set the learning rate of a group, in place if it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(float(lr))
    else:
        group["lr"] = lr
