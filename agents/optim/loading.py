"""Loading of an optimizer's saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from optenv.checks import quoted

from ..policy.module import Policy
from .controller import State
from .groups import check_group, check_roles
from .state_checks import check_controller, check_parameter_states, check_settings
from .state_keys import DECIDED, REMEMBERED
from .tensors import States

__all__ = ["check_loaded", "restore_dtypes"]


def check_loaded(
    final: Mapping[str, Any],
    policy: Policy,
    defaults: Mapping[str, Any],
    params: Sequence[Tensor],
) -> State:
    """Check a state dictionary, and return the state of its controller.

    Args:
        final: state dictionary to load, after all hooks.
        policy: policy of the optimizer.
        defaults: default settings of parameter groups.
        params: parameters of the optimizer.

    Raises:
        ValueError: an entry is missing or not valid.
    """
    # 1. The parameter groups, one of which has the controller
    groups = final.get("param_groups")
    if not isinstance(groups, (list, tuple)) or not isinstance(final.get("state"), dict):
        raise ValueError(
            "the state to load is not the state_dict of a LearnedOptimizer: it must have a "
            f"dictionary 'state' and a list 'param_groups', got {quoted(list(final))}"
        )
    for i, group in enumerate(groups):
        if not isinstance(group, dict):
            raise ValueError(f"param_groups[{i}] must be a dictionary: {quoted(group)}")
    saved = next((g["controller"] for g in groups if "controller" in g), None)
    state = check_controller(policy, saved, "LearnedOptimizer")
    for i, group in enumerate(groups):
        try:
            check_group({**defaults, **group}, policy.rule)
            check_roles(group, policy.action)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"param_groups[{i}]: {error}") from error
        check_settings(f"param_groups[{i}]", group)
    # 2. The states of the parameters
    check_parameter_states(policy, final, params)
    return state


def restore_dtypes(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], states: States
) -> None:
    """Undo torch's casts of loaded states to the parameter's data type and device.

    Single numbers and decisions stay on their device, as ``step`` does.

    Args:
        state_dict: the state as it was saved.
        params: parameters of the optimizer.
        states: states of the parameters, as torch has loaded them.
    """
    saved = [i for group in state_dict["param_groups"] for i in group["params"]]
    for index, p in zip(saved, params, strict=True):
        state = states[p]
        for name, value in state_dict["state"].get(index, {}).items():
            if name in ("mu_product", DECIDED, REMEMBERED):
                state[name] = value  # on its own device, like "step"
            elif isinstance(value, Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(p.device)
