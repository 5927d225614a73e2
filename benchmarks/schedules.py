"""A policy on its own environment, against constant actions, schedules and controls.

The runs are of the test split of the families that the policy was trained on. Returns are
in nats of loss; units are structures (network, batch size, length), over which the 95 %
intervals are; differences are paired. Random search has as many control steps as the
policy's training had, on tasks of the training's split; the best constant action is chosen
on the test runs themselves.

    python benchmarks/schedules.py --agent ppo-rules --policy runs/ppo-rules_seed0/policy

Several policies of one environment share the search, whose budget is then the largest.
"""

from __future__ import annotations

import argparse

import torch
from open_loop import Runs, blind, check, compare, random_search
from tqdm import tqdm

from agents import Policy, load_policy
from agents.evaluation.stats.intervals import interval
from agents.rl.factory import env_arguments, preset
from agents.rl.presets import PRESETS


def test_split(tasks: str | list[str]) -> list[str]:
    """Families of a training's tasks, on data that it has not seen."""
    return sorted(
        {f"{name}/test" for name in ([tasks] if isinstance(tasks, str) else tasks)}
    )


def trained(policy: Policy) -> int:
    """Control steps of a policy's training; of several members, of all."""
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
    own = env_arguments(arguments.agent, env_id)
    if arguments.updates_per_step:
        own["updates_per_step"] = tuple(arguments.updates_per_step)
    train = Runs(env_id, own, groups=16, seed=arguments.seed // 2)
    test = Runs(
        env_id, {**own, "tasks": test_split(own["tasks"])}, arguments.groups,
        seed=arguments.seed,
    )  # fmt: skip
    try:
        for policy in policies.values():
            check(test, policy)
    except ValueError as error:
        parser.error(str(error))
    steps = policies[arguments.policy[0]].description["horizon"]
    budget = arguments.budget or max(map(trained, policies.values()))
    each = steps * train.groups * train.of_each
    if arguments.groups < 1 or budget < each:
        parser.error(f"--groups must be at least 1, --budget {each}: one schedule's runs")
    with tqdm(total=budget // each) as bar:
        searched = random_search(train, steps, budget, 0, bar.update)
    others = blind(test, steps, searched)
    print(f"{arguments.groups} structures of {', '.join(test.arguments['tasks'])}")
    for name, policy in policies.items():
        found = compare(test, policy, others)
        print(f"\n{name}\n| arm | return | policy less this |\n|---|---|---|")
        for arm, values in found.items():
            less = "" if arm == "policy" else interval(found["policy"] - values)
            print(f"| {arm} | {interval(values)} | {less} |", flush=True)


if __name__ == "__main__":
    main()
