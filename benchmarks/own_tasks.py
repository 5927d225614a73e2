"""How well a policy does on the environment it learned in, against constant multipliers.

Tasks are drawn from the families of the train split under a seed of their own. For every
structure that is drawn, the best of seven constant multipliers (with the policy's own base
schedule) is found on the very runs that the policy is judged on. What is printed is the
return of the policy less that of the best constant, in nats of loss: below 0 while the
agent has not learned what a grid search finds, above 0 once it does better.

    python benchmarks/own_tasks.py --policy runs/ppo_seed0/policy
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
RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
RUNS = 8  # of each structure


def returns(
    policy: Policy,
    family: str,
    base_lr: float,
    arguments: argparse.Namespace,
    *,
    still: bool,
) -> np.ndarray:
    """Mean return of each structure ``[S]``; ``still`` keeps the multiplier at 1."""
    described = policy.description
    action = replace(policy.action, start=0.0) if still else policy.action
    env = optenv.LearningRateVectorEnv(
        RUNS * arguments.structures, groups=arguments.structures, tasks=family,
        rule=described["rule"], action=action, horizon=described["horizon"],
        updates_per_step=tuple(arguments.updates_per_step), spacing=described["spacing"],
        base_lr=base_lr, anytime=policy.anytime, reparametrize=0.7, on_divergence="absorb",
        reward=arguments.reward, autoreset_mode="Disabled",
    )  # fmt: skip
    observation, _ = env.reset(seed=arguments.seed)
    total = np.zeros(env.num_envs)
    for _ in range(described["horizon"]):
        said = policy(torch.from_numpy(observation)).reshape(env.action_space.shape)
        actions = torch.zeros_like(said) if still else said
        observation, reward, *_ = env.step(actions.numpy())
        total += reward
    return total.reshape(-1, RUNS).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", action="append", required=True, help="repeatable")
    parser.add_argument("--lr", type=float, default=1e-3, help="base learning rate")
    parser.add_argument("--reward", default="train", help="train, validation or both")
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
            parser.error(f"{path} has discrete actions; only continuous ones are judged")
        # Policies that share all that a constant depends on share the constants.
        described = policy.description
        game = str([described[key] for key in ("rule", "action", "horizon", "spacing")])
        gaps = {}
        for family in arguments.family or FAMILIES:
            for lr in RATES:
                if (game, family, lr) not in constants:
                    found = returns(policy, family, lr, arguments, still=True)
                    constants[game, family, lr] = found
            best = np.max([constants[game, family, lr] for lr in RATES], axis=0)
            own = returns(policy, family, arguments.lr, arguments, still=False)
            gaps[family] = own - best
        every = np.concatenate(list(gaps.values()))
        parts = ", ".join(f"{name} {gap.mean():+.3f}" for name, gap in gaps.items())
        print(
            f"{path}: return less that of the best constant, {len(every)} structures: "
            f"mean {every.mean():+.3f}, median {statistics.median(every):+.3f}, "
            f"worst {every.min():+.2f}\n    {parts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
