"""Controls besides one learning rate: hyperparameters by name, and rates of roles."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from optenv import actions, core, rules, tasks
from optenv.group.window import modifiers
from optenv.modifiers import Modifiers
from optenv.roles import ROLES
from tests.helpers.small_runs import sample_runs, start_runs

ID = "optenv/Hyperparameters-v0"
SHORT: dict[str, Any] = {
    "tasks": tasks.MLP(num_train=64, num_validation=32, batch_size=8, width=8),
    "horizon": 5,
    "updates_per_step": 4,
    "dtype": "float64",
}


def play(env_id: str, constant: np.ndarray, runs: int = 2, **arguments: Any) -> np.ndarray:
    """Return the parameters at the end of a run with constant actions."""
    env = gym.make_vec(env_id, runs, **{**SHORT, **arguments})
    env.reset(seed=3)
    for _ in range(4):
        env.step(np.tile(constant, (runs, 1)))
    return env.groups[0][1].state.run.params.numpy()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "action", "rule"),
    [
        ("beta1", 0.0, {"name": "adam", "beta1": 0.9}),
        ("beta1", 1.0, {"name": "adam", "beta1": 0.99}),
        ("beta1", -1.0, {"name": "adam", "beta1": 0.5}),
        ("beta2", 0.0, {"name": "adam", "beta2": 0.999}),
        ("beta2", -1.0, {"name": "adam", "beta2": 0.95}),
        ("momentum", 0.0, {"name": "momentum", "momentum": 0.9}),
    ],
)
def test_a_hyperparameter_takes_the_value_of_its_range(
    name: str, action: float, rule: dict[str, Any]
) -> None:
    kind = {"kind": "hyperparameters", "names": (name,)}
    ours = play(ID, np.array([action]), action=kind, rule=rule["name"])
    theirs = play("optenv/LearningRate-v0", np.zeros(1), rule=rule)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_the_learning_rate_moves_as_by_its_own_control() -> None:
    kind = {"kind": "hyperparameters", "names": ("learning_rate",)}
    ours = play(ID, np.array([0.4]), action=kind)
    theirs = play("optenv/LearningRate-v0", np.array([0.4]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_roles_that_move_together_are_one_learning_rate() -> None:
    ours = play("optenv/RoleLearningRate-v0", np.full(len(ROLES), -0.7))
    theirs = play("optenv/LearningRate-v0", np.array([-0.7]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_each_role_has_a_learning_rate_of_its_own() -> None:
    task = SHORT["tasks"]
    low = np.full(len(ROLES), -1.0)
    low[ROLES.index("vectors")] = 1.0
    env = gym.make_vec("optenv/RoleLearningRate-v0", 2, **SHORT, rule="sgd")
    env.reset(seed=3)
    group = env.groups[0][1]  # type: ignore[attr-defined]
    before, grad = group.state.run.params, group.state.run.grad
    task_lr = group.state.base_lr
    rule = rules.get("sgd")
    env.step(np.tile(low, (2, 1)))
    decision = group.action.decode(
        torch.from_numpy(np.tile(low, (2, 1))), torch.zeros(2, dtype=torch.float64)
    )
    factors = modifiers(group.setup, task, decision).lr_factors
    sizes = [int(np.prod(shape)) for shape in task.shapes]
    roles = np.repeat(task.roles, sizes)
    ratio = factors[0, roles == "vectors"][0] / factors[0, roles == "matrices"][0]
    assert ratio == pytest.approx(np.exp(1.8))
    assert {"matrices", "output", "vectors"} == set(task.roles)
    # The first update of the window by hand
    data = group.data
    state = core.start(task, rule, data, before)
    assert torch.equal(state.grad, grad)
    mean = np.exp(0.9 * low.mean())
    rates = (task_lr * mean)[None]
    moved = core.advance(task, rule, data, state, rates, Modifiers(lr_factors=factors))
    expected = before - grad * rates[0][:, None] * factors
    torch.testing.assert_close(moved.params, expected)


def test_roles_are_those_of_the_model() -> None:
    assert tasks.MLP(depth=2).roles == (
        "matrices", "vectors", "matrices", "vectors", "output", "vectors",
    )  # fmt: skip
    language = tasks.LanguageModel()
    assert language.roles[0] == "embeddings" and "output" in language.roles
    assert len(language.roles) == len(language.shapes)
    module = tasks.from_module(
        lambda: torch.nn.Sequential(
            torch.nn.Embedding(5, 4), torch.nn.Flatten(), torch.nn.Linear(8, 3)
        ),
        torch.randint(5, (40, 2)),
        torch.randint(3, (40,)),
    )
    assert module.roles == ("embeddings", "matrices", "vectors")


def test_weight_decay_is_decoupled() -> None:
    data, state = start_runs(SHORT["tasks"], "sgd", 3)
    task, rule = SHORT["tasks"], rules.get("sgd")
    lr = torch.full((1, 3), 0.1, dtype=torch.float64)
    decay = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    plain = core.advance(task, rule, data, state, lr)
    decayed = core.advance(task, rule, data, state, lr, Modifiers(weight_decay=decay))
    expected = plain.params - 0.1 * decay[:, None] * state.params
    torch.testing.assert_close(decayed.params, expected)


def test_gradients_are_clipped_against_the_norms_so_far() -> None:
    data, state = start_runs(SHORT["tasks"], "sgd", 3)
    lr = torch.full((6, 3), 0.01, dtype=torch.float64)
    ratio = torch.tensor([1e-3, 0.5, 1e6], dtype=torch.float64)
    rule = rules.get("sgd")
    plain = core.advance(SHORT["tasks"], rule, data, state, lr)
    clipped = core.advance(SHORT["tasks"], rule, data, state, lr, Modifiers(clip=ratio))
    torch.testing.assert_close(clipped.params[2], plain.params[2])
    # With the smallest ratio only the first gradient, which is not clipped, moves them.
    moved = torch.linalg.vector_norm(clipped.params - state.params, dim=1)
    first = 0.01 * torch.linalg.vector_norm(state.grad, dim=1)
    assert float(moved[0]) == pytest.approx(float(first[0]), rel=0.01)
    assert moved[0] < moved[1]


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_an_average_is_the_last_or_the_mean_of_all(exponent: float) -> None:
    task, rule = SHORT["tasks"], rules.get("sgd")
    data, params = sample_runs(task, 3)
    state = core.start(task, rule, data, params, averaged=True)
    assert torch.equal(state.evaluated, params)
    path = []
    lr = torch.full((1, 3), 0.1, dtype=torch.float64)
    modifiers = Modifiers(average=torch.full((3,), exponent, dtype=torch.float64))
    for _ in range(7):
        state = core.advance(task, rule, data, state, lr, modifiers)
        path.append(state.params)
    expected = torch.stack(path).mean(0) if exponent else path[-1]
    torch.testing.assert_close(state.evaluated, expected)


def test_rewards_are_those_of_the_averaged_parameters() -> None:
    kind = {"kind": "hyperparameters", "names": ("average",)}
    env = gym.make_vec(ID, 2, **SHORT, action=kind, base_lr=0.1)
    env.reset(seed=0)
    group = env.groups[0][1]  # type: ignore[attr-defined]
    info = env.step(np.ones((2, 1)))[-1]
    run, examples = group.state.run, group.data.train(128)
    losses = core.evaluate(group.task, run.average, examples, group.data)
    np.testing.assert_allclose(info["loss"], losses.numpy())
    others = core.evaluate(group.task, run.params, examples, group.data)
    assert not np.allclose(others.numpy(), losses.numpy(), rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"names": ("beta3",)}, ValueError, "unknown hyperparameter 'beta3'; valid: lea"),
        ({"names": ("clip", "clip")}, ValueError, "names must differ"),
        (
            {"names": "clip"},
            TypeError,
            "names must be a tuple of names or None, got 'clip'",
        ),
        ({"names": ()}, TypeError, "names must be a tuple of names"),
        ({"step": -1.0}, ValueError, "step must be positive and finite, got -1.0"),
    ],
)
def test_wrong_fields_are_refused(
    fields: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        actions.make({"kind": "hyperparameters", **fields})


def test_a_hyperparameter_that_the_rule_lacks_is_refused() -> None:
    named = {"kind": "hyperparameters", "names": ["beta1", "beta2", "clip"]}
    with pytest.raises(ValueError, match=r"sets beta1, beta2, .*; the hyperparameters of "):
        gym.make(ID, rule="momentum", action=named)
