"""RLlib: PPO learns on batches of runs in another process; its actor becomes an optimizer.

python examples/with_rllib.py
"""

import gymnasium as gym
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from torch import nn

from agents import LearnedOptimizer, export_network
from optenv.tasks import MLP

HORIZON, RUNS = 20, 32
EPISODES = 2 * RUNS  # between two updates of the policy

#: Arguments of make_vec. The base learning rate is mostly too low: raising it pays.
ARGUMENTS = {
    "tasks": MLP(),
    "horizon": HORIZON,
    "updates_per_step": 5,
    "base_lr": (1e-5, 1e-2),
    "on_divergence": "absorb",  # all episodes are equally long
}

config = (
    PPOConfig()
    .environment(
        # The prefix makes every process import optenv, which registers the id.
        "optenv:optenv/LearningRate-v0",
        env_config=ARGUMENTS,
    )
    .env_runners(
        num_env_runners=1,
        num_envs_per_env_runner=RUNS,
        # One batch of tensors; by default, RLlib would step single environments in turn.
        gym_env_vectorize_mode="vector_entry_point",
    )
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
    .training(
        train_batch_size=EPISODES * HORIZON,
        minibatch_size=320,
        num_epochs=10,
        lr=5e-4,
        gamma=1.0,
        lambda_=0.95,
    )
    .reporting(metrics_num_episodes_for_smoothing=EPISODES)  # those of one iteration
    .debugging(seed=0)
)


def export(algorithm, path: str) -> None:
    """Export the actor as a policy: its encoder, and the first output of its head."""
    module = algorithm.get_module()
    encoder, head = module.encoder.encoder.net.mlp, module.pi.net.mlp
    make_distribution = module.get_inference_action_dist_cls().from_logits

    def predict(observation):
        batch = {Columns.OBS: torch.from_numpy(observation)}
        logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
        return make_distribution(logits).to_deterministic().sample()

    export_network(
        nn.Sequential(encoder, head),
        gym.make("optenv/LearningRate-v0", **ARGUMENTS),
        path,
        predict=predict,
        algorithm="PPO",
    )


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
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        algorithm = config.build_algo()
        for iteration in range(1, 11):
            sampled = algorithm.train()["env_runners"]
            print(
                f"iteration {iteration}: {sampled['num_episodes']} episodes, "
                f"mean return {sampled['episode_return_mean']:.3f}"
            )
        export(algorithm, "rllib_policy")
        algorithm.stop()
    finally:
        ray.shutdown()
    train_network("rllib_policy")


if __name__ == "__main__":
    main()
