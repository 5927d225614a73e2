"""Compare policies and baselines on the whole benchmark; continue where it stopped.

    python -m agents.evaluation --policy runs/ppo_seed0     # everything: many hours
    python -m agents.evaluation --task cancer --task diabetes --seeds 2     # minutes
    python -m agents.evaluation --suite selection --policy A --policy B     # choose
    python -m agents.evaluation --engine ray --address auto --workers 0     # a cluster
    python -m agents.evaluation --list      # all arms and tasks, as Markdown

The folder ``--out`` gets rows.jsonl (every run, as soon as it has ended), choices.json
(what tuning chose), summary.csv, curves.png, losses.png and profiles.png. A call with the
same folder runs only what is missing in rows.jsonl.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import torch

from optenv.extras import install_hint

try:
    import click
except ImportError as error:  # the first of several packages that the extra has
    raise SystemExit(f"{error}: {install_hint('train')}") from None

from ..policy.spec import MAX_NUMBER
from ..utils.folder_lock import exclusive
from ..utils.full_disk import full_disk_explained
from ..utils.job_engines import Engine
from ..utils.progress import progress_bar
from .arms.arm import Arm
from .arms.controls import CONTROLS
from .arms.select import (
    PolicyArms,
    SelectedArms,
    load_policy_arms,
    require_packages,
    select_arms,
)
from .arms.table import ARMS
from .cli_options import (
    address_option,
    engine_option,
    length_option,
    seed_ranges,
    seeds_option,
    select_tasks,
    tuning_seeds_option,
    workers_option,
)
from .report.catalog import catalog
from .report.plots import plot_final_losses, plot_main_curves, plot_profiles
from .report.tables import (
    format_overshoots,
    format_standings,
    format_table,
    with_worst_cases,
    write_choices,
    write_summary,
)
from .row import Row
from .runs.jobs import Choices, Phases, control_jobs, job_key
from .runs.store import FILE, Store, StoredRuns
from .tasks.folder import folder_tasks
from .tasks.problem import HeldoutTask
from .tasks.suites import SUITES


def print_catalog(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Print all arms and tasks, and exit."""
    if value and not context.resilient_parsing:
        click.echo(catalog())
        context.exit()


@click.command(
    help=__doc__.splitlines()[0],
    epilog="Arms: " + ", ".join(ARMS) + ".",
    context_settings={"show_default": True},
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME|PATH",
    help="Policy to evaluate; repeatable.  [default: baselines only]",
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
    help="Task of the suite, see --list; repeatable.  [default: all]",
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
    help="Arm to compare with; repeatable. AdamW default and tuned always run.  "
    "[default: all]",
)
@seeds_option()
@tuning_seeds_option()
@workers_option(
    0,
    2,
    "Processes that make the runs, with one thread each; 0 runs in this one, or with "
    "--engine ray and --address on all CPUs of the cluster.",
)
@engine_option()
@address_option()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of results, new or to continue in.  [default: runs/SUITE]",
)
@length_option()
@click.option(
    "--controls/--no-controls",
    default=True,
    help="Also run each policy untrained, as noise, and as an open-loop replay. Policies "
    "that set more than one learning rate need --no-controls.",
)
@click.option("--progress/--no-progress", default=True, help="Progress bar.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_catalog,
    help="Print all arms and tasks as Markdown, and exit.",
)
def main(**options: Any) -> None:
    begun = time.monotonic()
    torch.set_num_threads(1)
    # 1. Check everything that the user named, before anything is written.
    suite = SUITES[options["suite"]]
    folder: Path = options["out"] or Path("runs") / options["suite"]
    try:
        if options["data"] is not None:
            if options["suite"] != "benchmark":
                raise ValueError("--data is for the benchmark: its tasks are reported on")
            suite = (*suite, *folder_tasks(options["data"]))
        tasks = select_tasks(options["tasks"], suite, options["length"])
        for lr in options["rates"]:
            if not 0 < lr <= MAX_NUMBER:
                raise ValueError(f"--lr must be in (0, {MAX_NUMBER:g}], got {lr}")
        engine = Engine(options["engine"], options["address"])
        connection = engine.connected(options["workers"])
        policies = load_policy_arms(
            options["policies"], options["rates"], controls=options["controls"]
        )
        selected = select_arms(options["arms"])
        baselines = phases_of(selected, [], tasks, options)
        if is_new := not (folder / FILE).exists():
            require_packages(baselines.arms_to_run(lambda job: None))
        click.get_current_context().with_resource(connection)
        folder.mkdir(parents=True, exist_ok=True)
        click.get_current_context().with_resource(exclusive(folder, "benchmark"))
        store = Store(folder / FILE)
        if not is_new:  # arms whose runs are all stored need no package
            require_packages(baselines.arms_to_run(lambda job: store.get(job_key(job))))
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error

    with full_disk_explained(folder, "the same command goes on"):
        # 2. Make the runs that are missing.
        try:
            rows, choices = run(selected, policies, tasks, store, engine, options)
        except KeyboardInterrupt:
            click.echo(f"interrupted; {goes_on(store)}")
            sys.exit(130)
        except Exception as error:
            error.add_note(goes_on(store))
            raise

        # 3. Write and print the results.
        controls = ("", *CONTROLS) if options["controls"] else ("",)
        families = {
            each.family(control): [each.name(lr, control) for lr in each.rates]
            for each in policies
            for control in controls
        }
        write(rows, families, choices, folder)
    click.echo(f"all done in {(time.monotonic() - begun) / 60:.1f} minutes")


