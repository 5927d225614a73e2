"""Checks of a saved state, before any part of it is loaded.

A checkpoint can be damaged, belong to another model, or have been changed by hand. Every
entry is checked for its presence, type, shape, finiteness and range, so that training can
continue from every state that loads. The entries of a controller's state are described in
:func:`agents.optim.controller.initial_state`, the entries of a parameter's state in
:mod:`agents.optim.kernels.base`, :mod:`agents.optim.probe` and
:mod:`agents.optim.state_keys`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.checks import is_number, quoted
from optenv.rules import switching
from optenv.telemetry import History, Losses, ValidationHistory

from ..policies import EARLIER
from ..policy.files import name_of
from ..policy.module import Policy
from ..policy.spec import MAX_NUMBER, MIN_EPS
from . import budget, trace
from .clock import CLOCK, PEAK, SCHEDULES
from .distributed import is_sharded
from .kernels import KernelOptions, kernel_of
from .kernels.base import initial_slot
from .layerwise import DECIDED_NUMEL, column, remembered_numel
from .probe import buffer_shape
from .state_keys import AVERAGE, BUFFERS, DECIDED, GOOD_PARAM, REMEMBERED, STARTED
from .tensors import real, wide

__all__ = [
    "check_buffers",
    "check_controller",
    "check_parameter_states",
    "check_ranges",
    "check_scheduler",
    "check_settings",
]

#: Largest number of steps: beyond it, float64 cannot represent every integer.
MAX_STEPS = 2**53

#: Largest hyperparameter that an action can set.
MAX_SETTING = 1e6

#: Largest number of decisions in a trace.
MAX_DECISIONS = 10**6

#: Largest factor between the steps of a chosen rule and Adam's.
MAX_SCALE = 1e25

#: Largest moment, in units of the square root of the largest number of its data type. The
#: guard lets no gradient pass whose square overflows, but sums of gradients can be larger.
MOMENT_MARGIN = 1e3

#: Largest mean of gradients, in units of the root of the largest mean square.
MAX_MEAN = 1e6

#: Moments that are averages of squares.
SQUARES = ("exp_avg_sq", "short_exp_avg_sq", "square_avg")

#: Largest base learning rate, and largest learning rate in force.
MAX_LR, MAX_EFFECTIVE_LR = 1e6, 1e20

#: Ranges of the numbers in a parameter group, whether given or loaded.
SETTINGS = {
    "lr": (0.0, MAX_LR),
    "initial_lr": (0.0, MAX_LR),
    PEAK: (0.0, MAX_LR),
    "effective_lr": (0.0, MAX_EFFECTIVE_LR),
    "weight_decay": (0.0, 1e3),
    "eps": (MIN_EPS, MAX_NUMBER),
}

#: Entries that states of version 0.1 lack, with values by which the run continues as it
#: would have in that version.
ADDED = {"loss_shift": 0.0, "early_peak": 0.0, "grad_mean_square": 0.0}

#: Fields of the history that states of version 0.1 lack, and its policies do not need.
ADDED_HISTORY = (
    "loss_mean", "loss_lowest", "loss_highest", "loss_average", "loss_change",
    "loss_variance",
)  # fmt: skip

#: Fields of the history that are counts, absolute changes or squares.
NONNEGATIVE_HISTORY = ("windows", "loss_windows", "loss_change", "loss_variance")

#: Fields of the history of validation losses that are counts or absolute changes.
NONNEGATIVE_VALIDATION = ("seen", "age", "change")

COUNTERS = (
    "steps", "skipped", "skipped_in_a_row", "rollbacks", "clipped", "ignored_losses",
    "ignored_actions", "norms",
)  # fmt: skip
FLAGS = ("rolled_back", "probing", "negative")


# The controller.


def check_controller(policy: Policy, saved: Any, owner: str) -> dict[str, Any]:
    """Check the state of a controller, and return it with its tensors on the CPU.

    Args:
        policy: the policy of the controller.
        saved: state to load; entries that version 0.1 did not have may be missing.
        owner: name of the class that saved it, for the message.

    Raises:
        ValueError: the state is not a controller's, belongs to another policy or an earlier
            version, or an entry is missing or not valid; the message names and quotes it.
    """
    # 1. A state of this policy
    if saved is None:
        raise ValueError(
            f"the state to load is not the state_dict of a {owner} (it has no 'controller')"
        )
    if not isinstance(saved, Mapping):
        raise _invalid("controller", saved, "a dictionary")
    if "memory" not in saved:
        raise ValueError(
            "the state to load was saved by an earlier version of optenv, which this one "
            "cannot go on from"
        )
    used, fingerprint = saved.get("policy"), policy.fingerprint()
    if used != fingerprint:
        name = name_of(used) if isinstance(used, str) else None
        replaced = ", which another one has replaced" if name in EARLIER else ""
        advice = "give the policy it was saved with"
        if name is not None:
            advice = f"to go on with it, give policy={name!r}"
        raise ValueError(
            f"the state to load was saved with {_named(used)}{replaced}; this {owner} uses "
            f"{_named(fingerprint)}: {advice} (if none is named, the policy depends on "
            "whether there is a total_steps)"
        )
    # 2. All of its entries, and no others
    action = policy.action
    state = {**CLOCK, **ADDED, **saved}
    history = state.get("history")
    if isinstance(history, Mapping):
        zero = torch.zeros(1, dtype=_telemetry_dtype(state), device="cpu")
        state["history"] = {**dict.fromkeys(ADDED_HISTORY, zero), **history}
    if not action.sets and not action.roles:  # states of 0.1 lack these entries as well
        dtype = _telemetry_dtype(state)
        nothing = torch.zeros(1, 0, dtype=dtype, device="cpu")
        state = {"settings": nothing, "role_multipliers": nothing, **state}
    checks = _checks(policy, _telemetry_dtype(state))
    _check_keys("controller", state, [*checks, "policy"])
    for name, check in checks.items():
        state[name] = check(f"controller: {name}", state[name])
    # 3. Entries that belong together
    _check_clock(policy, state)
    return state


def _named(fingerprint: Any) -> str:
    """Name a policy of the package, or any other by its fingerprint."""
    if not isinstance(fingerprint, str):
        return f"a policy of no known fingerprint, {quoted(fingerprint)}"
    name = name_of(fingerprint)
    shown = quoted(fingerprint[:12]).strip("'")
    return f"the policy of fingerprint {shown}" if name is None else f"policy {name!r}"


def _telemetry_dtype(state: Mapping[str, Any]) -> torch.dtype:
    """Return the data type of a state's tensors: single or double precision."""
    value = state.get("log_multiplier")
    if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float64):
        return value.dtype
    raise _invalid("controller: log_multiplier", value, "a tensor of float32 or float64")


