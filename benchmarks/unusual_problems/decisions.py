"""Reinforcement learning: values with a target network, and gradients of policies."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from .problem import Problem, Run, normal, perceptron, uniform

__all__ = ["DECISIONS"]

#: Updates between two copies of a target network.
SYNCHRONISED = 25


def _with_target(network: nn.Module, run: Run, target: nn.Module) -> Run:
    """Let a run copy its network to the target network from time to time."""

    def before_step(step: int, optimizer: Optimizer) -> None:
        if step % SYNCHRONISED == 0:
            target.load_state_dict(network.state_dict())

    run.before_step = before_step
    return run


def chain_values(generator: Generator) -> Run:
    """Learn values of a chain of 15 states by fitted iteration; judged by the true ones.

    Actions go left and right, and one in ten goes wrong. The right end pays 1 for each
    step, the left end 0.3.
    """
    states, discount, slip = 15, 0.9, 0.1
    places = torch.arange(states)
    centres = torch.linspace(0, states - 1, 8)
    features = torch.exp(-(((places[:, None] - centres) / 2) ** 2))
    rewards = torch.zeros(states)
    rewards[0], rewards[-1] = 0.3, 1.0
    network = perceptron(8, 64, 2)
    target = copy.deepcopy(network)

    def moved(state: Tensor, right: Tensor) -> Tensor:
        return (state + 2 * right - 1).clamp(0, states - 1)

    # True values, by iteration over the states and both actions.
    values = torch.zeros(states, 2)
    both = [moved(places, torch.full_like(places, side)) for side in (0, 1)]
    for _ in range(300):
        best = values.max(-1).values
        paid = [rewards[to] + discount * best[to] for to in both]
        values = torch.stack([
            (1 - slip) * paid[0] + slip * paid[1], (1 - slip) * paid[1] + slip * paid[0],
        ], -1)  # fmt: skip

    def loss(step: int) -> Tensor:
        state = torch.randint(states, (64,), generator=generator)
        action = torch.randint(2, (64,), generator=generator)
        wrong = torch.rand(64, generator=generator) < slip
        after = moved(state, torch.where(wrong, 1 - action, action))
        with torch.no_grad():
            future = target(features[after]).max(-1).values
        goal = rewards[after] + discount * future
        predicted = network(features[state]).gather(1, action[:, None])[:, 0]
        return F.smooth_l1_loss(predicted, goal)

    @torch.no_grad()
    def evaluate() -> float:
        return F.mse_loss(network(features), values).item()

    return _with_target(network, Run(network.parameters, loss, evaluate), target)


def policy_evaluation(generator: Generator) -> Run:
    """Learn costs of a linear system under a controller by temporal differences."""
    discount = 0.8
    dynamics = torch.tensor([[0.8, 0.2], [-0.3, 0.7]])
    noise = 0.05
    network = perceptron(2, 64, 64, 1, activation=nn.ReLU)
    target = copy.deepcopy(network)
    # The true cost is x'Px + c, with P = I + discount A'PA.
    matrix = torch.eye(2)
    for _ in range(300):
        matrix = torch.eye(2) + discount * dynamics.T @ matrix @ dynamics
    constant = discount * noise**2 * matrix.trace() / (1 - discount)

    def loss(step: int) -> Tensor:
        state = uniform(generator, 64, 2, low=-1)
        after = state @ dynamics.T + noise * normal(generator, 64, 2)
        with torch.no_grad():
            future = target(after)
        goal = state.square().sum(-1, keepdim=True) + discount * future
        return F.mse_loss(network(state), goal)

    fixed = uniform(generator, 1000, 2, low=-1)
    truth = ((fixed @ matrix) * fixed).sum(-1, keepdim=True) + constant

    @torch.no_grad()
    def evaluate() -> float:
        return F.mse_loss(network(fixed), truth).item()

    return _with_target(network, Run(network.parameters, loss, evaluate), target)


def bandit(generator: Generator) -> Run:
    """Choose among five arms by a context, by REINFORCE; judged by the expected regret."""
    arms = 5
    network = perceptron(4, 32, arms)
    directions = normal(generator, 4, arms)

    def means(contexts: Tensor) -> Tensor:
        return torch.sin(contexts @ directions)

    def loss(step: int) -> Tensor:
        contexts = normal(generator, 128, 4)
        logits = network(contexts)
        pulled = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        rewards = means(contexts).gather(1, pulled) + 0.5 * normal(generator, 128, 1)
        advantages = rewards - rewards.mean()
        return -(advantages * logits.log_softmax(-1).gather(1, pulled)).mean()

    fixed = normal(generator, 1000, 4)
    paid = means(fixed)

    @torch.no_grad()
    def evaluate() -> float:
        expected = (network(fixed).softmax(-1) * paid).sum(-1)
        return (paid.max(-1).values - expected).mean().item()

    return Run(network.parameters, loss, evaluate)


def reaching(generator: Generator) -> Run:
    """Move a point to a goal in eight noisy steps, by the gradient of the policy.

    Judged by the mean distance over the steps, without noise.
    """
    steps, deviation = 8, 0.3
    network = perceptron(4, 32, 2)

    def rollout(places: Tensor, goals: Tensor, explore: bool) -> tuple[Tensor, Tensor]:
        """Return distances and log-probabilities of the moves ``[steps, n]``."""
        distances, log_probabilities = [], []
        for _ in range(steps):
            mean = network(torch.cat([places, goals], -1))
            moves = mean.detach()
            if explore:
                moves = moves + deviation * normal(generator, len(places), 2)
            squares = ((moves - mean) / deviation).square().sum(-1)
            places = places + 0.5 * moves.clamp(-1, 1)
            distances.append((places - goals).norm(dim=-1))
            log_probabilities.append(-0.5 * squares)
        return torch.stack(distances), torch.stack(log_probabilities)

    def starts(n: int) -> tuple[Tensor, Tensor]:
        return uniform(generator, n, 2, low=-1), uniform(generator, n, 2, low=-1)

    def loss(step: int) -> Tensor:
        distances, log_probabilities = rollout(*starts(64), explore=True)
        rest = -distances.flip(0).cumsum(0).flip(0)  # reward from each step on
        advantages = (rest - rest.mean(1, keepdim=True)) / rest.std()
        return -(advantages * log_probabilities).mean()

    fixed = starts(500)

    @torch.no_grad()
    def evaluate() -> float:
        return rollout(*fixed, explore=False)[0].mean().item()

    return Run(network.parameters, loss, evaluate)


DECISIONS: tuple[Problem, ...] = (
    Problem("chain-values", "fitted Q-iteration on a chain, target network", 500,
            chain_values),
    Problem("policy-evaluation", "temporal differences on a linear system", 500,
            policy_evaluation),
    Problem("bandit", "REINFORCE on a bandit with contexts", 400, bandit),
    Problem("reaching", "REINFORCE on reaching a point", 250, reaching),
)  # fmt: skip
