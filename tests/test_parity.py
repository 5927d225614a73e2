"""A policy takes the same path in the environment and as an optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import optenv
from agents import LearnedOptimizer, load_policy
from agents.policy.files import save_policy
from optenv import rules, telemetry
from tests.helpers.markers import slow
from tests.helpers.policies import random_policy

HORIZON, TOTAL = 20, 60
BASE_LR = {
    **{name: rule.default_lr for name, rule in rules.RULES.items()},
    "sgd": 0.05,
    "adam": 2e-3,
    "orthogonal-adam": 2e-3,
    "switching": 2e-3,
}


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


#: A network whose parameters are replaced in each call.
CNN = cnn()


def make_task(name: str) -> optenv.tasks.Task:
    if name == "mlp":
        return optenv.tasks.MLP(
            batch_size=16, num_train=200, inputs=8, width=12, depth=2, activation="gelu",
            layer_norm=True,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(150, 1, 8, 8, generator=generator)
    targets = torch.randint(3, (150,), generator=generator)
    return optenv.from_module(cnn, inputs, targets, batch_size=16)


def walk_environment(
    task, policy, dtype, seed=5, index=2, runs=3, hide_loss=False, steps=HORIZON,
    after=None, total=TOTAL, **arguments,
):  # fmt: skip
    """Let ``policy`` act in a batch of environments.

    Args:
        task: task of all runs.
        policy: policy that acts.
        dtype: precision of the runs, by name.
        seed: seed of the batch.
        index: run whose path is returned.
        runs: size of the batch.
        hide_loss: hide the loss from the policy at every control step.
        steps: control steps to take.
        after: function that is called with the group of runs at the end.
        total: updates of a whole run.
        **arguments: further arguments of the environment.

    Returns:
        A list of the features, the learning rate and the parameters ``[P]`` at each
        control step; the initial parameters; the data; the boundaries of control steps.
    """
    description = policy.description
    env = optenv.LearningRateVectorEnv(
        runs, tasks=task, rule=description["rule"], action=description["action"],
        horizon=HORIZON, updates_per_step=total / HORIZON, spacing=description["spacing"],
        base_lr=BASE_LR[policy.rule.name], dtype=dtype, autoreset_mode="Disabled",
        on_divergence="absorb", anytime=policy.anytime, loss_dropout=float(hide_loss),
        loss_features=telemetry.loss_features_of(policy.observed),
        features=policy.registered, observe_validation=policy.sees_validation, **arguments,
    )  # fmt: skip
    group = env.groups[0][1]
    if policy.action.per_tensor:  # sub-environments of first tensors come first
        env = optenv.PerTensor(env)
    observation, _ = env.reset(seed=seed)
    start = group.state.run.params[index].clone()
    data = group.data
    policy = policy.to(torch.float64 if dtype == "float64" else torch.float32)
    walk = []
    for _ in range(steps):
        action = policy(torch.from_numpy(observation))
        features = observation[index, : len(policy.observed)]
        observation, _, terminated, _, info = env.step(action.numpy())
        walk.append((features, info["lr"][index], group.state.run.params[index].numpy()))
    assert terminated.all() == (steps == HORIZON)
    if after is not None:
        after(group)
    assert not info["diverged"][index]
    return walk, start, data, group.boundaries


def walk_optimizer(
    task, policy, start, data, boundaries, index=2, hide_loss=False, chosen_rules=None,
    steps=HORIZON, after=None, total=TOTAL, every=0,
):  # fmt: skip
    """Repeat the run with the exported optimizer in an ordinary training loop.

    Args:
        task: task of the run.
        policy: policy of the optimizer.
        start: initial parameters ``[P]``.
        data: data of the batch of environments.
        boundaries: updates at which control steps begin, and the last one ends.
        index: index of the run in the batch.
        hide_loss: do not give the losses to the optimizer.
        chosen_rules: list to which the rule of each control step is appended.
        steps: control steps to take.
        after: function that is called with the optimizer at the end.
        total: updates of a whole run.
        every: control steps from one validation loss to the next; 0 for none.

    Returns:
        A list like that of :func:`walk_environment`.
    """
    parameters = [p[0].clone().requires_grad_() for p in task.unflatten(start[None])]
    lr = BASE_LR[policy.rule.name]
    groups: list = parameters
    if policy.action.roles:
        groups = [
            {"params": [p], "name": role}
            for p, role in zip(parameters, task.roles, strict=True)
        ]
    optimizer = LearnedOptimizer(groups, policy, total_steps=total, lr=lr)
    walk = []
    for step in range(boundaries[steps]):
        first = torch.full((len(data.order),), step)
        examples = data.batch_rows(first, 1, task.batch_size)
        inputs, targets = (part[index] for part in data.batch(examples))
        optimizer.zero_grad()
        loss = loss_of(task, parameters, inputs, targets)
        loss.backward()
        optimizer.step(loss=None if hide_loss else loss)
        if step in boundaries[:-1]:
            decision = optimizer.explain()[-1]
            features = np.array([decision[name] for name in policy.observed])
            # Multipliers of roles are relative to that of the features.
            of_role = decision.get(f"multiplier_{optimizer.param_groups[0].get('name')}")
            relative = 1.0 if of_role is None else of_role / decision["multiplier"]
            walk.append([features, optimizer.param_groups[0]["effective_lr"] / relative])
        if step + 1 in boundaries:
            walk[-1].append(torch.cat([p.detach().flatten() for p in parameters]).numpy())
            if every and len(walk) % every == 0:
                held_out = data.validation(task.reward_examples)
                inputs, targets = (part[index] for part in held_out)
                with torch.no_grad():
                    optimizer.validated(loss_of(task, parameters, inputs, targets))
    if after is not None:
        after(optimizer)
    if chosen_rules is not None:
        chosen_rules += [row["rule"] for row in optimizer.explain()]
    return walk


def loss_of(task, parameters, inputs, targets):
    """Return the loss of one run's parameters on one batch."""
    if isinstance(task, optenv.tasks.MLP):
        stacked = tuple(p.unsqueeze(0) for p in parameters)
        return task.loss(stacked, inputs[None], targets[None])[0]
    named = dict(zip(dict(CNN.named_parameters()), parameters, strict=True))
    return nn.functional.cross_entropy(functional_call(CNN, named, (inputs,)), targets)


