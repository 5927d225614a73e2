"""TorchRL: PPO on its GymEnv; the actor's layers become an optimizer.

python examples/with_torchrl.py
"""

import gymnasium as gym
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.envs import GymEnv, check_env_specs
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from agents import LearnedOptimizer, export_network
from optenv.tasks import MLP
from optenv.telemetry import FEATURES

HORIZON, EPISODES, ITERATIONS = 10, 24, 8
ENV_ID = "optenv/LearningRate-v0"
ARGUMENTS = {
    "tasks": MLP(),
    "horizon": HORIZON,
    "updates_per_step": 5,
    "base_lr": (1e-5, 1e-2),  # mostly too low: raising it pays
    "on_divergence": "absorb",  # all episodes are equally long
}


def layers(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(len(FEATURES), 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.Tanh(),
        nn.Linear(64, outputs),
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
    torch.manual_seed(0)
    # 1. The environment
    env = GymEnv(ENV_ID, **ARGUMENTS)
    env.set_seed(0)
    check_env_specs(env)

    # 2. Actor, critic and loss: the mean and the deviation of a squashed normal variable
    network = layers(2)
    module = TensorDictModule(
        nn.Sequential(network, NormalParamExtractor()), ["observation"], ["loc", "scale"]
    )
    actor = ProbabilisticActor(
        module,
        spec=env.action_spec,
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        default_interaction_type=InteractionType.RANDOM,  # also in rollouts
        return_log_prob=True,
    )
    critic = ValueOperator(layers(1), ["observation"])
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic, average_gae=True)
    ppo = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0)
    optimizer = torch.optim.Adam(ppo.parameters(), lr=1e-3)

    # 3. Training
    for iteration in range(1, ITERATIONS + 1):
        with torch.no_grad():
            runs = [env.rollout(HORIZON, actor) for _ in range(EPISODES)]
            batch = torch.stack(runs)
            advantage(batch)
        returns = batch["next", "reward"].sum(1)
        print(f"iteration {iteration}: mean return {returns.mean():.3f}")
        flat = batch.reshape(-1)
        for _ in range(10):
            for rows in torch.randperm(len(flat)).split(80):
                losses = ppo(flat[rows])
                loss = losses["loss_objective"] + losses["loss_critic"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(ppo.parameters(), 0.5)
                optimizer.step()

    # 4. The actor as a policy: its mean is the first output, squashed by tanh
    squashed = nn.Sequential(network, nn.Tanh())

    def predict(observation):
        seen = TensorDict(observation=torch.from_numpy(observation))
        return actor.get_dist(seen).deterministic_sample

    export_network(
        squashed,
        gym.make(ENV_ID, **ARGUMENTS),
        "torchrl_policy",
        predict=predict,
        algorithm="PPO",
        timesteps=ITERATIONS * EPISODES * HORIZON,
    )
    train_network("torchrl_policy")


if __name__ == "__main__":
    main()