#: Function of an entry's name and value that returns the value, or raises ``ValueError``.
Check = Callable[[str, Any], Any]


def _checks(policy: Policy, dtype: torch.dtype) -> dict[str, Check]:
    """Return the checks of all entries except the policy, by name."""
    action, bound = policy.action, policy.action.bound * (1 + 1e-6)
    chosen = len(switching.NAMES) - 1 if action.chooses_rule else -1
    one, multiplier = _tensor(dtype, (1,)), _tensor(dtype, (1,), -bound, bound)
    nonnegative, most = _tensor(dtype, (1,), 0.0), torch.finfo(dtype).max
    of_validation: dict[str, Check] = {}
    if policy.sees_validation:
        fields = dict.fromkeys(ValidationHistory._fields, one)
        fields |= dict.fromkeys(NONNEGATIVE_VALIDATION, nonnegative)
        of_validation = {
            "validated": _optional(_number(-most, most)),
            "validation": _dictionary(fields),
        }
    return {
        "total_steps": _optional(_integer(1)) if policy.anytime else _integer(1),
        "schedule": _schedule,
        "warmup_steps": _integer(),
        "origin": _row(_integer(), _number(0.0, 1.0)),
        "fall": _optional(_row(_integer(), _integer(1), _number(0.0, 1.0))),
        "budget": _budget(policy),
        **dict.fromkeys(COUNTERS, _integer()),
        **dict.fromkeys(FLAGS, _flag),
        "mean_square": _number(0.0),
        "early_peak": _number(0.0),
        "loss_shift": _optional(_number()),
        "log_multiplier": multiplier,
        "highest": multiplier,
        "previous_action": one,
        "shown": _tensor(dtype, (1, action.observed)),
        "chosen": _integer(-1, chosen),
        "scale": _optional(_number(0.0, MAX_SCALE)),
        "said": _tensor(dtype, (1, action.outputs)),
        "new_run": _number(0.0, 1.0),
        "told": one,
        "memory": _tensor(dtype, tuple(policy.blank(1).shape)),
        "losses": _dictionary(
            {**dict.fromkeys(Losses._fields, _number(0.0)), "deviation": _at_least_zero}
        ),
        "history": _dictionary(
            {
                **dict.fromkeys(History._fields, one),
                **dict.fromkeys(NONNEGATIVE_HISTORY, nonnegative),
            }
        ),
        "settings": _settings(policy, dtype),
        "role_multipliers": _tensor(dtype, (1, len(action.roles)), -bound, bound),
        "grad_mean_square": _number(0.0),
        "trace": _trace(dtype, policy),
        **of_validation,
    }


