"""What a policy's description must say, and which inputs it tells of."""

from __future__ import annotations

from typing import Any

from torch import nn

from optenv import actions, rules, windows
from optenv.checks import positive_int
from optenv.telemetry import FEATURE_VERSION, FEATURES
from optenv.trials import EXTRA

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}

#: Keys of the description that a policy cannot do without, and their types.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "feature_version": int,
    "features": list,
    "action": dict,
    "rule": (str, dict),
    "horizon": int,
    "spacing": (int, float),
    "total_updates": list,
    "layers": list,
    "activation": str,
}


def inputs(description: dict[str, Any]) -> list[int]:
    """Columns of an observation that a policy's networks see.

    Of a policy with a memory, observations are those of trials
    (:class:`optenv.TrialEnv`), with what an optimizer is told of the previous reward.
    """
    names, action = list(FEATURES), actions.make(description["action"])
    columns = [names.index(name) for name in description["features"]]
    seen = len(names) + action.observed
    columns += range(len(names), seen)
    if description.get("memory"):
        columns += range(seen, seen + action.outputs + len(EXTRA))
    return columns


def check(description: dict[str, Any]) -> None:
    """Refuse a description that is incomplete, or says what cannot be.

    Raises:
        ValueError: so it is; the message quotes what is wrong.
    """
    for key, kind in REQUIRED.items():
        if not isinstance(description.get(key), kind) or description[key] is True:
            raise ValueError(
                f"policy description: {key!r} is {description.get(key)!r}; "
                f"required: {', '.join(REQUIRED)}"
            )
    version = description["feature_version"]
    if version != FEATURE_VERSION:
        raise ValueError(
            f"policy of feature version {version!r}; this version of optenv has "
            f"{FEATURE_VERSION}"
        )
    rule = rules.get(description["rule"])
    actions.check_rule(actions.make(description["action"]), rule.name)
    unknown = [name for name in description["features"] if name not in list(FEATURES)]
    if unknown:
        raise ValueError(f"unknown features {unknown}; valid: {', '.join(FEATURES)}")
    if description["activation"] not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {description['activation']!r}; "
            f"valid: {', '.join(ACTIVATIONS)}"
        )
    positive_int("members", description.get("members", 1))
    lengths = description["total_updates"]
    if len(lengths) != 2 or not all(type(n) is int and n > 0 for n in lengths):
        raise ValueError(f"total_updates must be two positive integers, got {lengths!r}")
    windows.boundaries(1, description["horizon"], description["spacing"])
    sizes = description["layers"]
    action = actions.make(description["action"])
    anytime = description.get("anytime", False)
    if not isinstance(anytime, bool) or (anytime and action.schedule != "constant"):
        raise ValueError(
            "anytime must be True or False, and True needs schedule 'constant', got "
            f"{anytime!r} with {action.schedule!r}"
        )
    memory = description.get("memory", 0)
    if type(memory) is not int or memory < 0:
        raise ValueError(f"memory must be an integer, at least 0, got {memory!r}")
    ends = [len(inputs(description)) + memory, action.outputs]
    whole = all(type(n) is int and n > 0 for n in sizes)
    if not whole or len(sizes) < 2 or [sizes[0], sizes[-1]] != ends:
        raise ValueError(
            f"layers {sizes!r} do not lead from {ends[0]} inputs to {ends[1]} outputs"
        )
