"""Gain by passing validation losses to a policy, on tasks where a network overfits.

    python benchmarks/validated.py --policy default
    python benchmarks/validated.py --policy runs/default_seed0/policy --tasks few --seeds 5

Trains on the tasks of ``few_examples.py`` and on the selection tasks of at most 1,000
updates: with AdamW's default, with a policy (*blind*), and with the same policy that gets
losses on one half of the validation examples at regular intervals, by
``optimizer.validated(loss)`` (*told*). Losses are compared on the other half, which no
optimizer sees.

How to read it: lower is better. *early* is the lowest of AdamW's losses at the same
intervals, as if AdamW were stopped at the right time with hindsight. Columns of differences
are in % of AdamW's decrease from the initial to its lowest loss; mean over seeds, ± the
half-width of the 95 % t interval. *told* minus *blind* is the effect of the validation
losses. Fifteen minutes of CPU time with three seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from few_examples import FEW_EXAMPLES
from torch import Tensor, nn

from agents import LearnedOptimizer, load_policy
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.selection import SELECTION
from optenv.intervals import interval

__all__ = ["TASKS", "Finals", "compare", "finals", "train"]

#: Validation losses that an optimizer is told in a run.
TOLD = 20

#: Tasks by the value of ``--tasks``.
TASKS: dict[str, list[HeldoutTask]] = {
    "few": list(FEW_EXAMPLES),
    "short": [task for task in SELECTION if task.updates <= 1000],
}

Make = Callable[[nn.Module, int], torch.optim.Optimizer]


class Finals(NamedTuple):
    """Losses of one seed on the examples that no optimizer gets to know.

    Attributes:
        initial: before training.
        adamw, early: of AdamW, at the end and at its lowest.
        blind, told: of the policy, without and with validation losses.
    """

    initial: float
    adamw: float
    early: float
    blind: float
    told: float


def train(task: HeldoutTask, seed: int, make: Make, told: bool) -> list[float]:
    """Train once; return the losses on the untold half, before and at each interval.

    Args:
        task: the task.
        seed: seed of the task.
        make: makes the optimizer of a model and a number of steps.
        told: whether the optimizer gets validation losses.
    """
    problem = task.build(seed)
    module, (inputs, targets) = problem.module, problem.validation
    # Examples in turn, since those of some tasks are sorted.
    halves = [(inputs[i::2], targets[i::2]) for i in range(2)]

    def loss_on(half: tuple[Tensor, Tensor]) -> float:
        module.eval()
        with torch.no_grad():
            loss = task.objective(module(half[0]), half[1]).item()
        module.train()
        return loss

    optimizer = make(module, task.updates)
    every = max(1, task.updates // TOLD)
    losses = [loss_on(halves[1])]
    for t in range(task.updates):
        optimizer.zero_grad()
        loss = problem.loss(module, problem.batch(t))
        loss.backward()
        if isinstance(optimizer, LearnedOptimizer):
            optimizer.step(loss=loss.detach())
        else:
            optimizer.step()
        if (t + 1) % every == 0 or t + 1 == task.updates:
            losses.append(loss_on(halves[1]))
            if told and isinstance(optimizer, LearnedOptimizer):
                optimizer.validated(loss_on(halves[0]))
    return losses


def finals(task: HeldoutTask, seed: int, policy: str) -> Finals:
    """Train a task at a seed with all optimizers."""
    loaded = load_policy(policy)

    def learned(module: nn.Module, steps: int) -> torch.optim.Optimizer:
        return LearnedOptimizer(module.parameters(), loaded, total_steps=steps)

    def adamw(module: nn.Module, steps: int) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters())

    of_adamw = train(task, seed, adamw, told=False)
    blind = train(task, seed, learned, told=False)[-1]
    told = train(task, seed, learned, told=True)[-1]
    return Finals(of_adamw[0], of_adamw[-1], min(of_adamw), blind, told)


def compare(task: HeldoutTask, found: Sequence[Finals]) -> str:
    """Format the losses on a task, and their differences in % of AdamW's way."""
    means = [sum(values) / len(found) for values in zip(*found, strict=True)]
    line = f"{task.name:22s} " + " ".join(f"{value:9.4g}" for value in means)
    for pair in (("blind", "early"), ("told", "early"), ("told", "blind")):
        gaps = []
        for each in found:
            way = each.initial - each.early
            first, second = (getattr(each, name) for name in pair)
            gaps.append(100 * (first - second) / way)
        line += f"  {_with_interval(gaps):>15s}"
    return line


def _with_interval(values: Sequence[float]) -> str:
    found = interval(values)
    return f"{found.mean:+.1f} ±{found.half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="default", help="name or path of a policy")
    parser.add_argument("--tasks", choices=TASKS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {arguments.seeds}")
    torch.set_num_threads(1)
    chosen = [arguments.tasks] if arguments.tasks else list(TASKS)
    tasks = [task for name in chosen for task in TASKS[name]]
    names = " ".join(f"{name:>9s}" for name in Finals._fields)
    print(f"{'task':22s} {names}  {'blind - early':>15s}  {'told - early':>15s}  "
          f"{'told - blind':>15s}")  # fmt: skip
    for task in tasks:
        found = [finals(task, seed, arguments.policy) for seed in range(arguments.seeds)]
        print(compare(task, found), flush=True)


if __name__ == "__main__":
    main()