def _check_clock(policy: Policy, state: Mapping[str, Any]) -> None:
    """Refuse entries of the clock that contradict each other.

    Raises:
        ValueError: they do.
    """
    total, steps, fall = state["total_steps"], state["steps"], state["fall"]
    begin, _ = state["origin"]
    if policy.anytime and total is not None:
        raise _invalid("controller: total_steps", total, "None, as of an anytime policy")
    if begin > steps or (total is not None and begin >= total):
        raise _invalid(
            "controller: origin", state["origin"],
            f"of a step before total_steps={total} and up to steps={steps}",
        )  # fmt: skip
    if fall is not None and not (fall[0] < fall[1] and fall[0] <= steps):
        raise _invalid(
            "controller: fall", fall, f"from a step up to steps={steps} to a later one"
        )


def _integer(least: int = 0, most: int = MAX_STEPS) -> Check:
    """Make a check of an integer in a range."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _invalid(name, value, f"an integer from {least} to {most}")
        return value

    return check


def _number(least: float = -math.inf, most: float = math.inf) -> Check:
    """Make a check of a finite number in a range."""

    def check(name: str, value: Any) -> float:
        finite = is_number(value) and abs(value) <= MAX_FLOAT
        if not finite or not least <= value <= most:
            raise _invalid(name, value, f"a finite number from {least:g} to {most:g}")
        return float(value)

    return check


#: Largest number in double precision; Python's integers can exceed it.
MAX_FLOAT = torch.finfo(torch.float64).max


def _at_least_zero(name: str, value: Any) -> float:
    """Check a sum of squares, which can overflow to infinity."""
    if not is_number(value) or not value >= 0 or (value > MAX_FLOAT and value != math.inf):
        raise _invalid(name, value, "a number of at least 0")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, value, "True or False")
    return value


def _schedule(name: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value in SCHEDULES):
        raise _invalid(name, value, "'auto', 'always' or None")
    return value


def _budget(policy: Policy) -> Check:
    """Make a check of the budget; it must be None unless the policy sets the batch size."""
    if not policy.action.sets_batch_size:
        return _none
    least = {"own": 1, "window": -1, "size": 1}
    names = budget.Budget._fields
    numbers = _dictionary({name: _integer(least.get(name, 0)) for name in names})

    def check(name: str, value: Any) -> Any:
        checked = numbers(name, value)
        if checked["first"] > checked["last"]:
            raise _invalid(name, value, "of a control step that ends after it begins")
        return checked

    return check


def _none(name: str, value: Any) -> None:
    if value is not None:
        raise _invalid(name, value, "None, as of a policy that sets no batch size")


def _optional(check: Check) -> Check:
    """Make a check of a value that may be None."""
    return lambda name, value: None if value is None else check(name, value)


def _row(*checks: Check) -> Check:
    """Make a check of a tuple, one check for each of its values."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)) or len(value) != len(checks):
            raise _invalid(name, value, f"{len(checks)} numbers")
        return tuple(each(name, part) for each, part in zip(checks, value, strict=True))

    return check


