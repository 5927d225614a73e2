"""A policy in its own environment against open-loop arms: constants, schedules, controls.

    python benchmarks/schedules.py --agent ppo-rules --policy runs/ppo-rules_seed0/policy

Measures the return on tasks of the test split of the families that the policy was trained
on. Half an hour with ``--groups 32``; ``--budget`` makes it shorter. Several policies of
one environment share the random search, whose budget is then the largest.

How to read it: returns are in nats of loss, higher is better. The third column is the
paired difference, policy less arm: above 0 the policy is better. Intervals are 95 % t
intervals over structures (network, batch size, length).

- *untrained*: the same network with a training's initial weights.
- *same actions, shuffled over runs*: the policy's actions of each step, permuted over runs.
  If the policy is better, it reacts to its run.
- *its mean schedule*: the mean log-multiplier of each step (and the most frequent rule).
- *best constant action*: chosen on the test runs themselves, which favours it.
- *best of random schedules*: found with as many control steps as the policy's training had,
  on tasks of the training's split.
"""

from __future__ import annotations

import argparse

import torch
from open_loop import Runs, check, compare, open_loop_returns, random_search

from agents import Policy, load_policy
from agents.evaluation.stats.intervals import interval
from agents.rl.factory import env_arguments, preset
from agents.rl.presets import PRESETS
from agents.utils.progress import progress_bar


def test_split(tasks: str | list[str]) -> list[str]:
    """Return the families of a training's tasks, on the test split of their data."""
    return sorted(
        {f"{name}/test" for name in ([tasks] if isinstance(tasks, str) else tasks)}
    )


def training_steps(policy: Policy) -> int:
    """Return the control steps of a policy's training, of all its members."""
    return policy.description["timesteps"] * len(policy.description.get("seeds", [0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--agent", choices=[n for n in PRESETS if n != "rl2"], required=True
    )
    parser.add_argument("--policy", action="append", required=True, metavar="POLICY",
                        help="of that agent's environment; repeatable")  # fmt: skip
    parser.add_argument("--groups", type=int, default=64, help="structures")
    parser.add_argument("--seed", type=int, default=100_000, help="of the test runs")
    parser.add_argument(
        "--budget",
        type=int,
        help="control steps of the random search; "
        "as many as the policy's training had by default",
    )
    parser.add_argument("--updates-per-step", type=float, nargs=2,
                        metavar=("LOW", "HIGH"), help="instead of the agent's: "
                        "how long runs are")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policies = {name: load_policy(name) for name in arguments.policy}
    env_id = preset(arguments.agent)["env_id"]
    env_args = env_arguments(arguments.agent, env_id)
    if arguments.updates_per_step:
        env_args["updates_per_step"] = tuple(arguments.updates_per_step)
    train = Runs(env_id, env_args, groups=16, seed=arguments.seed // 2)
    test = Runs(
        env_id, {**env_args, "tasks": test_split(env_args["tasks"])}, arguments.groups,
        seed=arguments.seed,
    )  # fmt: skip
    try:
        for policy in policies.values():
            check(test, policy)
    except ValueError as error:
        parser.error(str(error))
    steps = policies[arguments.policy[0]].description["horizon"]
    budget = arguments.budget or max(map(training_steps, policies.values()))
    trial_steps = steps * train.groups * train.of_each
    if arguments.groups < 1 or budget < trial_steps:
        parser.error(
            f"--groups must be at least 1, --budget {trial_steps}: one schedule's runs"
        )
    with progress_bar(budget // trial_steps, "random search", unit="schedule") as advance:
        searched = random_search(train, steps, budget, 0, advance)
    others = open_loop_returns(test, steps, searched)
    print(f"{arguments.groups} structures of {', '.join(test.arguments['tasks'])}")
    for name, policy in policies.items():
        by_arm = compare(test, policy, others)
        print(f"\n{name}\n| arm | return | policy less this |\n|---|---|---|")
        for arm, values in by_arm.items():
            less = "" if arm == "policy" else interval(by_arm["policy"] - values)
            print(f"| {arm} | {interval(values)} | {less} |", flush=True)


if __name__ == "__main__":
    main()
