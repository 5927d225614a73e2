"""What several test files need: small tasks, runs of them, and comparisons."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import optenv
from agents import Policy
from optenv import core, rules, tasks, telemetry

IDS = list(optenv.ENVIRONMENTS)
RULES = list(rules.RULES)

#: Environments with each of the update rules that they can have.
PAIRS = [
    (name, rule)
    for name, given in optenv.ENVIRONMENTS.items()
    for rule in ([given["rule"]] if "rule" in given else RULES)
]

#: Smooth, so that it has derivatives everywhere.
MLP = tasks.MLP(
    batch_size=8, num_train=60, num_validation=24,
    inputs=4, outputs=3, width=6, depth=1, activation="tanh",
)  # fmt: skip
QUADRATIC = tasks.Quadratic(batch_size=4, num_train=64, num_validation=16, dim=8)


def linear_module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutional_module() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3)
    )


def module_task(convolutional: bool = False, **arguments: Any) -> tasks.ModuleTask:
    """A classifier of 40 random examples, made of an ``nn.Module``."""
    rng = np.random.default_rng(5)
    shape = (40, 1, 8, 8) if convolutional else (40, 4)
    return tasks.from_module(
        convolutional_module if convolutional else linear_module,
        torch.from_numpy(rng.standard_normal(shape, np.float32)),
        torch.from_numpy(rng.integers(3, size=40)),
        **{"batch_size": 8, **arguments},
    )


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(seed + i) for i in range(count)]


def new_runs(
    task: tasks.Task, count: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[tasks.Data, Tensor]:
    """Data and initial parameters of ``count`` runs."""
    keys = generators(count, seed)
    data = task.sample(keys).to(torch.device("cpu"), dtype)
    return data, task.init(keys).to(dtype)


def started(
    task: tasks.Task, rule: str, count: int, seed: int = 0
) -> tuple[tasks.Data, core.RunState]:
    """Runs of ``task`` before their first update."""
    data, params = new_runs(task, count, seed)
    return data, core.start(task, rules.get(rule), data, params)


def leaves(tree: Any) -> list[Tensor]:
    """Tensors of nested tuples, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in tree for leaf in leaves(part)]


def clone(tree: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in leaves(tree)]


def assert_identical(a: Any, b: Any) -> None:
    """Bit-equal tensors, NaN included."""
    torch.testing.assert_close(leaves(a), leaves(b), rtol=0, atol=0, equal_nan=True)


def random_actions(space: spaces.Space[Any], steps: int, seed: int = 0) -> list[Any]:
    space = copy.deepcopy(space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def keep(env: Any) -> Any:
    """The action that leaves the learning rate as it is."""
    space = env.action_space
    if isinstance(space, spaces.Discrete) and space.n == 24:
        return 13  # of UpdateRule: Adam
    if isinstance(space, spaces.Discrete):
        return int(space.n) // 2
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec // 2
    return np.zeros(space.shape, space.dtype)


def rollout(env: Any, actions: list[Any], seed: int | None = None) -> list[Any]:
    """Everything that one episode, or its first ``len(actions)`` steps, returns."""
    trajectory: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        trajectory.append(env.step(action))
        if np.all(trajectory[-1][2]):
            break
    return trajectory


def assert_same(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Equal in structure and, to tolerance, in value: nested dicts, sequences, arrays."""
    if isinstance(a, dict):
        assert isinstance(b, dict) and set(a) == set(b), f"{set(a)} and {set(b)}"
        for key in a:
            assert_same(a[key], b[key], rtol, atol)
    elif isinstance(a, (tuple, list)) or getattr(a, "dtype", None) == np.object_:
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, rtol, atol)
    elif a is None or b is None:
        assert a is b
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol, atol, equal_nan=True)


def random_policy(
    rule: str = "adam",
    action: dict[str, Any] | None = None,
    horizon: int = 20,
    **described: Any,
) -> Policy:
    """A policy that raises the learning rate, then lowers it, and else does as it likes.

    Random weights make every observation count; the first hidden unit follows progress.
    """
    spec = optenv.actions.make({"kind": "continuous", "bound": 3.0, **(action or {})})
    outputs, memory = spec.outputs, described.get("memory", 0)
    inputs = len(telemetry.FEATURES) + spec.observed
    inputs += outputs + 2 + memory if memory else 0
    policy = Policy(
        {
            "feature_version": telemetry.FEATURE_VERSION,
            "features": list(telemetry.FEATURES),
            "total_updates": [10, 10_000],
            "action": spec.to_dict(),
            "rule": rule,
            "horizon": horizon,
            "spacing": 1.7,
            "layers": [inputs, 16, outputs],
            "activation": "tanh",
            **described,
        }
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        policy.networks[0][0].weight[0] = 0.0
        policy.networks[0][0].weight[0, list(telemetry.FEATURES).index("progress")] = 3.0
        policy.networks[0][2].weight[:, 0] = 1.5 * torch.linspace(-1, 1, outputs).neg()
        if outputs == 1:
            policy.networks[0][2].weight[0, 0] = -1.5
    return policy
