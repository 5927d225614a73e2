"""Policy gradients equal those of an ordinary loop, and are unbiased."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn

from optenv import core
from optenv.tasks import PolicyGradient
from optenv.tasks.dynamics import SYSTEMS
from optenv.tasks.examples import Batch
from optenv.tasks.policy_gradient import Episodes
from tests.helpers.small_runs import sample_runs

CASES = [
    (system, gradient)
    for system in SYSTEMS
    for gradient in ("reinforce", "pathwise")
    if not (gradient == "pathwise" and SYSTEMS[system].discrete)
]


def batch_of(task: PolicyGradient, runs: int) -> tuple[Tensor, Batch]:
    """Return parameters of runs, and their first batch, in float64."""
    data, params = sample_runs(task, runs)
    updates = torch.zeros(runs, dtype=torch.int64)
    rows = data.batch_rows(updates, 1, task.batch_size)
    noise = data.noise(updates, task.batch_size, task.noise).double()
    return params + 0.3, Batch(*data.batch(rows), noise)


def reference(task: PolicyGradient, params: Tensor, constants: Tensor, noise: Tensor):
    """Compute loss and gradient of one run, episode by episode and step by step."""
    system = SYSTEMS[task.system]
    sizes = [system.observation_size, *[task.width] * task.depth, system.action_size]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    network = nn.Sequential(*layers[:-1]).double()
    trained = [*network.parameters()]
    if not system.discrete:
        trained.append(nn.Parameter(torch.zeros(system.action_size, dtype=torch.float64)))
    nn.utils.vector_to_parameters(params, trained)
    log_probabilities, rewards = [], []
    for numbers in noise:
        state = system.start(numbers[: system.start_size].view(1, 1, -1))
        log_probabilities.append([])
        rewards.append([])
        for step in range(task.steps):
            first = system.start_size + step * system.action_size
            chance = numbers[first : first + system.action_size]
            output = network(system.observe(state)).view(-1)
            if system.discrete:
                law = distributions.Bernoulli(logits=output)
                uniform = distributions.Normal(0.0, 1.0).cdf(chance)
                action = (uniform < output.sigmoid()).double()
            else:
                law = distributions.Normal(output, trained[-1].exp())
                action = output + trained[-1].exp() * chance
            if task.gradient == "reinforce":
                action = action.detach()
            lasts = system.lasts(state).item()
            state, reward = system.step(state, action.view(1, 1, -1), constants)
            log_probabilities[-1].append(lasts * law.log_prob(action).sum())
            rewards[-1].append(reward.view(()))
    mean = torch.stack([torch.stack(each) for each in rewards]).mean()
    if task.gradient == "pathwise":
        surrogate = -mean
    else:
        surrogate = torch.zeros((), dtype=torch.float64)
        count = len(rewards)
        for i, step in itertools.product(range(count), range(task.steps)):
            to_come = [sum(float(r) for r in each[step:]) for each in rewards]
            baseline = (sum(to_come) - to_come[i]) / (count - 1)
            advantage = to_come[i] - baseline
            surrogate = surrogate - advantage * log_probabilities[i][step]
        surrogate = surrogate / (count * task.steps)
    surrogate.backward()
    gradient = torch.cat([p.grad.flatten() for p in trained])
    return -mean.detach(), gradient


@pytest.mark.parametrize(("system", "gradient"), CASES)
def test_loss_and_gradient_equal_those_of_an_ordinary_loop(
    system: str, gradient: str
) -> None:
    task = PolicyGradient(
        system=system, gradient=gradient, steps=12, width=5, depth=2, batch_size=3,
        num_train=8, num_validation=4,
    )  # fmt: skip
    params, batch = batch_of(task, 2)
    if system == "cart-pole":  # so short that some episodes end early
        batch = batch._replace(inputs=batch.inputs * torch.tensor([0.1, 1.0, 1.0]))
    params.requires_grad_()
    losses, _ = task.training_loss(task.unflatten(params), batch, torch.empty(2, 0))
    (gradients,) = torch.autograd.grad(losses.sum(), params)
    if system == "cart-pole":
        assert (losses > -1).all() and (losses < 0).all()
    for run in range(2):
        loss, expected = reference(
            task, params[run].detach(), batch.inputs[run, :1].unsqueeze(0), batch.noise[run]
        )
        torch.testing.assert_close(losses[run].detach(), loss, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients[run], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("system", "gradient"), CASES)
def test_the_loss_is_the_negative_mean_reward(system: str, gradient: str) -> None:
    task = PolicyGradient(system=system, gradient=gradient, steps=10, batch_size=4)
    params, batch = batch_of(task, 3)
    rewards = task.rollout(task.unflatten(params), batch).rewards
    with torch.no_grad():
        alone = task.evaluation_loss(task.unflatten(params), batch, torch.empty(3, 0))
    loss, _ = task.training_loss(task.unflatten(params), batch, torch.empty(3, 0))
    assert rewards.shape == (3, 4, 10)
    torch.testing.assert_close(alone, -rewards.mean((1, 2)))
    torch.testing.assert_close(loss, alone)


def test_reinforce_has_the_pathwise_gradient_as_its_mean() -> None:
    count = 40_000
    means, errors = [], []
    for gradient in ("reinforce", "pathwise"):
        task = PolicyGradient(
            system="reaching", gradient=gradient, steps=4, width=2, batch_size=count,
            num_train=count,
        )  # fmt: skip
        params, batch = batch_of(task, 1)
        # A mass so light that forces matter, and a run for each tenth of the episodes, for
        # the standard error.
        inputs = torch.tensor([0.03, 0.1], dtype=torch.float64).expand(10, count // 10, 2)
        noise = batch.noise.view(10, count // 10, -1)
        batch = Batch(inputs, batch.targets.view(10, -1), noise)
        params = params.expand(10, -1).clone().requires_grad_()
        loss, _ = task.training_loss(task.unflatten(params), batch, torch.empty(10, 0))
        (grad,) = torch.autograd.grad(loss.sum(), params)
        means.append(grad.mean(0))
        errors.append(grad.std(0) / math.sqrt(10))
    difference = (means[0] - means[1]).abs()
    error = (errors[0].square() + errors[1].square()).sqrt()
    assert (difference < 4 * error).all()
    large = means[1].abs() > 10 * error
    assert large.float().mean() > 0.5, "most components are told from 0"


def test_gradient_and_hessian_are_those_of_the_expected_loss() -> None:
    count, steps = 40_000, 6
    task = PolicyGradient(steps=steps, width=2, batch_size=count, num_train=count)
    params, batch = batch_of(task, 1)
    system, network = SYSTEMS["cart-pole"], 2**steps
    # Poles so short that they fall within the episode, all from one state.
    constants = torch.tensor([0.05, 0.1, 1.0], dtype=torch.float64)
    noise = batch.noise.clone()
    noise[..., :4] = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    batch = batch._replace(inputs=constants.expand(1, count, 3), noise=noise)
    params = params.clone().requires_grad_()
    direction = torch.randn(
        params.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def derivatives(loss: Tensor) -> list[Tensor]:
        (grad,) = torch.autograd.grad(loss.sum(), params, create_graph=True)
        (second,) = torch.autograd.grad((grad * direction).sum(), params)
        return [loss.detach(), grad.detach(), second]

    # 1. All sequences of actions, with their probabilities.
    sequences = torch.tensor(list(itertools.product((0.0, 1.0), repeat=steps))).double()
    state = system.start(noise[:, :1, :4]).expand(1, network, -1)
    records = []
    for action in sequences.unbind(1):
        action, before = action.view(1, -1, 1), state
        state, reward = system.step(state, action, constants.expand(1, network, 3))
        records.append((system.observe(before), action, reward, system.lasts(before)))
    episodes = Episodes(*(torch.stack(part, 2) for part in zip(*records, strict=True)))
    everywhere = episodes._replace(lasts=torch.ones_like(episodes.lasts))
    chances = task.log_probabilities(task.unflatten(params), everywhere).sum(-1).exp()
    assert chances.sum().item() == pytest.approx(1.0)
    exact = derivatives(-(chances * episodes.rewards.mean(-1)).sum(-1))
    assert episodes.rewards.min() == 0, "some episodes end early"
    # 2. The estimates.
    loss, _ = task.training_loss(task.unflatten(params), batch, torch.empty(1, 0))
    for estimate, expected in zip(derivatives(loss), exact, strict=True):
        assert (estimate - expected).norm() < 0.05 * expected.norm()


def test_each_update_draws_new_episodes_and_evaluations_the_same() -> None:
    task = PolicyGradient(steps=10, num_train=32, num_validation=32)
    data, params = sample_runs(task, 2)
    examples = data.validation()
    losses = [core.evaluate(task, params, examples, data) for _ in range(2)]
    assert torch.equal(*losses)
    first, second = (
        data.noise(torch.full((2,), update), 8, task.noise) for update in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("split", ["train", "test", "ood"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_runs_draw_their_physics_from_the_ranges_of_the_split(
    system: str, split: str
) -> None:
    task = PolicyGradient(system=system, split=split)
    data, _ = sample_runs(task, 40)
    constants = data.inputs.view(40, 128, -1)
    assert (constants == constants[:, :1]).all(), "a run has one physics"
    for values, (low, high) in zip(
        constants[:, 0].unbind(1), SYSTEMS[system].ranges[split], strict=True
    ):
        assert (values >= low - 1e-6).all() and (values <= high + 1e-6).all()
        assert len(values.unique()) == 40
        assert values.max() / values.min() > (high / low) ** 0.7


def test_a_finished_balance_has_a_zero_gradient_and_a_finite_loss() -> None:
    task = PolicyGradient(steps=3)
    params, batch = batch_of(task, 2)
    params.requires_grad_()
    loss, _ = task.training_loss(task.unflatten(params), batch, torch.empty(2, 0))
    (grad,) = torch.autograd.grad(loss.sum(), params)
    assert (loss == -1).all() and (grad.abs() < 1e-12).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"system": "acrobot"}, "'acrobot'; valid: cart-pole, reaching, pendulum"),
        ({"gradient": "ppo"}, "unknown gradient 'ppo'; valid: reinforce, pathwise"),
        ({"gradient": "pathwise"}, r"\(reaching, pendulum\), got 'cart-pole'"),
        ({"split": "validation"}, "'validation'; valid: train, test, ood"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"width": 2.0}, "width must be a positive integer, got 2.0"),
        ({"depth": 0}, "depth must be a positive integer, got 0"),
        ({"batch_size": 1}, "at least 2, got 1 and 64"),
    ],
)
def test_impossible_structures_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PolicyGradient(**arguments)
