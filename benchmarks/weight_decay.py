"""Weight decay with ``LearnedOptimizer``: what it changes in the validation loss.

    python benchmarks/weight_decay.py --policy default
    python benchmarks/weight_decay.py --policy adam --tasks few --decay 0.1 --seeds 8

Measures, on tasks that the benchmark does not report, the final validation loss with decay
against that without. The groups of tasks (``--tasks``): *short*, the selection tasks of at
most 1,000 updates; *long*, the other selection tasks; *few*, the tasks with few examples of
``few_examples.py``. The default takes three hours and leaves *long* out. Runs are kept in
``--out``, so that the same command goes on where it was stopped.

The forms (``--form``): *plain* takes ``effective_lr * weight_decay`` off every weight at
each step; *cautious* only off those which the update also moves towards zero, or does not
move (Chen et al., "Cautious Weight Decay", 2025). On (``--on``): *matrices*, as
``LearnedOptimizer.for_model`` does it, or *all* parameters.

How to read it: change of the validation loss in %, geometric mean over seeds with its 95 %
t interval; * where that excludes 0, below 0 decay is better. The last column is the
geometric mean over tasks, with its interval over seeds. Runs with and without decay are
paired: they have the same initial parameters and batches.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from few_examples import FEW_EXAMPLES
from torch import nn
from torch.optim import Optimizer

from agents import LearnedOptimizer, load_policy
from agents.evaluation.arms.arm import Arm
from agents.evaluation.runs.jobs import make_jobs
from agents.evaluation.runs.store import FILE, Store, StoredRuns, exclusive
from agents.evaluation.stats.intervals import Interval, interval
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.selection import SELECTION
from agents.utils.progress import progress_bar

__all__ = ["CautiousDecay", "Setting", "change", "decayed", "table"]

#: Longest run of the group ``short``, in updates.
SHORT = 1000

GROUPS: dict[str, tuple[HeldoutTask, ...]] = {
    "short": tuple(task for task in SELECTION if task.updates <= SHORT),
    "long": tuple(task for task in SELECTION if task.updates > SHORT),
    "few": FEW_EXAMPLES,
}
FORMS = ("plain", "cautious")
ON = ("matrices", "all")
DECAYS = (0.003, 0.01, 0.03, 0.1, 0.3)


class Setting(NamedTuple):
    """How weights decay; without decay the other two make no difference.

    Attributes:
        decay: weight decay.
        form: one of :data:`FORMS`.
        on: one of :data:`ON`.
    """

    decay: float
    form: str = "plain"
    on: str = "matrices"

    def __str__(self) -> str:
        return f"{self.decay:g}, {self.form}, {self.on}" if self.decay else "0"


class CautiousDecay:
    """Cautious weight decay of an optimizer, by hooks before and after its steps.

    An entry ``x`` that a step moves by ``-u`` also loses ``effective_lr * decay * x``
    where ``u * x >= 0``. A step that the optimizer skips decays nothing.

    Args:
        optimizer: the optimizer; its own weight decay must be 0.
        decays: decay of each parameter group.
    """

    def __init__(self, optimizer: LearnedOptimizer, decays: Sequence[float]) -> None:
        self._decays = decays
        self._before: list[list[torch.Tensor]] = []
        self._skipped = 0
        optimizer.register_step_pre_hook(self._begin)
        optimizer.register_step_post_hook(self._end)

    @torch.no_grad()
    def _begin(self, optimizer: Any, *_: Any) -> None:
        self._skipped = optimizer.skipped
        self._before = [
            [p.clone() for p in group["params"]] if decay else []
            for group, decay in zip(optimizer.param_groups, self._decays, strict=True)
        ]

    @torch.no_grad()
    def _end(self, optimizer: Any, *_: Any) -> None:
        if optimizer.skipped != self._skipped:
            return
        kinds = zip(optimizer.param_groups, self._decays, self._before, strict=True)
        for group, decay, before in kinds:
            factor = group["effective_lr"] * decay
            for p, old in zip(group["params"] if before else [], before, strict=True):
                goes_along = (old - p) * old >= 0
                p.sub_(old * goes_along, alpha=factor)


def decayed(
    module: nn.Module, total_updates: int, *, decay: float, form: str, on: str, **rest: Any
) -> Optimizer:
    """Make a :class:`~agents.LearnedOptimizer` of a module with decay, see the top.

    Args:
        module: the network.
        total_updates: length of the run.
        decay, form, on: as of a :class:`Setting`.
        **rest: other arguments of the optimizer.
    """
    optimizer = LearnedOptimizer.for_model(
        module, total_steps=total_updates, weight_decay=decay, **rest
    )
    if on == "all":
        for group in optimizer.param_groups:
            group["weight_decay"] = decay
    if decay and form == "cautious":
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        CautiousDecay(optimizer, decays)
    return optimizer


def settings(arguments: argparse.Namespace) -> list[Setting]:
    """Return the settings to compare; the first is that without decay."""
    wanted = [
        Setting(decay, form, on)
        for decay in arguments.decay or DECAYS
        for form in arguments.form or FORMS
        for on in arguments.on or ON
    ]
    return [Setting(0.0), *(setting for setting in wanted if setting.decay)]


def change(losses: Sequence[float], without: Sequence[float]) -> Interval:
    """Return the change of losses ``[seeds]`` in %, from the mean of the log-ratios.

    The interval is that of 100 times the log-ratio.
    """
    pairs = zip(losses, without, strict=True)
    return interval([100 * math.log(loss / other) for loss, other in pairs])


def table(
    losses: Mapping[tuple[str, Setting], Sequence[float]],
    tasks: Sequence[str],
    compared: Sequence[Setting],
) -> list[str]:
    """Return the lines of the table, the losses without decay first.

    Args:
        losses: final validation losses ``[seeds]`` by task and setting.
        tasks: names of the tasks.
        compared: the settings; the first is that without decay.
    """
    base, width = compared[0], max(len(str(setting)) for setting in compared)
    columns = [max(len(task), 14) for task in tasks]
    heads = [task.rjust(column) for task, column in zip(tasks, columns, strict=True)]
    means = [sum(losses[task, base]) / len(losses[task, base]) for task in tasks]
    cells = [f"{mean:.4f}".rjust(column) for mean, column in zip(means, columns, strict=True)]
    lines = ["  ".join([" " * width, *heads, "all tasks".rjust(14)])]
    lines.append("  ".join(["loss without".ljust(width), *cells]))
    for setting in compared[1:]:
        by_task = [change(losses[task, setting], losses[task, base]) for task in tasks]
        logs = [
            [math.log(a / b) for a, b in zip(losses[t, setting], losses[t, base], strict=True)]
            for t in tasks
        ]
        overall = interval([100 * sum(each) / len(each) for each in zip(*logs, strict=True)])
        texts = [
            f"{found.mean:+.1f} ±{found.half:.1f}{'*' if found.decided else ' '}"
            for found in [*by_task, overall]
        ]
        aligned = [
            text.rjust(column) for text, column in zip(texts, [*columns, 14], strict=True)
        ]
        lines.append("  ".join([str(setting).ljust(width), *aligned]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="default", help="name or path of a policy")
    parser.add_argument("--tasks", action="append", choices=GROUPS,
                        help="repeatable; default: short and few")  # fmt: skip
    parser.add_argument("--decay", action="append", type=float, help="repeatable")
    parser.add_argument("--form", action="append", choices=FORMS, help="repeatable")
    parser.add_argument("--on", action="append", choices=ON, help="repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/weight_decay"),
                        help="folder where runs are kept")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
    torch.set_num_threads(1)
    compared = settings(arguments)
    policy = load_policy(arguments.policy)
    arms = {
        setting: Arm(
            str(setting), partial(decayed, policy=policy, **setting._asdict()),
            takes_loss=True, takes_module=True,
        )
        for setting in compared
    }  # fmt: skip
    groups = arguments.tasks or ["short", "few"]
    tasks = [task for group in groups for task in GROUPS[group]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    total = len(arms) * len(tasks) * arguments.seeds
    losses: dict[tuple[str, Setting], list[float]] = {}
    with exclusive(arguments.out), progress_bar(total, "weight decay", "run") as advance:
        runs = StoredRuns(Store(arguments.out / FILE), None, advance)
        for seed in range(arguments.seeds):  # outermost: all settings for each seed
            for setting, arm in arms.items():
                for row in runs(list(make_jobs([arm], tasks, [seed], 0))):
                    found = losses.setdefault((row["task"], setting), [])
                    found.append(row["validation_loss"])
    for group in groups:
        print(f"\n{arguments.policy}, {group}, {arguments.seeds} seeds")
        print(*table(losses, [task.name for task in GROUPS[group]], compared), sep="\n")


if __name__ == "__main__":
    main()
