"""Effect of weight decay with ``LearnedOptimizer`` on the validation loss.

    python benchmarks/weight_decay.py --policy default
    python benchmarks/weight_decay.py --policy adam --tasks few --setting 0.1,plain,all

Compares, on tasks that the benchmark does not report, the final validation loss with and
without decay. The groups of tasks (``--tasks``) are *short*, the selection tasks of at most
800 updates; *long*, the other selection tasks; *few*, the tasks with few examples of
``few_examples.py``; or the name of a task. Runs are kept in ``--out``, so that the same
command continues where it was stopped, and another one only makes the missing runs.

A setting (``--setting DECAY,FORM,ON``) is a weight decay, its form, and the parameters that
decay:

- *plain*: each step multiplies every weight by ``1 - effective_lr * weight_decay``;
- *cautious*: only weights that the update also moves towards zero, or does not move
  (Chen et al., "Cautious Weight Decay", 2025);
- *matrices*: matrices and the output layer, as with ``LearnedOptimizer.for_model``;
- *all*: all parameters.

How to read it: 100 times the log of the ratio of the losses, about the change in %; mean
over seeds with its 95 % t interval, * if it excludes 0. Below 0, decay is better. The last
column is the mean over tasks, with its interval over seeds. Runs with and without decay are
paired: they have the same initial parameters and batches.
"""

from __future__ import annotations

import argparse
import itertools
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
from agents.evaluation.runs.store import FILE, Store, StoredRuns
from agents.evaluation.stats.intervals import Interval, interval
from agents.evaluation.tasks.problem import HeldoutTask
from agents.evaluation.tasks.selection import SELECTION
from agents.utils.folder_lock import exclusive
from agents.utils.progress import progress_bar

__all__ = ["CautiousDecay", "Setting", "changes_of", "decayed", "setting", "table"]

#: Longest run of the group ``short``, in updates.
SHORT = 800

#: Tasks by the name of their group, and each by its own.
GROUPS: dict[str, tuple[HeldoutTask, ...]] = {
    "short": tuple(task for task in SELECTION if task.updates <= SHORT),
    "long": tuple(task for task in SELECTION if task.updates > SHORT),
    "few": FEW_EXAMPLES,
    **{task.name: (task,) for task in (*SELECTION, *FEW_EXAMPLES)},
}
FORMS = ("plain", "cautious")
ON = ("matrices", "all")
#: Weight decays of the default settings, which are all of these with all forms.
DECAYS = (0.003, 0.01, 0.03, 0.1, 0.3)


class Setting(NamedTuple):
    """Weight decay with its form and scope, which make no difference if it is 0.

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


def setting(text: str) -> Setting:
    """Parse ``"DECAY,FORM,ON"``.

    Raises:
        argparse.ArgumentTypeError: it has not these three parts, or one is not valid.
    """
    try:
        number, form, on = text.split(",")
        decay = float(number)
    except ValueError:
        decay, form, on = math.nan, "", ""
    if not 0 < decay < math.inf or form not in FORMS or on not in ON:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a positive number, one of {FORMS} and one of {ON}, with "
            "commas between them"
        )
    return Setting(decay, form, on)


def changes_of(losses: Sequence[float], without: Sequence[float]) -> list[float]:
    """Return 100 times the log-ratio of the losses of each seed.

    For small changes that is the change in %; means of it are geometric means.
    """
    pairs = zip(losses, without, strict=True)
    return [100 * math.log(loss / other) for loss, other in pairs]


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
    base = compared[0]
    lines = [["", *tasks, "all tasks"]]
    means = [sum(losses[task, base]) / len(losses[task, base]) for task in tasks]
    lines.append(["loss without", *(f"{mean:.4f} " for mean in means), ""])
    for each in compared[1:]:
        changes = [changes_of(losses[task, each], losses[task, base]) for task in tasks]
        means_of_seeds = [
            sum(of_seed) / len(tasks) for of_seed in zip(*changes, strict=True)
        ]
        found = [interval(of_seeds) for of_seeds in [*changes, means_of_seeds]]
        lines.append([str(each), *map(_cell, found)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]).rstrip()
        for line in lines
    ]  # fmt: skip


def _cell(found: Interval) -> str:
    return f"{found.mean:+.1f} ±{found.half:.1f}{'*' if found.decided else ' '}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="default", help="name or path of a policy")
    parser.add_argument("--tasks", action="append", choices=GROUPS, metavar="GROUP",
                        help="or a task; repeatable; default: short and few")  # fmt: skip
    parser.add_argument(
        "--setting", action="append", type=setting, metavar="DECAY,FORM,ON",
        help="repeatable; default: 20",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/weight_decay"),
                        help="folder where runs are kept")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
    torch.set_num_threads(1)
    every = [Setting(*each) for each in itertools.product(DECAYS, FORMS, ON)]
    compared = [Setting(0.0), *(arguments.setting or every)]
    policy = load_policy(arguments.policy)
    arms = [
        Arm(
            str(each), partial(decayed, policy=policy, **each._asdict()),
            takes_loss=True, takes_module=True,
        )
        for each in compared
    ]  # fmt: skip
    groups = arguments.tasks or ["short", "few"]
    tasks = [task for group in groups for task in GROUPS[group]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    total = len(arms) * len(tasks) * arguments.seeds
    losses: dict[tuple[str, Setting], list[float]] = {}
    with (
        exclusive(arguments.out, "benchmark"),
        progress_bar(total, "weight decay", "run") as advance,
    ):
        runs = StoredRuns(Store(arguments.out / FILE), None, lambda job, row: advance())
        # One task and seed after the other, since the batches are kept that long.
        for seed, task in itertools.product(range(arguments.seeds), tasks):
            rows = runs(list(make_jobs(arms, [task], [seed], 0)))
            for each, row in zip(compared, rows, strict=True):
                losses.setdefault((task.name, each), []).append(row["validation_loss"])
    for group in groups:
        print(f"\n{arguments.policy}, {group}, {arguments.seeds} seeds")
        print(*table(losses, [task.name for task in GROUPS[group]], compared), sep="\n")


if __name__ == "__main__":
    main()