def goes_on(store: Store) -> str:
    """Say where the runs of a stopped benchmark are, and how to continue it."""
    return f"the same command goes on from the {len(store)} runs that are in {store.path}"


def phases_of(
    selected: SelectedArms,
    ours: list[Arm],
    tasks: list[HeldoutTask],
    options: dict[str, Any],
) -> Phases:
    """Return the phases of a benchmark of the selected arms, and of ours."""
    seeds, tuning_seeds = seed_ranges(options["seeds"], options["tuning_seeds"])
    arms = [*selected.untuned, *ours]
    return Phases(tasks, tuning_seeds, seeds, arms, selected.searches, selected.shared)


def run(
    selected: SelectedArms,
    policies: list[PolicyArms],
    tasks: list[HeldoutTask],
    store: Store,
    engine: Engine,
    options: dict[str, Any],
) -> tuple[list[Row], Choices]:
    """Run everything that is not in the store.

    Returns:
        Rows of all arms, and what tuning chose.
    """
    seeds, _ = seed_ranges(options["seeds"], options["tuning_seeds"])
    ours = [arm for policy_arms in policies for arm in policy_arms.arms()]
    phases = phases_of(selected, ours, tasks, options)
    controlled = policies if options["controls"] else []
    controls = sum(len(CONTROLS) * len(each.rates) for each in controlled)
    total = phases.total + controls * len(tasks) * len(seeds)
    workers = None
    with contextlib.ExitStack() as stack:
        if options["workers"] or engine.name == "ray":
            started = engine.start(options["workers"])
            workers = stack.enter_context(contextlib.closing(started))
        bar = progress_bar(total, "benchmark", options["progress"])
        advance = stack.enter_context(bar)
        runner = StoredRuns(store, workers, lambda job, row: advance())
        rows, choices = phases.run(runner)
        # Controls are made from the policies' own runs, which must be finished.
        jobs = [j for each in controlled for j in control_jobs(each, rows, tasks, seeds)]
        rows += runner(jobs)
    click.echo(f"{runner.ran} runs done, {runner.reused} reused of {store.path}")
    return rows, choices


def write(
    rows: list[Row], families: dict[str, list[str]], choices: Choices, folder: Path
) -> None:
    """Write all files to the folder, and print the tables."""
    write_choices(choices, folder / "choices.json")
    plot_main_curves(rows, folder / "curves.png")
    click.echo(f"\n{format_table(rows)}\n")
    click.echo(f"{format_overshoots(rows)}\n")
    extended = with_worst_cases(rows, families)
    writers = {
        folder / "summary.csv": write_summary,
        folder / "losses.png": plot_final_losses,
        folder / "profiles.png": plot_profiles,
    }
    missing = [*writers]
    try:
        for path, write_file in writers.items():
            write_file(extended, path)
            missing.remove(path)
        click.echo(f"{format_standings(extended)}\n")
    except ValueError as error:  # such as where runs are so short that nothing is learned
        for path in missing:
            path.unlink(missing_ok=True)  # an earlier call's files would mislead
        click.echo(f"no summary and no profiles: {error}\n")
    click.echo(f"results are in {folder}")


if __name__ == "__main__":
    main()
