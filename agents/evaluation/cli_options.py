"""Options, and their checks, for commands that compare optimizers on held-out tasks.

``python -m agents.evaluation`` uses them, and other such commands may. Each function
returns a decorator for a click command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..utils.job_engines import ENGINES, MAX_WORKERS
from .tasks.heldout import task_named
from .tasks.problem import HeldoutTask

__all__ = [
    "FIRST_TUNING_SEED",
    "address_option",
    "engine_option",
    "length_option",
    "seed_ranges",
    "seeds_option",
    "select_tasks",
    "tuning_seeds_option",
    "workers_option",
]

#: First tuning seed; evaluation seeds are below it.
FIRST_TUNING_SEED = 1000

Decorator = Callable[[Any], Any]


def seeds_option(flag: str = "--seeds", default: int = 5) -> Decorator:
    """Return the option for the number of evaluation seeds."""
    return click.option(
        flag,
        type=click.IntRange(1, FIRST_TUNING_SEED),
        default=default,
        help="Seeds of the comparison.",
    )


def tuning_seeds_option(
    flag: str = "--tuning-seeds", help: str = "Other seeds, to tune on."
) -> Decorator:
    """Return the option for the number of tuning seeds."""
    return click.option(
        flag, type=click.IntRange(1, FIRST_TUNING_SEED), default=2, help=help
    )


def workers_option(minimum: int, default: int | None, help: str) -> Decorator:
    """Return the option for the number of worker processes.

    Args:
        minimum: 0 if everything can run in this process, else 1.
        default: default number of processes; None leaves it to the command.
        help: line of the help.
    """
    return click.option(
        "--workers", type=click.IntRange(minimum, MAX_WORKERS), default=default, help=help
    )


def engine_option(flag: str = "--engine") -> Decorator:
    """Return the option for the kind of worker processes."""
    return click.option(
        flag,
        type=click.Choice(ENGINES),
        default="processes",
        help="Kind of the processes of --workers: of this machine, or of a Ray cluster "
        "(extra ray).",
    )


def address_option() -> Decorator:
    """Return the option for the address of a Ray cluster."""
    return click.option(
        "--address",
        metavar="HOST:PORT|auto",
        help="Ray cluster to use.  [default: one is started on this machine]",
    )


def length_option(
    flag: str = "--length", help: str = "Factor on the number of updates of the tasks."
) -> Decorator:
    """Return the option for the length of the runs, relative to the tasks' lengths."""
    return click.option(
        flag, type=click.FloatRange(0, min_open=True), default=1.0, help=help
    )


def seed_ranges(seeds: int, tuning_seeds: int) -> tuple[range, range]:
    """Return the seeds of the comparison and the seeds of the tuning, without overlap."""
    return range(seeds), range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + tuning_seeds)


def select_tasks(
    names: Sequence[str], suite: Sequence[HeldoutTask], length: float
) -> list[HeldoutTask]:
    """Return the named tasks of a suite, each once; all tasks if there are no names.

    Args:
        names: names of tasks.
        suite: tasks to select from.
        length: factor on the number of updates.

    Raises:
        ValueError: there is no task of that name, or ``length`` is not a positive number.
    """
    tasks = [task_named(name, suite) for name in dict.fromkeys(names)]
    return [task.lasting(length) for task in tasks or suite]
