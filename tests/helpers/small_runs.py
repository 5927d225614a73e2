"""Small tasks, runs and rollouts of them, and exact comparisons of the results."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import optenv
from optenv import core, rules, tasks

ENV_IDS = list(optenv.ENVIRONMENTS)
RULE_NAMES = list(rules.RULES)

#: Every valid pair of an environment's id and the name of an update rule.
ENV_RULE_PAIRS = [
    (name, rule)
    for name, defaults in optenv.ENVIRONMENTS.items()
    for rule in ([defaults["rule"]] if "rule" in defaults else RULE_NAMES)
]

#: Small tasks. The perceptron is smooth, so that it has derivatives everywhere.
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
    """Return a task that classifies 40 random examples with an ``nn.Module``."""
    rng = np.random.default_rng(5)
    shape = (40, 1, 8, 8) if convolutional else (40, 4)
    return tasks.from_module(
        convolutional_module if convolutional else linear_module,
        torch.from_numpy(rng.standard_normal(shape, np.float32)),
        torch.from_numpy(rng.integers(3, size=40)),
        **{"batch_size": 8, **arguments},
    )


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    """Return ``count`` random generators with consecutive seeds."""
    return [np.random.default_rng(seed + i) for i in range(count)]


def sample_runs(
    task: tasks.Task, count: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[tasks.Data, Tensor]:
    """Sample the data and the initial parameters ``[count, P]`` of ``count`` runs."""
    keys = generators(count, seed)
    data = task.sample(keys).to(torch.device("cpu"), dtype)
    return data, task.init(keys).to(dtype)


def start_runs(
    task: tasks.Task, rule: str, count: int, seed: int = 0
) -> tuple[tasks.Data, core.RunState]:
    """Sample runs of ``task``; return their data and their state before any update."""
    data, params = sample_runs(task, count, seed)
    return data, core.start(task, rules.get(rule), data, params)


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of nested tuples, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in tree for leaf in leaves(part)]


def clone(tree: Any) -> list[Tensor]:
    """Return copies of the tensors of nested tuples, in order."""
    return [leaf.clone() for leaf in leaves(tree)]


def assert_identical(a: Any, b: Any) -> None:
    """Assert that the tensors of two trees are equal bit for bit, NaN included."""
    torch.testing.assert_close(leaves(a), leaves(b), rtol=0, atol=0, equal_nan=True)


def random_actions(space: spaces.Space[Any], steps: int, seed: int = 0) -> list[Any]:
    """Sample ``steps`` actions of a copy of ``space``."""
    space = copy.deepcopy(space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def neutral_action(env: Any) -> Any:
    """Return the action that leaves the learning rate (and the rule Adam) unchanged."""
    space = env.action_space
    if isinstance(space, spaces.Discrete) and space.n == 24:
        return 13  # UpdateRule-v0: Adam, multiplier 1
    if isinstance(space, spaces.Discrete):
        return int(space.n) // 2
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec // 2
    return np.zeros(space.shape, space.dtype)


def rollout(env: Any, actions: list[Any], seed: int | None = None) -> list[Any]:
    """Run one episode; return the results of ``reset`` and of every ``step``.

    The rollout ends after ``actions``, or earlier when all runs have terminated.
    """
    trajectory: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        trajectory.append(env.step(action))
        if np.all(trajectory[-1][2]):
            break
    return trajectory


def assert_same(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Assert that nested dicts, sequences and arrays have equal structure and values.

    Values may differ by the tolerances; types of arrays may not.
    """
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
    elif isinstance(a, str):
        assert a == b
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol, atol, equal_nan=True)
