"""Judge policies and baselines on the whole benchmark, and go on where it stopped.

    python -m agents.evaluation --policy runs/ppo_seed0     # everything: many hours
    python -m agents.evaluation --task cancer --task diabetes --seeds 2     # minutes
    python -m agents.evaluation --suite selection --policy A --policy B     # choose

The folder ``--out`` gets rows.jsonl (every run, as soon as it has ended), choices.json
(what tuning chose), summary.csv, curves.png, losses.png and profiles.png. A call with the
same folder runs only what is not in rows.jsonl yet.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from ..utils.progress import progress_bar
from ..utils.workers import Workers
from .arms.controls import CONTROLS, control_jobs
from .arms.select import Baselines, Entrant, load_entrants, pick_baselines
from .report.profile_plots import plot_final_losses, plot_profiles
from .report.tables import (
    format_standings,
    plot_rates,
    with_worst_cases,
    write_choices,
    write_summary,
)
from .runs.jobs import Choices, Phases
from .runs.store import FILE, Store, StoredRuns, exclusive
from .stats.overshoot import format_overshoots
from .stats.results import Row, format_table
from .tasks.benchmark import BENCHMARK
from .tasks.folder import folder_tasks
from .tasks.heldout import HeldoutTask, task_named
from .tasks.selection import SELECTION

#: Tuning seeds begin here; evaluation seeds are below.
FIRST_TUNING_SEED = 1000


#: Tasks to judge on, by what they are for.
SUITES = {"benchmark": BENCHMARK, "selection": SELECTION}


@click.command(help=__doc__.splitlines()[0], context_settings={"show_default": True})
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME|PATH",
    help="Policy to judge; repeatable.  [default: baselines only]",
)
@click.option(
    "--suite",
    type=click.Choice(list(SUITES)),
    default="benchmark",
    help="Tasks to report on, or those to choose among policies by.",
)
@click.option(
    "--lr",
    "rates",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    default=(1e-4, 1e-3, 1e-2),
    help="Base learning rate of the policies; repeatable.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="Task of the suite; repeatable.  [default: all]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of further data: tinyshakespeare.txt, Omniglot's small background set.",
)
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="NAME",
    help="Baseline; repeatable. AdamW default and tuned always run.  [default: all]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, FIRST_TUNING_SEED),
    default=5,
    help="Seeds of the comparison.",
)
@click.option(
    "--tuning-seeds", type=click.IntRange(1), default=2, help="Other seeds, to tune on."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    help="Processes that run it, one thread each; 0 runs in this one.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of results, new or to go on in.  [default: runs/SUITE]",
)
@click.option(
    "--length",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    help="Factor on the number of updates of the tasks.",
)
@click.option(
    "--controls/--no-controls",
    default=True,
    help="Also run each policy untrained, as noise, and replayed blindly.",
)
@click.option("--progress/--no-progress", default=True, help="Progress bar.")
def main(**options: Any) -> None:
    begun = time.monotonic()
    torch.set_num_threads(1)
    suite = SUITES[options["suite"]]
    folder: Path = options["out"] or Path("runs") / options["suite"]
    try:
        if options["data"] is not None:
            if suite is SELECTION:
                raise ValueError("--data is for the benchmark: its tasks are reported on")
            suite = (*suite, *folder_tasks(options["data"]))
        tasks = [task_named(name, suite) for name in dict.fromkeys(options["tasks"])]
        tasks = [task.lasting(options["length"]) for task in tasks or suite]
        if not all(map(math.isfinite, options["rates"])):
            raise ValueError(f"learning rates must be finite, got {options['rates']}")
        entrants = load_entrants(
            options["policies"], options["rates"], controls=options["controls"]
        )
        baselines = pick_baselines(options["arms"])
        folder.mkdir(parents=True, exist_ok=True)
        click.get_current_context().with_resource(exclusive(folder))
        store = Store(folder / FILE)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error

    try:
        rows, choices = run(baselines, entrants, tasks, store, options)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted; the same command goes on from the {len(store)} runs that are "
            f"in {store.path}"
        )
        sys.exit(130)
    kinds = ("", *CONTROLS) if options["controls"] else ("",)
    families = {
        each.family(kind): [each.name(lr, kind) for lr in each.rates]
        for each in entrants
        for kind in kinds
    }
    write(rows, families, choices, folder)
    click.echo(f"all done in {(time.monotonic() - begun) / 60:.1f} minutes")


def run(
    baselines: Baselines,
    entrants: list[Entrant],
    tasks: list[HeldoutTask],
    store: Store,
    options: dict[str, Any],
) -> tuple[list[Row], Choices]:
    """Rows of all that takes part, and what tuning chose."""
    seeds = range(options["seeds"])
    tuning = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options["tuning_seeds"])
    ours = [arm for entrant in entrants for arm in entrant.arms()]
    arms = [*baselines.untuned, *ours]
    phases = Phases(tasks, tuning, seeds, arms, baselines.searches, baselines.shared)
    judged = entrants if options["controls"] else []
    controls = sum(len(CONTROLS) * len(each.rates) for each in judged)
    total = phases.total + controls * len(tasks) * len(seeds)
    workers = None
    with contextlib.ExitStack() as stack:
        if options["workers"]:
            workers = stack.enter_context(contextlib.closing(Workers(options["workers"])))
        bar = progress_bar(total, "benchmark", options["progress"])
        runner = StoredRuns(store, workers, stack.enter_context(bar))
        rows, choices = phases.run(runner)
        rows += runner([job for e in judged for job in control_jobs(e, rows, tasks, seeds)])
    click.echo(f"{runner.ran} runs done, {runner.reused} reused of {store.path}")
    return rows, choices


def write(
    rows: list[Row], families: dict[str, list[str]], choices: Choices, folder: Path
) -> None:
    """Leave all files in the folder, and print the tables."""
    write_choices(choices, folder / "choices.json")
    plot_rates(rows, folder / "curves.png")
    click.echo(f"\n{format_table(rows)}\n")
    click.echo(f"{format_overshoots(rows)}\n")
    more = with_worst_cases(rows, families)
    summary, losses, profiles = (
        folder / name for name in ("summary.csv", "losses.png", "profiles.png")
    )
    for path in (summary, losses, profiles):
        path.unlink(missing_ok=True)  # those of an earlier call may not be renewed
    try:
        write_summary(more, summary)
        plot_final_losses(more, losses)
        plot_profiles(more, profiles)
        click.echo(f"{format_standings(more)}\n")
    except ValueError as error:  # as when runs are so short that nothing is learned
        click.echo(f"no summary and no profiles: {error}\n")
    click.echo(f"results are in {folder}")


if __name__ == "__main__":
    main()
