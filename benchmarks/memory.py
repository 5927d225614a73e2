"""Effect of a policy's memory over three runs of each held-out task, one after another.

    python benchmarks/memory.py --policy rl2 --memoryless runs/memoryless_seed0/policy

Measures whether a policy with a memory (an LSTM) does better on the second and third run of
a task than on the first. It trains each task three times, from new parameters and on other
batches, and keeps its memory in between (``LearnedOptimizer.new_run``). It is compared with
the same policy with the memory cleared before each run, and with a policy without memory.
There are as many trials as runs, and each set of parameters and batches comes first in one
trial, second in another and third in another, so that differences between the runs are not
due to them. A few minutes for all twenty tasks; ``--lr`` and ``--repeats`` multiply that.

How to read it: the score of a run is the decrease of log((L + 0.003 L0) / (1.003 L0)), with
the validation loss L and the initial validation loss L0. It is the return of the
environment, on other examples; higher is better. The table has a line for each task; below
it are means over tasks and paired differences, with 95 % t intervals over tasks. A memory
helps if *last run less memory cleared* and *last run less without memory* are above 0.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import torch

from agents import LearnedOptimizer, Policy, load_policy
from agents.evaluation.stats.intervals import interval
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.suites import SUITES
from agents.optim.roles import groups_for
from agents.utils.progress import progress_bar
from optenv import rewards

ARMS = ("memory kept", "memory cleared", "without memory")


def train(
    task: HeldoutTask,
    seed: int,
    policy: Policy,
    optimizer: LearnedOptimizer | None,
    lr: float | None,
) -> tuple[float, LearnedOptimizer]:
    """Make one run.

    Args:
        task: held-out task.
        seed: seed of parameters and batches.
        policy: policy of a new optimizer.
        optimizer: optimizer that keeps its memory; None makes a new one.
        lr: base learning rate; None takes the policy's.

    Returns:
        The score of the run, and the optimizer at its end.
    """
    problem, total = task.build(seed), task.updates
    module = problem.module
    params = groups_for(module, 0.0) if policy.action.roles else module.parameters()
    if optimizer is None:
        optimizer = LearnedOptimizer(params, policy, lr=lr, total_steps=total)
    else:
        optimizer.new_run(params)
    first = problem.validation_loss(module)
    for t in range(total):
        optimizer.zero_grad()
        loss = problem.loss(module, problem.batch(t))
        loss.backward()
        optimizer.step(loss=loss.detach())
    last = problem.validation_loss(module)
    score = -rewards.potential(torch.tensor([[last]]), torch.tensor([[first]])).item()
    return score, optimizer


def scores(
    task: HeldoutTask,
    seed: int,
    runs: int,
    lr: float | None,
    policy: Policy,
    memoryless: Policy,
    advance: Callable[..., object],
) -> np.ndarray:
    """Return the mean score over the trials of each arm and run, ``[3, runs]``."""
    seeds = [seed + i for i in range(runs)]
    kept = np.zeros((runs, runs))
    for trial in range(runs):
        optimizer = None
        for run in range(runs):
            run_seed = seeds[(trial + run) % runs]
            kept[trial, run], optimizer = train(task, run_seed, policy, optimizer, lr)
            advance()
    # Without a memory, a run does not depend on its place in the trial.
    cleared = np.mean([train(task, each, policy, None, lr)[0] for each in seeds])
    without = np.mean([train(task, each, memoryless, None, lr)[0] for each in seeds])
    advance(2 * runs)
    return np.stack([kept.mean(0), np.full(runs, cleared), np.full(runs, without)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="with a memory: name or path")
    parser.add_argument("--memoryless", required=True, help="without one")
    parser.add_argument("--updates", type=int, default=100, help="of each run")
    parser.add_argument("--lr", action="append", type=float, metavar="RATE",
                        help="base learning rate; repeatable, scores are means over all; "
                        "by default that of the policies")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=1, help="of all, on other seeds")
    parser.add_argument("--runs", type=int, default=3, help="of each trial")
    parser.add_argument("--suite", choices=SUITES, default="benchmark")
    names = [task.name for suite in SUITES.values() for task in suite]
    parser.add_argument("--task", action="append", choices=names, metavar="NAME",
                        help="repeatable; all of the suite by default")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policies = [load_policy(arguments.policy), load_policy(arguments.memoryless)]
    if not policies[0].memory or policies[1].memory:
        parser.error("--policy needs one with a memory, --memoryless one without")
    if min(arguments.runs, arguments.repeats, arguments.updates) < 1:
        parser.error("--runs, --repeats and --updates must be at least 1")
    suite = SUITES[arguments.suite]
    chosen = [t for t in suite if arguments.task is None or t.name in arguments.task]
    if not chosen:
        parser.error(f"no task of the suite is {' or '.join(arguments.task)}")
    tasks = [task.lasting(arguments.updates / task.updates) for task in chosen]
    runs, seeds = arguments.runs, [1000 * i for i in range(arguments.repeats)]
    settings = list(product(seeds, [runs], arguments.lr or [None]))
    total = len(tasks) * len(settings) * runs * (runs + 2)
    with warnings.catch_warnings(), progress_bar(total, "trials") as advance:
        warnings.filterwarnings("ignore", "a loss is|total_steps=")
        by_task = np.stack(
            [
                np.mean([scores(t, *s, *policies, advance) for s in settings], 0)
                for t in tasks
            ]
        )
    trials = runs * len(settings)
    print(f"{len(tasks)} tasks of {arguments.updates} updates, {trials} trials")
    names = [f"run {i + 1}" for i in range(runs)]
    print("| task | " + " | ".join([*names, *ARMS[1:]]) + " |")
    print("|---" * (3 + runs) + "|")
    for task, row in zip(tasks, by_task, strict=True):
        values = [*row[0], row[1, 0], row[2, 0]]
        print(f"| {task.name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    kept, cleared, without = by_task.swapaxes(0, 1)
    print()
    for name, values in zip(names, kept.T, strict=True):
        print(f"{name}: {interval(values)}")
    for name, values in zip(ARMS[1:], (cleared[:, 0], without[:, 0]), strict=True):
        print(f"{name}: {interval(values)}")
    print(f"last run less the first: {interval(kept[:, -1] - kept[:, 0])}")
    print(f"last run less {ARMS[1]}: {interval(kept[:, -1] - cleared[:, -1])}")
    print(f"last run less {ARMS[2]}: {interval(kept[:, -1] - without[:, -1])}")
    print(f"first run less {ARMS[2]}: {interval(kept[:, 0] - without[:, 0])}")


if __name__ == "__main__":
    main()
