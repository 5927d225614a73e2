"""Whether a memory pays: three runs of each held-out task, one after the other.

A policy with a memory trains each task three times, from new parameters and on batches in
another order, and keeps its memory in between (``LearnedOptimizer.new_run``). Beside it are
the same policy with the memory cleared before each run, and one without any. There are as
many trials as runs, in which the same parameters and batches come first, second and third:
whatever differs between the runs is not theirs.

A run's score is the decrease of log((L + 0.003 L0) / (1.003 L0)), with L the validation
loss and L0 the first one: the return of the environment, on other examples. Means are over
tasks, intervals are of 95 % over tasks, and differences are paired.

    python benchmarks/memory.py --policy rl2 --memoryless runs/memoryless_seed0/policy
"""

from __future__ import annotations

import argparse
import warnings
from itertools import product

import numpy as np
import torch
from tqdm import tqdm

from agents import LearnedOptimizer, Policy, load_policy
from agents.evaluation.stats.intervals import interval
from agents.evaluation.tasks.benchmark import BENCHMARK
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.selection import SELECTION
from optenv import rewards

SUITES = {"benchmark": BENCHMARK, "selection": SELECTION}
ARMS = ("memory kept", "memory cleared", "without memory")


def train(
    task: HeldoutTask,
    seed: int,
    policy: Policy,
    optimizer: LearnedOptimizer | None,
    lr: float | None,
) -> tuple[float, LearnedOptimizer]:
    """Score of a run, and the optimizer at its end; None begins without a memory."""
    problem, total = task.build(seed), task.updates
    module = problem.module
    if optimizer is None:
        optimizer = LearnedOptimizer(module.parameters(), policy, lr=lr, total_steps=total)
    else:
        optimizer.new_run(module.parameters())
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
    bar: tqdm,
) -> np.ndarray:
    """Mean score over the trials, of each arm and run, ``[3, runs]``."""
    seeds = [seed + i for i in range(runs)]
    kept = np.zeros((runs, runs))
    for trial in range(runs):
        optimizer = None
        for run in range(runs):
            own = seeds[(trial + run) % runs]
            kept[trial, run], optimizer = train(task, own, policy, optimizer, lr)
            bar.update()
    # Without a memory, a run does not depend on its place in the trial.
    cleared = np.mean([train(task, own, policy, None, lr)[0] for own in seeds])
    without = np.mean([train(task, own, memoryless, None, lr)[0] for own in seeds])
    bar.update(2 * runs)
    return np.stack([kept.mean(0), np.full(runs, cleared), np.full(runs, without)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="with a memory: name or path")
    parser.add_argument("--memoryless", required=True, help="without one")
    parser.add_argument("--updates", type=int, default=100, help="of each run")
    parser.add_argument("--lr", action="append", type=float, metavar="RATE",
                        help="base learning rate; repeatable: the mean over all is scored; "
                        "by default that of the policies")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=1, help="of all, on other seeds")
    parser.add_argument("--runs", type=int, default=3, help="of each trial")
    parser.add_argument("--suite", choices=SUITES, default="benchmark")
    names = [task.name for suite in SUITES.values() for task in suite]
    parser.add_argument("--task", action="append", choices=names, metavar="NAME",
                        help="repeatable; all of the suite by default")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    own = [load_policy(arguments.policy), load_policy(arguments.memoryless)]
    if not own[0].memory or own[1].memory:
        parser.error("--policy needs one with a memory, --memoryless one without")
    if min(arguments.runs, arguments.repeats, arguments.updates) < 1:
        parser.error("--runs, --repeats and --updates must be at least 1")
    suite = SUITES[arguments.suite]
    chosen = [t for t in suite if arguments.task is None or t.name in arguments.task]
    if not chosen:
        parser.error(f"no task of the suite is {' or '.join(arguments.task)}")
    tasks = [task.lasting(arguments.updates / task.updates) for task in chosen]
    runs, seeds = arguments.runs, [1000 * i for i in range(arguments.repeats)]
    each = list(product(seeds, [runs], arguments.lr or [None]))
    total = len(tasks) * len(each) * runs * (runs + 2)
    with warnings.catch_warnings(), tqdm(total=total) as bar:
        warnings.filterwarnings("ignore", "a loss is|total_steps=")
        found = np.stack(
            [np.mean([scores(t, *one, *own, bar) for one in each], 0) for t in tasks]
        )
    print(f"{len(tasks)} tasks of {arguments.updates} updates, {runs * len(each)} trials")
    names = [f"run {i + 1}" for i in range(runs)]
    print("| task | " + " | ".join([*names, *ARMS[1:]]) + " |")
    print("|---" * (3 + runs) + "|")
    for task, row in zip(tasks, found, strict=True):
        values = [*row[0], row[1, 0], row[2, 0]]
        print(f"| {task.name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    kept, cleared, without = found.swapaxes(0, 1)
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