ACTIONS = {
    "continuous": {"kind": "continuous", "bound": 3.0},
    "discrete": {
        "kind": "discrete", "bound": 3.0, "multipliers": [0.1, 0.2, 0.5, 1.0, 2, 5, 10],
    },
    "cosine": {"kind": "continuous", "bound": 3.0, "schedule": "cosine"},
}  # fmt: skip


@pytest.mark.parametrize(
    "rule", [*rules.RULES, {"name": "adam", "beta1": 0.8, "beta2": 0.99}], ids=str
)
@pytest.mark.parametrize(
    # Every rule with every action and on both tasks. An action sees nothing of the task.
    ("name", "action"),
    [
        ("mlp", "continuous"),
        slow("cnn", "continuous"),
        ("cnn", "discrete"),
        slow("mlp", "cosine"),
    ],
)
def test_optimizer_equals_environment_in_float64_over_a_whole_run(
    name, rule, action, tmp_path
):
    task, action = make_task(name), ACTIONS[action]
    policy = load_policy(save_policy(random_policy(rule, action), tmp_path / "policy"))
    expected, start, data, boundaries = walk_environment(task, policy, "float64")
    found = walk_optimizer(task, policy, start, data, boundaries)
    rates = [lr for _, lr, _ in expected]
    assert max(rates) >= 10 * min(rates), "the multipliers must span at least 10x"
    for step, expected_step in zip(found, expected, strict=True):
        features, lr, params = step
        expected_features, expected_lr, expected_params = expected_step
        np.testing.assert_allclose(features, expected_features, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(lr, expected_lr, rtol=1e-8)
        np.testing.assert_allclose(params, expected_params, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("description", "hide_loss"),
    [({}, True), ({"anytime": True, "spacing": math.log(TOTAL, HORIZON)}, False)],
    ids=["no loss", "anytime"],
)
def test_a_hidden_loss_equals_a_loss_that_is_not_given(description, hide_loss):
    action = {"step": 0.2}  # small, so that no bound is reached
    task, policy = make_task("mlp"), random_policy("adam", action, HORIZON, **description)
    policy.requires_grad_(False)
    expected, start, data, boundaries = walk_environment(
        task, policy, "float64", hide_loss=hide_loss
    )
    found = walk_optimizer(task, policy, start, data, boundaries, hide_loss=hide_loss)
    assert len({lr for _, lr, _ in expected}) > 5
    for step, expected_step in zip(found, expected, strict=True):
        features, lr, params = step
        expected_features, expected_lr, expected_params = expected_step
        np.testing.assert_allclose(features, expected_features, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(lr, expected_lr, rtol=1e-8)
        np.testing.assert_allclose(params, expected_params, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "action", "every"),
    [
        ("mlp", {}, 1),
        ("cnn", {}, 3),
        ("mlp", {"kind": "roles", "bound": 3.0}, 4),
        ("mlp", {"kind": "layerwise", "tensors": 13}, 2),
        ("mlp", {"kind": "hyperparameters", "names": ["learning_rate", "average"]}, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [True, False])
def test_validation_losses_are_observed_as_in_the_environment(
    name, action, every, given, tmp_path
):
    task = make_task(name)
    made = random_policy(
        "adam", action, features=[*telemetry.observed_features("invariant", True)]
    )
    policy = load_policy(save_policy(made, tmp_path / "policy"))
    policy.requires_grad_(False)
    expected, start, data, boundaries = walk_environment(
        task, policy, "float64", validation_every=every,
        validation_dropout=float(not given),
    )  # fmt: skip
    found = walk_optimizer(
        task, policy, start, data, boundaries, every=every if given else 0
    )
    if "average" in policy.action.sets:  # which the optimizer's parameters become
        found, expected = found[:-1], expected[:-1]
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-7, atol=1e-9)
    of_validation = np.array([features[-6:] for features, *_ in found])
    varied = np.ptp(of_validation, axis=0)
    assert (varied[[0, 2, 4, 5]] > 0.1).all() == given and of_validation.any() == given


class BelowZero(optenv.tasks.MLP):
    """Perceptrons whose loss falls below zero."""

    def loss(self, params, inputs, targets):
        return super().loss(params, inputs, targets) - 3.0


@pytest.mark.parametrize("action", [{}, {"kind": "layerwise", "tensors": 13}], ids=str)
def test_policies_of_invariant_features_take_losses_below_zero(action):
    task = BelowZero(batch_size=16, num_train=200, inputs=8, width=12)
    shown = list(telemetry.observed_features("invariant"))
    policy = random_policy("adam", action, features=shown)
    policy.requires_grad_(False)
    expected, start, data, boundaries = walk_environment(task, policy, "float64")
    found = walk_optimizer(task, policy, start, data, boundaries)
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-7, atol=1e-9)
    falls = [features[shown.index("loss_fall")] for features, *_ in found]
    assert max(falls) > 0.1 and len(set(falls)) > HORIZON // 2


def of_everything(probe, losses, history, control):
    """Mix all that a feature may depend on."""
    loss = torch.where(losses.seen > 0, losses.mean, 1.0).log() + losses.deviation
    of_run = 0.1 * history.windows + control.log_multiplier / 3 + control.previous_action
    rate = control.log_lr if control.progress is None else control.progress
    length = 0.0 if control.length is None else control.length / 1000
    fall = history.loss_previous - loss
    of_step = 0.1 * probe.grad_sq.log() + probe.step_sq.sqrt()
    return 4 * torch.tanh((of_step + fall + of_run + rate + length) / 10)


def of_all_sizes(probe, losses, history, control):
    """Return numbers of any size, and NaN in the second half of a run."""
    value = 1e30 * (history.windows % 3 - 1)
    return torch.where(history.windows > HORIZON / 2, torch.nan, value)


NO_LOSS = [name for name in telemetry.FEATURES if name not in telemetry.LOSS_FEATURES]


@pytest.mark.parametrize(
    ("action", "description", "hide_loss"),
    [
        ({}, {}, False),
        ({}, {}, True),
        ({}, {"names": telemetry.observed_features("both")}, False),
        ({}, {"anytime": True, "spacing": math.log(TOTAL, HORIZON)}, False),
        ({"kind": "layerwise", "tensors": 13}, {}, False),
        ({"step": 0.2}, {"names": NO_LOSS}, False),
    ],
    ids=["continuous", "no loss", "both", "anytime", "layerwise", "hidden in training"],
)
def test_registered_features_are_those_of_the_environment(
    action, description, hide_loss, tmp_path, monkeypatch
):
    monkeypatch.setattr(telemetry.registered, "_REGISTERED", {})
    telemetry.register_feature("sizes", of_all_sizes)
    telemetry.register_feature("everything", of_everything)
    description = dict(description)
    names = description.pop("names", telemetry.FEATURES)
    hidden = "has_loss" not in names
    made = random_policy(
        "adam", action, features=[*names, "everything", "sizes"], **description
    )
    policy = load_policy(save_policy(made, tmp_path / "policy"))
    assert policy.observed[-2:] == policy.registered == ("everything", "sizes")
    assert policy.sees_loss != hidden
    task, blind = make_task("mlp"), hide_loss or hidden
    expected, start, data, boundaries = walk_environment(
        task, policy, "float64", hide_loss=blind
    )
    found = walk_optimizer(task, policy, start, data, boundaries, hide_loss=hide_loss)
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-7, atol=1e-9)
    everything, sizes = np.array([features[-2:] for features, *_ in found]).T
    assert len(set(everything)) > HORIZON // 2 and set(sizes) == {-4.0, 0.0, 4.0}


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_optimizer_equals_environment_in_float32_over_the_first_steps(rule, tmp_path):
    task = make_task("mlp")
    policy = load_policy(save_policy(random_policy(rule), tmp_path / "policy"))
    expected, start, data, boundaries = walk_environment(task, policy, "float32", steps=4)
    found = walk_optimizer(task, policy, start, data, boundaries, steps=4)
    for i in range(4):
        np.testing.assert_allclose(found[i][0], expected[i][0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[i][1], expected[i][1], rtol=1e-3)
        # The optimizer rounds the buffers of its probe, the environment does not.
        np.testing.assert_allclose(found[i][2], expected[i][2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_optimizer_switches_rules_like_the_environment(name):
    task = make_task(name)
    action = {"kind": "rule", "bound": 3.0, "multipliers": [0.5, 1.0, 2.0]}
    policy = random_policy("switching", action)
    with torch.no_grad():  # so that rules between the first and the last are chosen
        last = policy.networks[0][2]
        generator = torch.Generator().manual_seed(1)
        last.weight.copy_(torch.randn(last.weight.shape, generator=generator))
    policy.requires_grad_(False)
    expected, start, data, boundaries = walk_environment(task, policy, "float64")
    rules_taken: list[str] = []
    found = walk_optimizer(task, policy, start, data, boundaries, chosen_rules=rules_taken)
    assert len(set(rules_taken)) > 2
    for step, expected_step in zip(found, expected, strict=True):
        features, lr, params = step
        expected_features, expected_lr, expected_params = expected_step
        np.testing.assert_allclose(features, expected_features, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(lr, expected_lr, rtol=1e-8)
        np.testing.assert_allclose(params, expected_params, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("rule", "action"),
    [
        ("adam", {"kind": "roles", "bound": 3.0}),
        ("orthogonal-adam", {"kind": "roles", "bound": 3.0}),
        ({"name": "orthogonal-adam", "refresh": 3}, {"kind": "roles", "bound": 3.0}),
        ("adam", {"kind": "hyperparameters", "bound": 3.0}),
        ("momentum", {"kind": "hyperparameters", "names": ["momentum", "clip"]}),
        ("lion", {"kind": "hyperparameters", "names": ["learning_rate", "beta1", "clip"]}),
        ("sgd", {"kind": "hyperparameters", "names": ["weight_decay", "average"]}),
    ],
)
def test_the_optimizer_carries_out_all_that_actions_set(name, rule, action):
    task = make_task(name)
    policy = random_policy(rule, action)
    policy.requires_grad_(False)
    expected, start, data, boundaries = walk_environment(task, policy, "float64")
    found = walk_optimizer(task, policy, start, data, boundaries)
    if "average" in policy.action.sets:  # which the optimizer's parameters become
        found, expected = found[:-1], expected[:-1]
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "rule", "schedule"),
    [("mlp", "adam", "constant"), ("cnn", "orthogonal-adam", "cosine")],
)
def test_each_tensor_walks_in_the_optimizer_as_in_the_environment(name, rule, schedule):
    task = make_task(name)
    action = {"kind": "layerwise", "tensors": 13, "schedule": schedule}
    policy = random_policy(rule, action)
    policy.requires_grad_(False)
    logs, total = [], 130  # after which the tensors are apart from each other

    def in_environment(group):
        logs.append(group.state.part_multipliers[2])

    def in_optimizer(optimizer):
        logs.append(torch.stack([s["decided"][0] for s in optimizer.state.values()]))

    expected, start, data, boundaries = walk_environment(
        task, policy, "float64", after=in_environment, total=total
    )
    found = walk_optimizer(
        task, policy, start, data, boundaries, after=in_optimizer, total=total
    )
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*logs, rtol=1e-9, atol=1e-9)
    assert len(logs[0]) == len(task.shapes) and logs[0].std() > 0.3


def test_a_run_ends_with_the_average_that_the_environment_evaluates():
    task = make_task("mlp")
    action = {"kind": "hyperparameters", "names": ["learning_rate", "average"]}
    policy = random_policy("adam", action)
    policy.requires_grad_(False)
    with torch.no_grad():  # so that the average is over many updates at the end
        policy.networks[0][2].bias[1] = 5.0
    ends = []

    def evaluated(group):
        ends.extend([group.state.run.evaluated[2].numpy(), group.state.run.params[2]])

    _, start, data, boundaries = walk_environment(task, policy, "float64", after=evaluated)
    found = walk_optimizer(task, policy, start, data, boundaries)
    np.testing.assert_allclose(found[-1][2], ends[0], rtol=1e-7, atol=1e-9)
    assert not np.allclose(*ends, rtol=1e-2, atol=1e-2)
