"""Return of a policy in its own environment, minus the best constant multiplier's.

    python benchmarks/own_tasks.py --policy runs/ppo_seed0/policy

Measures whether a policy is at least as good as a grid search. Tasks are drawn from the
families of the train split, with a separate seed. For every structure, the best of seven
constant multipliers (with the policy's base schedule) is selected on the same runs that the
policy makes, which favours the multiplier. A few minutes; ``--structures`` and
``--updates-per-step`` make it shorter or longer.

How to read it: the difference is in nats of loss, with mean, median and worst over
structures, and the mean of each family. Below 0 the policy is worse than the grid search;
above 0 it is better.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import numpy as np
import torch

import optenv
from agents import Policy, load_policy

FAMILIES = ("mlp-classification", "mlp-regression", "digits", "language")
#: Constant learning rates to try.
RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
RUNS_PER_STRUCTURE = 8


def returns(
    policy: Policy,
    family: str,
    base_lr: float,
    arguments: argparse.Namespace,
    *,
    constant: bool,
) -> np.ndarray:
    """Return the mean return of each structure ``[S]``; ``constant`` ignores the policy."""
    action = replace(policy.action, start=0.0) if constant else policy.action
    env = optenv.LearningRateVectorEnv(
        RUNS_PER_STRUCTURE * arguments.structures,
        groups=arguments.structures, tasks=family,
        updates_per_step=tuple(arguments.updates_per_step), base_lr=base_lr,
        reparametrize=0.7, on_divergence="absorb", objective=arguments.objective,
        autoreset_mode="Disabled", **policy.environment | {"action": action},
    )  # fmt: skip
    observation, _ = env.reset(seed=arguments.seed)
    total = np.zeros(env.num_envs)
    for _ in range(policy.environment["horizon"]):
        actions = policy(torch.from_numpy(observation)).reshape(env.action_space.shape)
        if constant:
            actions = torch.zeros_like(actions)
        observation, reward, *_ = env.step(actions.numpy())
        total += reward
    return total.reshape(-1, RUNS_PER_STRUCTURE).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", action="append", required=True, help="repeatable")
    parser.add_argument("--lr", type=float, default=1e-3, help="base learning rate")
    parser.add_argument("--objective", default="train", help="train, validation or both")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="repeatable")
    parser.add_argument("--updates-per-step", type=float, nargs=2, default=(2, 16))
    parser.add_argument("--structures", type=int, default=10, help="of each family")
    parser.add_argument("--seed", type=int, default=991)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    constants: dict[tuple[object, ...], np.ndarray] = {}
    for path in arguments.policy:
        policy = load_policy(path)
        if isinstance(policy.action, optenv.actions.Discrete):
            parser.error(f"{path} has discrete actions; give a continuous policy")
        # Constants are cached, by everything that their returns depend on.
        environment = str(policy.environment)
        gaps = {}
        for family in arguments.family or FAMILIES:
            for lr in RATES:
                key = (environment, family, lr)
                if key not in constants:
                    constants[key] = returns(policy, family, lr, arguments, constant=True)
            best = np.max([constants[environment, family, lr] for lr in RATES], axis=0)
            own = returns(policy, family, arguments.lr, arguments, constant=False)
            gaps[family] = own - best
        differences = np.concatenate(list(gaps.values()))
        parts = ", ".join(f"{name} {gap.mean():+.3f}" for name, gap in gaps.items())
        print(
            f"{path}: return less that of the best constant, {len(differences)} "
            f"structures: mean {differences.mean():+.3f}, "
            f"median {statistics.median(differences):+.3f}, "
            f"worst {differences.min():+.2f}\n    {parts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