def _dictionary(checks: Mapping[str, Check]) -> Check:
    """Make a check of a dictionary with certain keys."""

    def check(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _invalid(name, value, "a dictionary")
        _check_keys(name, value, list(checks))
        return {key: each(f"{name}: {key}", value[key]) for key, each in checks.items()}

    return check


def _tensor(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    least: float = -math.inf,
    most: float = math.inf,
) -> Check:
    """Make a check of a finite tensor in a range, which returns it on the CPU."""

    def check(name: str, value: Any) -> Tensor:
        wanted = f"a tensor of {dtype} and shape {list(shape)}"
        if type(value) is not Tensor or value.dtype != dtype or value.is_sparse:
            raise _invalid(name, value, wanted)
        if tuple(value.shape) != shape:
            raise _invalid(name, value, wanted)
        value = value.detach().cpu()
        if not (value.isfinite() & (value >= least) & (value <= most)).all():
            raise _invalid(name, value, f"finite, from {least:g} to {most:g}")
        return value

    return check


def _settings(policy: Policy, dtype: torch.dtype) -> Check:
    """Make a check of the settings of an action, each within its own range."""
    names, rule = policy.action.sets, policy.rule

    def check(name: str, value: Any) -> Tensor:
        shape = 1, len(names)
        checked = _tensor(dtype, shape, -MAX_SETTING, MAX_SETTING)(name, value)
        assert isinstance(checked, Tensor)
        for each, number in zip(names, checked[0].tolist(), strict=True):
            if each in rule.fields:
                try:
                    rule.with_hyperparameters(**{each: number})
                except ValueError as error:
                    raise _invalid(name, value, f"hyperparameters ({error})") from None
            else:
                most = 1.0 if each == "average" else MAX_SETTING
                _number(0.0, most)(f"{name}: {each}", number)
        return checked

    return check


def _trace(dtype: torch.dtype, policy: Policy) -> Check:
    """Make a check of a trace; it adds the columns that one of version 0.1 lacks."""
    columns = trace.columns(policy.observed, policy.action)

    def check(name: str, value: Any) -> Tensor:
        rows = len(value) if isinstance(value, Tensor) and value.dim() == 2 else 0
        if not 1 <= rows <= MAX_DECISIONS:
            raise _invalid(name, value, f"a tensor of 1 to {MAX_DECISIONS} decisions")
        value = trace.widened(value, policy.observed, policy.action)
        checked: Tensor = _tensor(dtype, (rows, columns), -MAX_FLOAT)(name, value)
        rules = trace.rules_of(checked, policy.observed)
        names = len(switching.NAMES)
        if not ((rules >= -1) & (rules < names) & (rules == rules.round())).all():
            raise _invalid(name, rules, f"of rules from -1 to {names - 1}")
        return checked

    return check


# Schedulers.


def check_scheduler(
    state: Mapping[str, Any], common: Sequence[str], groups: int
) -> dict[str, Any]:
    """Check the entries of a scheduler's state that all of torch's schedulers have.

    Of its buffers, only the types are checked here; see :func:`check_buffers`.

    Args:
        state: state dictionary of a :class:`~agents.LearnedLR`.
        common: names of the entries that all of torch's schedulers have.
        groups: number of parameter groups.

    Returns:
        These entries.

    Raises:
        ValueError: an entry is missing or not valid.
    """
    _check_keys("scheduler", state, [*common, "controller", "kept"])
    for name in common:
        value = state[name]
        if name not in ("base_lrs", "_last_lr"):
            _integer()(name, value)
            continue
        if not isinstance(value, (list, tuple)) or len(value) != groups:
            raise _invalid(name, value, f"a list of {groups} learning rates")
        for rate in value:
            single = isinstance(rate, Tensor) and rate.numel() == 1
            _number(0.0, MAX_EFFECTIVE_LR)(name, rate.item() if single else rate)
    kept = state["kept"]
    if not isinstance(kept, Mapping) or not all(type(i) is int and i >= 0 for i in kept):
        raise _invalid("kept", kept, "a dictionary of states by index of the parameter")
    for i, values in kept.items():
        valid = (*BUFFERS, STARTED)
        if not isinstance(values, Mapping) or not set(values) <= set(valid):
            raise _invalid(f"kept[{i}]", values, f"a dictionary of {', '.join(valid)}")
        for key, value in values.items():
            if not isinstance(value, Tensor):
                raise _invalid(f"kept[{i}]: {key}", value, "a tensor")
    return {name: state[name] for name in common}


# Parameter groups and parameters.


def check_settings(name: str, group: Mapping[str, Any]) -> None:
    """Check the numbers in a saved parameter group.

    Args:
        name: name of the group, for the message.
        group: the group.

    Raises:
        ValueError: one is no number, not finite, or out of its range.
    """
    try:
        check_ranges(group)
    except ValueError as error:
        raise ValueError(f"the state to load is not valid: {name}: {error}") from None


def check_ranges(group: Mapping[str, Any]) -> None:
    """Check the numbers in a parameter group.

    Raises:
        ValueError: one is no number, not finite, or out of its range.
    """
    for key, (least, most) in SETTINGS.items():
        value: Any = group.get(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if key not in group or (key == "eps" and value is None):
            continue
        finite = is_number(value) and abs(value) <= MAX_FLOAT
        if not finite or not least <= value <= most:
            raise ValueError(
                f"{key} must be a finite number from {least:g} to {most:g}, got "
                f"{quoted(value)}"
            )


def check_parameter_states(
    policy: Policy, final: Mapping[str, Any], params: Sequence[Tensor]
) -> None:
    """Check the states of parameters in an optimizer's state dictionary.

    Args:
        policy: policy of the optimizer.
        final: the state dictionary.
        params: parameters of the optimizer, in the order of its groups.

    Raises:
        ValueError: an entry is not valid; the message names it.
    """
    # 1. The parameters that the states belong to
    saved: list[Any] = []
    for i, group in enumerate(final["param_groups"]):
        indices = group.get("params")
        if not isinstance(indices, (list, tuple)) or not all(
            isinstance(index, Hashable) for index in indices
        ):
            raise _invalid(f"param_groups[{i}]: params", indices, "a list of indices")
        saved += indices
    if len(saved) != len(params):
        return  # torch refuses it, and names the numbers of groups and parameters
    by_index = dict(zip(saved, params, strict=True))
    states = final["state"]
    # Parameters have numbers as keys; an entry under a string is the user's own.
    own = (
        []
        if any(isinstance(index, str) for index in saved)
        else [index for index in states if isinstance(index, str)]
    )
    unknown = [index for index in states if index not in by_index and index not in own]
    if unknown:
        raise _invalid(
            "state", unknown, f"of the {len(params)} parameters in param_groups alone"
        )
    # 2. Their states
    for index, state in states.items():
        if index not in own:
            _check_parameter_state(policy, f"state[{index!r}]", state, by_index[index])


def check_buffers(name: str, state: Any, p: Tensor) -> None:
    """Check the buffers of the probe in a parameter's state.

    Args:
        name: name of the state, for the message.
        state: state of the parameter, which may have other entries, too.
        p: the parameter.

    Raises:
        ValueError: one is missing, of the wrong type or shape, or not finite.
    """
    present = [key for key in (*BUFFERS, STARTED) if key in state]
    if not present:
        return
    if missing := [key for key in BUFFERS if key not in state]:
        raise ValueError(f"{name} has {present}, but no {missing}")
    for key in present:
        if key == "watched":
            _check_scalar(f"{name}: {key}", state[key], 0.0, 1.0)
        elif key == STARTED and hasattr(p, "full_tensor"):
            _check_moment(f"{name}: {key}", state[key], None, None)
        else:
            _check_moment(f"{name}: {key}", state[key], buffer_shape(p), None)


def _check_parameter_state(policy: Policy, name: str, state: Any, p: Tensor) -> None:
    """Check the entries of one parameter's state."""
    if not isinstance(state, Mapping):
        raise _invalid(name, state, "a dictionary")
    kernel = kernel_of(policy.rule)
    averaged = [AVERAGE] if "average" in policy.action.sets else []
    decided = [DECIDED] if policy.action.per_tensor else []
    decided += [REMEMBERED] if remembered_numel(policy) else []
    of_rule = [*sorted(kernel.slots), *kernel.kept]
    valid = [*of_rule, *BUFFERS, STARTED, GOOD_PARAM, *averaged, *decided]
    if unknown := [key for key in state if key not in valid]:
        raise _invalid(name, unknown, f"entries out of {', '.join(valid)}")
    # 1. The slots of the rule: all, or none before the first step and after a roll-back
    slots = sorted(kernel.slots & state.keys())
    if slots and len(slots) < len(kernel.slots):
        raise ValueError(f"{name} has {slots}, but no {sorted(kernel.slots - set(slots))}")
    for key in slots:
        within, value = f"{name}: {key}", state[key]
        if kernel.init is not initial_slot:  # a registered rule, with slots of its own
            like = kernel.init(key, p, KernelOptions())
            _check_moment(within, value, like.shape, like.dtype)
        elif key == "step":
            _check_scalar(within, value, 0.0, float(MAX_STEPS), whole=True)
        elif key == "mu_product":
            _check_scalar(within, value, 0.0, 1.0)
        else:
            _check_moment(within, value, p.shape, wide(p.dtype), key in SQUARES)
    for key, shape_of in kernel.kept.items():
        if key in state:
            shape = shape_of(p)
            expected = None if shape is None else torch.Size(shape)  # None: not used
            _check_moment(f"{name}: {key}", state[key], expected, wide(p.dtype))
    if slots and policy.rule.name == switching.RULE.name and not is_sharded(p):
        _check_means(name, state)
    # 2. Entries of the probe, the guard and the policy
    check_buffers(name, state, p)
    if GOOD_PARAM in state:
        _check_moment(f"{name}: {GOOD_PARAM}", state[GOOD_PARAM], p.shape, None)
    if DECIDED in state:
        _check_decided(f"{name}: {DECIDED}", state[DECIDED], policy.action.bound)
    if REMEMBERED in state:
        _check_remembered(f"{name}: {REMEMBERED}", state[REMEMBERED], policy)
    if averaged and slots and AVERAGE not in state:
        raise ValueError(f"{name} has {slots}, but no {averaged}")
    if AVERAGE in state:
        _check_moment(f"{name}: {AVERAGE}", state[AVERAGE], p.shape, wide(p.dtype))


def _check_decided(name: str, value: Any, bound: float) -> None:
    """Check the last decision on a tensor, see :mod:`agents.optim.state_keys`."""
    checked = _numbers(DECIDED_NUMEL)(name, value)
    _number(-bound * (1 + 1e-6), bound * (1 + 1e-6))(
        f"{name}: log-multiplier", float(checked[0])
    )
    for field in ("windows", "loss_windows"):
        _number(0.0)(f"{name}: number of windows", float(checked[column(field)]))


def _check_remembered(name: str, value: Any, policy: Policy) -> None:
    """Check a tensor's last action and memory, see :mod:`agents.optim.state_keys`."""
    checked = _numbers(remembered_numel(policy))(name, value)
    for number in checked[: policy.action.outputs].tolist():
        _number(-1.0, 1.0)(f"{name}: last action", number)


def _numbers(count: int) -> Check:
    """Make a check of a tensor of finite numbers in single or double precision."""

    def check(name: str, value: Any) -> Tensor:
        is_double = isinstance(value, Tensor) and value.dtype == torch.float64
        dtype = torch.float64 if is_double else torch.float32
        checked: Tensor = _tensor(dtype, (count,))(name, value)
        return checked

    return check


def _check_means(name: str, state: Mapping[str, Any]) -> None:
    """Refuse means of gradients far beyond the root of their mean square.

    The length of Adam's step, to which other rules are scaled, would overflow. Means that
    the optimizer has computed are never that large, since the decay rates are fixed.

    Raises:
        ValueError: there is such a mean.
    """
    squares = real(state["exp_avg_sq"])
    largest = float(squares.max()) if squares.numel() else 0.0
    most = MAX_MEAN * math.sqrt(largest) + 1e-6
    for key in ("exp_avg", "slow_exp_avg"):
        size = float(real(state[key]).abs().max()) if state[key].numel() else 0.0
        if size > most:
            raise ValueError(
                f"the state to load is not valid: {name}: {key} has numbers of size "
                f"{size:.3g}; with this exp_avg_sq, at most {most:.3g} are possible"
            )


def _check_scalar(
    name: str, value: Any, least: float, most: float, whole: bool = False
) -> None:
    """Check a real one-element tensor in a range; a whole number may be a plain float."""
    number = math.nan
    if isinstance(value, Tensor) and value.is_floating_point() and not value.dim():
        number = value.item()
    elif whole and isinstance(value, float):  # as early versions of torch stored them
        number = value
    if not least <= number <= most or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise _invalid(name, value, f"a tensor of {kind} from {least:g} to {most:g}")


def _check_moment(
    name: str,
    value: Any,
    shape: torch.Size | None,
    dtype: torch.dtype | None,
    square: bool = False,
) -> None:
    """Check a floating-point tensor, whose elements must be finite and not too large.

    Args:
        name: name of the entry, for the message.
        value: the entry.
        shape: required shape; None for any.
        dtype: required data type; None for any floating-point or complex type.
        square: whether it is an average of squares, which cannot be negative.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        raise _invalid(name, value, "a dense tensor")
    if shape is not None and value.shape != shape:
        raise _invalid(name, value, f"of shape {list(shape)}")
    if value.dtype != dtype if dtype else not value.dtype.is_floating_point:
        if not (dtype is None and value.is_complex()):
            raise _invalid(name, value, f"of {dtype or 'floating point'}")
    local: Any = value.to_local() if hasattr(value, "to_local") else value
    numbers = real(local.detach())
    if not numbers.numel():
        return
    largest = torch.finfo(numbers.dtype).max
    most = largest if square else min(MOMENT_MARGIN * math.sqrt(largest), largest)
    least = 0.0 if square else -most
    low, high = (float(each) for each in torch.aminmax(numbers))
    if not (least <= low and high <= most):  # NaN in one number is NaN in both
        raise ValueError(
            f"the state to load is not valid: {name} must have finite numbers from "
            f"{least:.3g} to {most:.3g}, got {low:g} to {high:g}"
        )


# Messages.


def _check_keys(name: str, given: Mapping[Any, Any], valid: Sequence[str]) -> None:
    """Refuse a dictionary with other keys than the valid ones.

    Raises:
        ValueError: a key is missing or unknown.
    """
    if missing := [key for key in valid if key not in given]:
        raise ValueError(f"the state to load is not valid: {name} has no {missing}")
    if unknown := [key for key in given if key not in valid]:
        raise ValueError(
            f"the state to load is not valid: {name} has unknown entries "
            f"{quoted(unknown)}, maybe of a later version of optenv; valid: "
            f"{', '.join(valid)}"
        )


def _invalid(name: str, value: Any, valid: str) -> ValueError:
    """Make the error for an entry that is not valid, with its value.

    Args:
        name: name of the entry.
        value: the entry.
        valid: description of valid values.
    """
    shown = quoted(value)
    if isinstance(value, Tensor) and value.numel() > 4:
        shown = f"a tensor of {value.dtype} and shape {list(value.shape)}"
    return ValueError(
        f"the state to load is not valid: {name} must be {valid}, got {shown}"
    )
