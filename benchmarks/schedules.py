"""A policy on its own environment, against constant actions, schedules and controls.

The runs are of the test split of the families that the policy was trained on. Returns are
in nats of loss; units are structures (network, batch size, length), over which the 95 %
intervals are; differences are paired. Random search has as many control steps as the
policy's training had, on tasks of the training's split; the best constant action is chosen
on the test runs themselves.

    python benchmarks/schedules.py --agent dqn --policy runs/dqn_seed0/policy
"""

from __future__ import annotations

import argparse

import torch
from tqdm import tqdm

from agents import load_policy
from agents.evaluation.results import interval
from agents.evaluation.schedules import Runs, check, compare, random_search
from agents.models import env_arguments, preset
from agents.presets import PRESETS


def test_split(tasks: str | list[str]) -> list[str]:
    """Families of a training's tasks, on data that it has not seen."""
    return sorted(
        {f"{name}/test" for name in ([tasks] if isinstance(tasks, str) else tasks)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--agent", choices=[n for n in PRESETS if n != "rl2"], required=True
    )
    parser.add_argument("--policy", required=True, help="of that agent: name or path")
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
    policy = load_policy(arguments.policy)
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
        check(test, policy)
    except ValueError as error:
        parser.error(str(error))
    members = len(policy.description.get("seeds", [0]))
    budget = arguments.budget or policy.description["timesteps"] * members
    steps = policy.description["horizon"]
    each = steps * train.groups * train.of_each
    if arguments.groups < 1 or budget < each:
        parser.error(f"--groups must be at least 1, --budget {each}: one schedule's runs")
    with tqdm(total=budget // each) as bar:
        searched = random_search(train, steps, budget, 0, bar.update)
    found = compare(test, policy, searched)
    print(f"{arguments.groups} structures of {', '.join(test.arguments['tasks'])}")
    print("| arm | return | policy less this |\n|---|---|---|")
    for name, values in found.items():
        less = "" if name == "policy" else interval(found["policy"] - values)
        print(f"| {name} | {interval(values)} | {less} |")


if __name__ == "__main__":
    main()
