"""Policies, and the rule of ``default`` without a policy, on the selection tasks.

    python benchmarks/selection.py default runs/default_seed0/policy@2e-2
    python benchmarks/selection.py lr=2e-2 lr=2e-2,constant=0.7 lr=2e-2,output=0.3 --seeds 2

Trains the selection tasks of at most ``--updates`` updates with each arm. An arm is a
policy, by its name or path, with ``@`` and a base learning rate if it is not the policy's
own; or settings of the rule ``orthogonal-adam`` without a policy (the hyperparameters of
``default`` where none are given):

- *lr*: the learning rate; *constant*: the fraction of the run for which it is constant,
  after which it falls to 0 as a *power* (1 is linear); *rise*: the fraction of the warm-up;
- *matrices*, *output*, *embeddings*, *vectors*: factors of the rates of these roles;
- *weight_decay*: weight decay of matrices and output layer;
- *average*: fraction of the run, at its end, over which parameters are averaged;
- *beta1*, *beta2*, *power_of_beta2*: hyperparameters of the rule.

How to read it: final validation loss minus the first arm's, in % of the first arm's
decrease from the initial loss; below 0 is better than the first. Means over seeds, with the
same initial parameters and batches; the last column is the mean over tasks. A second or two
of CPU time for each seed and short task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import fmean

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.arms.optimizers import OrthogonalAdam
from agents.evaluation.runs.run import train
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.selection import SELECTION
from agents.optim.roles import groups_for
from agents.rl.presets import RULE
from agents.utils.progress import progress_bar

__all__ = ["RuleSetting", "compare", "read_arm", "table"]

#: Trains a task at a seed and returns its initial and its final validation loss.
Arm = Callable[[HeldoutTask, int], tuple[float, float]]


@dataclass(frozen=True)
class RuleSetting:
    """Settings of the rule without a policy; see the docstring of the module."""

    lr: float
    constant: float = 0.0
    power: float = 1.0
    rise: float = 0.0
    matrices: float = 1.0
    output: float = 1.0
    embeddings: float = 1.0
    vectors: float = 1.0
    weight_decay: float = 0.0
    average: float = 0.0
    beta1: float | None = None
    beta2: float | None = None
    power_of_beta2: float | None = None

    def schedule(self, progress: float) -> float:
        """Return the factor of the learning rate at a part of the run."""
        rising = min(1.0, progress / self.rise) if self.rise else 1.0
        falling = max(0.0, progress - self.constant) / (1.0 - self.constant)
        return min(rising, (1.0 - falling) ** self.power)

    def rule(self) -> dict[str, object]:
        """Return the rule with its hyperparameters."""
        names = {"beta1": "beta1", "beta2": "beta2", "power_of_beta2": "power"}
        given = {rule: getattr(self, name) for name, rule in names.items()}
        return RULE | {name: value for name, value in given.items() if value is not None}

    def __call__(self, task: HeldoutTask, seed: int) -> tuple[float, float]:
        """Train a task; return its initial and its final validation loss."""
        problem, total = task.build(seed), task.updates
        module = problem.module
        initial = problem.validation_loss(module)
        optimizer = OrthogonalAdam(groups_for(module, 0.0), self.lr, self.rule())
        full = [self.lr * getattr(self, group["name"]) for group in optimizer.param_groups]
        averaged = None
        for t in range(total):
            for group, lr in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = lr * self.schedule(t / total)
                if self.weight_decay and group["name"] in ("matrices", "output"):
                    shrink(group["params"], group["lr"] * self.weight_decay)
            optimizer.zero_grad()
            problem.loss(module, problem.batch(t)).backward()
            optimizer.step()
            if self.average and t >= total * (1.0 - self.average):
                averaged = averaged or AveragedModel(module, use_buffers=True)
                averaged.update_parameters(module)
        return initial, problem.validation_loss(averaged.module if averaged else module)


@torch.no_grad()
def shrink(params: list[Tensor], part: float) -> None:
    """Take a part off all parameters."""
    for p in params:
        p.mul_(1.0 - part)


def path_and_rate(text: str) -> tuple[str, float | None]:
    """Divide the argument of a policy; ``default@0.1`` is that of version 0.1."""
    path, at, lr = text.rpartition("@")
    return (path, float(lr)) if at and lr != "0.1" else (text, None)


def policy_arm(path: str, lr: float | None) -> Arm:
    """Return what trains with a policy, at its own base learning rate by default."""
    arm = learned_arm(path, path, lr=lr)

    def run(task: HeldoutTask, seed: int) -> tuple[float, float]:
        row = train(arm, task, seed, curve_points=1)
        return row["initial_validation_loss"], row["validation_loss"]

    return run


def read_arm(text: str) -> Arm:
    """Read an argument of the command.

    Raises:
        ValueError: it is neither a policy nor settings of the rule.
        OSError: the policy's file cannot be read.
    """
    if "=" not in text:
        return policy_arm(*path_and_rate(text))
    valid = [each.name for each in fields(RuleSetting)]
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in valid:
            raise ValueError(f"unknown setting {name!r}; valid: {', '.join(valid)}")
        try:
            given[name] = float(value)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {value!r}") from None
    setting = replace(RuleSetting(given.get("lr", 2e-2)), **given)
    for name in ("constant", "rise", "average"):
        if not 0.0 <= getattr(setting, name) < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(setting, name)!r}")
    return setting


def compare(
    arms: dict[str, Arm], tasks: list[HeldoutTask], seeds: int
) -> dict[str, dict[str, float]]:
    """Train all tasks with all arms.

    Returns:
        By arm and task the difference to the first arm, in % of its way; mean over seeds.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in arms}
    with progress_bar(len(arms) * len(tasks) * seeds, "selection tasks") as advance:
        for task in tasks:
            gaps: dict[str, list[float]] = {name: [] for name in arms}
            for seed in range(seeds):
                reference = None
                for name, arm in arms.items():
                    initial, final = arm(task, seed)
                    reference = final if reference is None else reference
                    gaps[name].append(100 * (final - reference) / (initial - reference))
                    advance(1)
            for name in arms:
                found[name][task.name] = fmean(gaps[name])
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Format differences as Markdown."""
    tasks = [*next(iter(found.values()))]
    lines = [f"| | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|"]
    for name, by_task in found.items():
        values = [*by_task.values(), fmean(by_task.values())]
        lines.append(f"| {name} | " + " | ".join(f"{v:+.2f}" for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "arms",
        nargs="+",
        metavar="POLICY|SETTINGS",
        help="the first is the one that others are compared with",
    )
    parser.add_argument("--updates", type=int, default=1000, help="of the longest task")
    parser.add_argument("--task", action="append", help="name of a task; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        arms = {text: read_arm(text) for text in arguments.arms}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    named = arguments.task
    tasks = [
        task
        for task in SELECTION
        if (task.name in named if named else task.updates <= arguments.updates)
    ]
    if not tasks or len(tasks) < len(named or ()):
        valid = ", ".join(f"{task.name} ({task.updates:,})" for task in SELECTION)
        parser.error(f"choose tasks, or updates, among {valid}")
    print(table(compare(arms, tasks, arguments.seeds)))


if __name__ == "__main__":
    main()
