"""Record runs of a policy, and runs with the base learning rate, and make a report.

python examples/record_policy.py
"""

import gymnasium as gym
import numpy as np
import torch

from agents import load_policy
from optenv.instances import InstanceSet
from optenv.recording import VectorRecorder, read
from optenv.report.__main__ import main as report

FAMILIES, INSTANCES, RUNS = ("logistic/test", "mlp-regression/test"), 4, 4


def make_env(path: str, label: str) -> VectorRecorder:
    """Make a batch of runs on named instances, in which the policy can act."""
    sets = [InstanceSet.sample(name, INSTANCES, base_lr=1e-3) for name in FAMILIES]
    chosen = [instance for each in sets for instance in each]
    batch = gym.make_vec(
        "optenv/LearningRate-v0",
        RUNS * len(chosen),
        instances=chosen,
        groups=len(chosen),  # the runs of a group share an instance
        updates_per_step=3,
        **load_policy("default").environment,
    )
    return VectorRecorder(batch, path, label=label, overwrite=True)


def record_policy(path: str) -> None:
    """Record a run of the policy on each instance and seed."""
    policy = load_policy("default")
    env = make_env(path, "policy default")
    observation, _ = env.reset(seed=0)
    for _ in range(policy.environment["horizon"]):
        with torch.no_grad():
            action = policy(torch.as_tensor(observation)).numpy()
        observation, *_ = env.step(action)
    env.close()


def record_base_rate(path: str) -> None:
    """Record the same runs with only the base learning rate and the schedule.

    The action begins at a log-multiplier of -2, and moves it by 1 at most.
    """
    env = make_env(path, "base rate")
    env.reset(seed=0)
    for step in range(load_policy("default").environment["horizon"]):
        env.step(np.full(env.action_space.shape, float(step < 2), np.float32))
    env.close()


def main() -> None:
    record_policy("policy.parquet")
    record_base_rate("base.parquet")
    table = read("policy.parquet", ["instance", "step", "lr", "loss", "reward"])
    for row in table.slice(0, 3).to_pylist():
        print(row)
    report(["policy.parquet", "base.parquet"])


if __name__ == "__main__":
    main()
