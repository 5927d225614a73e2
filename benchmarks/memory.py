"""Whether a memory pays: three runs of each held-out task, one after the other.

The policy with a memory trains each task three times, from new parameters and on batches
in another order, and keeps its memory in between (``LearnedOptimizer.new_run``). Beside it
are the same policy with the memory cleared before each run, and one without any. All three
get the same parameters and batches.

A run's score is the decrease of log((L + 0.003 L0) / (1.003 L0)), with L the validation loss
and L0 the first one: the return of the environment, on other examples. Means are over
tasks, intervals are of 95 % over tasks, and differences are paired.

    python benchmarks/memory.py --policy rl2 --memoryless runs/memoryless/policy
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from agents import LearnedOptimizer, Policy, load_policy
from agents.evaluation.benchmark import BENCHMARK
from agents.evaluation.problem import HeldoutTask
from optenv import rewards

ARMS = ("memory kept", "memory cleared", "without memory")


def train(task: HeldoutTask, seed: int, optimizer: LearnedOptimizer | None,
          policy: Policy) -> tuple[float, LearnedOptimizer]:  # fmt: skip
    """Score of a run, and the optimizer at its end; None begins without a memory."""
    problem, total = task.build(seed), task.updates
    module = problem.module
    if optimizer is None:
        optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=total)
    else:
        optimizer.new_run(module.parameters(), total_steps=total)
    first = problem.validation_loss(module)
    for t in range(total):
        optimizer.zero_grad()
        loss = problem.loss(module, problem.batch(t))
        loss.backward()
        optimizer.step(loss=loss.detach())
    last = problem.validation_loss(module)
    score = -rewards.potential(torch.tensor([[last]]), torch.tensor([[first]])).item()
    return score, optimizer


def scores(task: HeldoutTask, trials: int, runs: int, policies: Sequence[Policy],
           bar: tqdm) -> np.ndarray:  # fmt: skip
    """Mean score over trials of each arm and run, ``[3, runs]``."""
    found = np.zeros((trials, len(ARMS), runs))
    kept, without = policies
    for trial in range(trials):
        own: list[LearnedOptimizer | None] = [None] * len(ARMS)
        for run in range(runs):
            for arm, policy in enumerate((kept, kept, without)):
                before = own[arm] if arm == 0 else None
                score, own[arm] = train(task, 1000 * trial + run, before, policy)
                found[trial, arm, run] = score
                bar.update()
    return found.mean(0)


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval (Student's) over tasks."""
    spread = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():+.3f} ±{spread:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="with a memory: name or path")
    parser.add_argument("--memoryless", required=True, help="without one")
    parser.add_argument("--updates", type=int, default=200, help="of each run")
    parser.add_argument("--trials", type=int, default=3, help="of each task")
    parser.add_argument("--runs", type=int, default=3, help="of each trial")
    parser.add_argument("--task", action="append", help="repeatable; all 20 by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policies = [load_policy(arguments.policy), load_policy(arguments.memoryless)]
    if not policies[0].memory or policies[1].memory:
        parser.error("--policy needs one with a memory, --memoryless one without")
    chosen = [t for t in BENCHMARK if arguments.task is None or t.name in arguments.task]
    tasks = [task.lasting(arguments.updates / task.updates) for task in chosen]
    total = len(tasks) * arguments.trials * arguments.runs * len(ARMS)
    with warnings.catch_warnings(), tqdm(total=total) as bar:
        warnings.filterwarnings("ignore", "a loss is|total_steps=")
        found = np.stack(
            [scores(t, arguments.trials, arguments.runs, policies, bar) for t in tasks]
        )
    print(
        f"{len(tasks)} tasks, {arguments.trials} trials each, {arguments.updates} updates"
    )
    names = [f"run {i + 1}" for i in range(arguments.runs)]
    print("| task | " + " | ".join(f"{arm}, {n}" for arm in ARMS for n in names) + " |")
    print("|---" * (1 + found[0].size) + "|")
    for task, row in zip(tasks, found, strict=True):
        print(f"| {task.name} | " + " | ".join(f"{v:.3f}" for v in row.flatten()) + " |")
    print()
    for arm, own in zip(ARMS, found.swapaxes(0, 1), strict=True):
        print(f"{arm}: " + ", ".join(interval(own[:, i]) for i in range(arguments.runs)))
    kept, cleared, without = found.swapaxes(0, 1)
    last = arguments.runs - 1
    print(f"last run less first, memory kept: {interval(kept[:, last] - kept[:, 0])}")
    print(f"the same, memory cleared: {interval(cleared[:, last] - cleared[:, 0])}")
    print(f"last run, kept less cleared: {interval(kept[:, last] - cleared[:, last])}")
    print(f"last run, kept less without: {interval(kept[:, last] - without[:, last])}")
    print(f"first run, kept less without: {interval(kept[:, 0] - without[:, 0])}")


if __name__ == "__main__":
    main()
