"""CleanRL's style: PPO in one file, on batches of runs; the actor becomes an optimizer.

python examples/with_cleanrl.py
"""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import ClipAction, NormalizeObservation
from torch import nn
from torch.distributions import Normal

from agents import LearnedOptimizer, Normalisation, export_network
from optenv.tasks import MLP
from optenv.telemetry import FEATURES

HORIZON, RUNS, ITERATIONS = 20, 64, 10
EPOCHS, MINIBATCH, CLIP, LAMBDA = 10, 320, 0.2, 0.95


def layers(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(len(FEATURES), 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.Tanh(),
        nn.Linear(64, outputs),
    )


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor_mean, self.critic = layers(1), layers(1)
        self.actor_logstd = nn.Parameter(torch.full((1,), -0.5))
        with torch.no_grad():
            self.actor_mean[-1].weight.mul_(0.01)

    def policy(self, observation: torch.Tensor) -> Normal:
        return Normal(self.actor_mean(observation), self.actor_logstd.exp())


def rollout(envs: gym.vector.VectorEnv, agent: Agent) -> dict[str, torch.Tensor]:
    """Make one whole run in each environment; all are equally long."""
    steps: dict[str, list[torch.Tensor]] = {
        key: [] for key in ("observation", "action", "logprob", "value", "reward")
    }
    observation, _ = envs.reset()
    for _ in range(HORIZON):
        seen = torch.as_tensor(observation, dtype=torch.float32)
        with torch.no_grad():
            action = agent.policy(seen).sample()
            logprob = agent.policy(seen).log_prob(action)[:, 0]
            value = agent.critic(seen)[:, 0]
        observation, reward, *_ = envs.step(action.numpy())
        found = (seen, action, logprob, value, torch.as_tensor(reward).float())
        for values, entry in zip(steps.values(), found, strict=True):
            values.append(entry)
    return {key: torch.stack(values) for key, values in steps.items()}


def advantages(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Estimate advantages ``[T, N]`` (GAE without discount) of runs that end."""
    values = torch.cat([batch["value"], torch.zeros(1, RUNS)])
    errors = batch["reward"] + values[1:] - values[:-1]
    total, found = torch.zeros(RUNS), []
    for error in errors.flip(0):
        total = error + LAMBDA * total
        found.append(total)
    return torch.stack(found[::-1])


def learn(
    agent: Agent, optimizer: torch.optim.Adam, batch: dict[str, torch.Tensor]
) -> None:
    """Update the agent on one rollout, by PPO."""
    advantage = advantages(batch)
    target = (advantage + batch["value"]).flatten()
    advantage = ((advantage - advantage.mean()) / advantage.std()).flatten()
    flat = {key: values.flatten(0, 1) for key, values in batch.items()}
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(target)).split(MINIBATCH):
            seen = flat["observation"][rows]
            logprob = agent.policy(seen).log_prob(flat["action"][rows])[:, 0]
            ratio = (logprob - flat["logprob"][rows]).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            gain = torch.minimum(ratio * advantage[rows], clipped * advantage[rows]).mean()
            error = (agent.critic(seen)[:, 0] - target[rows]).square().mean()
            optimizer.zero_grad()
            (0.5 * error - gain).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def train_network(policy: str) -> None:
    """Train a network with the policy as its optimizer; the learning rate is too low."""
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    inputs = torch.randn(256, 8)
    targets = inputs[:, :1] * inputs[:, 1:2]
    optimizer = LearnedOptimizer(network.parameters(), policy, total_steps=100, lr=1e-4)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    print(f"as an optimizer: loss {losses[0]:.3f} to {losses[-1]:.3f}")


def main() -> None:
    torch.manual_seed(0)
    # 1. The environments, with CleanRL's wrappers for continuous actions
    bare = gym.make_vec(
        "optenv/LearningRate-v0",
        RUNS,
        tasks=MLP(),
        horizon=HORIZON,
        updates_per_step=5,
        base_lr=(1e-5, 1e-2),  # mostly too low: raising it pays
        on_divergence="absorb",
    )
    envs = NormalizeObservation(ClipAction(bare))
    envs.reset(seed=0)

    # 2. Training
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    for iteration in range(1, ITERATIONS + 1):
        batch = rollout(envs, agent)
        print(f"iteration {iteration}: mean return {batch['reward'].sum(0).mean():.3f}")
        learn(agent, optimizer, batch)

    # 3. The actor as a policy, with the statistics of its observations
    mean, variance = envs.obs_rms.mean.copy(), envs.obs_rms.var.copy()

    def predict(observation: np.ndarray) -> torch.Tensor:
        normal = (observation - mean) / np.sqrt(variance + envs.epsilon)
        return agent.actor_mean(torch.as_tensor(normal, dtype=torch.float32))

    export_network(
        agent.actor_mean,
        envs,
        "cleanrl_policy",
        predict=predict,
        normalisation=Normalisation(mean, variance, envs.epsilon),
        algorithm="PPO",
        timesteps=ITERATIONS * HORIZON * RUNS,
    )
    train_network("cleanrl_policy")


if __name__ == "__main__":
    main()
