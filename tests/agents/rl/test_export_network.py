"""Networks that other programs trained become policies, or are refused by name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import ClipAction, NormalizeObservation
from torch import nn

import optenv
from agents import LearnedOptimizer, Normalisation, export_network, load_policy
from tests.helpers.small_runs import MLP

SHORT: dict[str, Any] = {"tasks": MLP, "horizon": 4, "updates_per_step": 2}


def network(*ends: nn.Module, inputs: int = 25, outputs: int = 1) -> nn.Sequential:
    """Return a network with two activations and fixed random weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(inputs, 8), nn.Tanh()),
        nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, outputs), *ends,
    )  # fmt: skip


def predicting(actor: nn.Module) -> Any:
    return lambda observation: actor(torch.from_numpy(observation))


def observations(width: int = 25, count: int = 32) -> np.ndarray:
    drawn = np.random.default_rng(1).uniform(-3, 3, (count, width))
    return drawn.astype(np.float32)


def env(env_id: str = "optenv/LearningRate-v0", **arguments: Any) -> Any:
    return gym.make(env_id, **{**SHORT, **arguments})


@pytest.mark.parametrize(
    ("actor", "described"),
    [
        (network(), {"layers": [25, 8, 8, 1], "activation": "tanh"}),
        (network(nn.Tanh()), {"output": "tanh"}),
        (network(nn.Hardtanh(-2, 2), nn.Tanh()), {"output_bound": 2.0}),
        (network(nn.Identity(), nn.Hardtanh()), {}),
        (nn.Linear(25, 1), {"layers": [25, 1]}),
        (nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.Linear(4, 1)), {}),
        (nn.Sequential(nn.BatchNorm1d(25), *network()).eval(), {"layers": [25, 8, 8, 1]}),
    ],
    ids=["plain", "tanh", "bounded", "clipped", "linear", "joined", "normalised"],
)
def test_a_network_acts_as_it_predicts(
    actor: nn.Module, described: dict[str, Any], tmp_path: Any
) -> None:
    for module in actor.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after a training
            module.running_mean.uniform_(-1, 1), module.running_var.uniform_(0.5, 2)
    path = export_network(
        actor, env(), tmp_path / "policy", predict=predicting(actor), algorithm="mine"
    )
    policy, seen = load_policy(path), torch.from_numpy(observations())
    torch.testing.assert_close(policy(seen), actor(seen).detach().clamp(-1, 1))
    written = policy.description
    assert {key: written.get(key) for key in described} == described
    assert written["algorithm"] == "mine" and "seed" not in written
    module = nn.Linear(3, 1)
    optimizer = LearnedOptimizer(module.parameters(), path, total_steps=4)
    module(torch.ones(2, 3)).square().mean().backward()
    optimizer.step()


def test_the_first_half_of_twice_as_many_outputs_is_the_mean(tmp_path: Any) -> None:
    actor = network(outputs=2)
    means = lambda observation: predicting(actor)(observation)[:, :1].detach().numpy()  # noqa: E731
    policy = load_policy(export_network(actor, env(), tmp_path / "a", predict=means))
    assert policy.spec.layers[-1] == 1
    np.testing.assert_allclose(
        policy(torch.from_numpy(observations())),
        means(observations()).clip(-1, 1), atol=1e-6,
    )  # fmt: skip


def test_scores_of_discrete_actions_and_trials_without_memory(tmp_path: Any) -> None:
    made = env("optenv/DiscreteLearningRateTrial-v0", runs=2)
    actor = network(inputs=made.observation_space.shape[0], outputs=7)
    best = lambda observation: predicting(actor)(observation).argmax(1)  # noqa: E731
    policy = load_policy(export_network(actor, made, tmp_path / "policy", predict=best))
    assert policy.on_trials and not policy.memory
    seen = observations(made.observation_space.shape[0])
    np.testing.assert_array_equal(policy(torch.from_numpy(seen)), best(seen))


def test_statistics_of_a_wrapped_batch_are_carried_along(tmp_path: Any) -> None:
    batch = gym.make_vec("optenv/LearningRate-v0", 4, **SHORT)
    envs = NormalizeObservation(ClipAction(batch))
    envs.reset(seed=0)
    for _ in range(6):
        envs.step(envs.action_space.sample())
    moments = envs.obs_rms
    actor = network()

    def predict(observation: np.ndarray) -> torch.Tensor:
        normal = (observation - moments.mean) / np.sqrt(moments.var + envs.epsilon)
        return actor(torch.from_numpy(normal.clip(-5, 5).astype(np.float32)))

    given = Normalisation(moments.mean, moments.var, envs.epsilon, clip=5.0)
    path = export_network(
        actor, envs, tmp_path / "policy", predict=predict, normalisation=given
    )
    np.testing.assert_allclose(
        load_policy(path)(torch.from_numpy(observations())),
        predict(observations()).detach().clamp(-1, 1), atol=1e-5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="predict acts otherwise than the network does"):
        export_network(actor, envs, tmp_path / "other", predict=predict)
    assert not (tmp_path / "other.json").exists()


ACTOR = network()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"network": ACTOR.forward}, TypeError, "network must be an nn.Sequential"),
        ({"predict": None}, TypeError, "predict must be a function"),
        ({"normalisation": (0, 1)}, TypeError, "an agents.Normalisation or None"),
        ({"predict": lambda seen: -ACTOR(torch.from_numpy(seen))}, ValueError,
         r"on \d+ of 256 random observations, predict acts otherwise"),
        ({"predict": lambda seen: np.zeros((len(seen), 2))}, ValueError,
         r"has the shape \(64, 2\); expected: \(64, 1\)"),
        ({"network": network(inputs=26)}, ValueError, "leads from 26 inputs to 1 outputs"),
        ({"network": network(nn.ReLU())}, ValueError, "its layers must be Linear"),
        ({"network": nn.Sequential(nn.LayerNorm(25), nn.Linear(25, 1))}, ValueError,
         r"got \['LayerNorm', 'Linear'\]"),
        ({"network": nn.Sequential(nn.ReLU(), nn.Linear(25, 1))}, ValueError,
         r"got \['ReLU', 'Linear'\]"),
        ({"network": nn.Sequential(*ACTOR[:2], nn.ELU(), ACTOR[3])}, ValueError,
         r"activations ELU\(alpha=1.0\), Tanh\(\)"),
        ({"network": nn.Sequential(ACTOR[1], nn.ELU(0.5), ACTOR[3])}, ValueError,
         "with the defaults of torch"),
        ({"env": gym.make("CartPole-v1")}, ValueError, "not an environment of optenv's"),
        ({"normalisation": Normalisation([0.0], [1.0])}, ValueError, "has 1 means"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused_by_name(
    change: dict[str, Any], error: type[Exception], says: str, tmp_path: Any
) -> None:
    given = {"network": ACTOR, "env": env(), "predict": predicting(ACTOR), **change}
    with pytest.raises(error, match=says):
        export_network(given.pop("network"), given.pop("env"), tmp_path / "p", **given)
    assert not any(tmp_path.iterdir())


def test_an_environment_can_be_given_as_its_description(tmp_path: Any) -> None:
    described = optenv.LearningRateVectorEnv(2, **SHORT).describe()
    path = export_network(ACTOR, described, tmp_path / "p", predict=predicting(ACTOR))
    assert load_policy(path).spec.horizon == 4
