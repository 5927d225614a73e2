#!/usr/bin/env python
"""Train an agent, export its policy as an optimizer, and compare it with baselines.

    python train_agent.py                       # PPO on optenv/LearningRate-v0
    python train_agent.py --agent dqn           # DQN on optenv/DiscreteLearningRate-v0
    python train_agent.py --engine rllib --num-workers 2        # runs in two processes
    python train_agent.py --policy runs/ppo_seed0/policy        # evaluate it again
    python train_agent.py --config runs/ppo_seed0/config.json --seed 1      # another seed
    python train_agent.py --env-arg tasks=digits --set learning_rate=1e-3 --no-evaluate

The following files are written to the folder ``--out``: config.json, model.zip (of
Stable-Baselines3 or of RLlib), policy.safetensors and policy.json (for
agents.LearnedOptimizer), TensorBoard logs, rows.jsonl (runs of the evaluation), eval.csv
and curves.png. Model and policy are written at intervals (--save-every), and runs of the
evaluation as soon as they end: ``--resume runs/ppo_seed0`` continues a killed training
exactly where it was (except with RLlib), and its evaluation. After Ctrl-C or SIGTERM, the
policy learned so far is written.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from optenv.extras import install_hint

try:
    import click
except ImportError as error:  # the first of several packages that the extra has
    raise SystemExit(f"{error}: {install_hint('train')}") from None

from agents import load_policy
from agents.evaluation import BaselineRuns, start_baselines
from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.cli_options import (
    address_option,
    engine_option,
    length_option,
    seed_ranges,
    seeds_option,
    select_tasks,
    tuning_seeds_option,
    workers_option,
)
from agents.evaluation.report.plots import plot_curves
from agents.evaluation.report.tables import format_table, write_csv
from agents.evaluation.runs.store import FILE, Store
from agents.evaluation.tasks.heldout import HELDOUT
from agents.rl import engines, factory, rollouts, training
from agents.rl.cli import (
    check_candidates,
    check_evaluation,
    check_policy,
    configure,
    parse_assignments,
)
from agents.rl.config_file import take_defaults
from agents.rl.export import export_policy
from agents.rl.presets import PRESETS
from agents.rl.resuming import keep_beginning, resumed, take_folder
from agents.rl.seeds import train_candidates
from agents.utils.folder_lock import exclusive
from agents.utils.full_disk import full_disk_explained
from agents.utils.interrupts import terminated_as_interrupted
from agents.utils.job_engines import MAX_WORKERS
from agents.utils.progress import echo
from optenv.checks import MAX_INTEGER


def assignments(flag: str, name: str, help: str) -> Any:
    """Return a repeatable option of the form ``NAME=VALUE``."""
    return click.option(
        flag,
        name,
        multiple=True,
        callback=parse_assignments,
        metavar="NAME=VALUE",
        help=help,
    )


def number(flag: str, help: str) -> Any:
    """Return an option for a positive integer, whose default is in the preset."""
    return click.option(
        flag,
        type=click.IntRange(1, MAX_INTEGER),
        help=f"{help}  [default: the preset's]",
    )


@click.command(help=__doc__.splitlines()[0], context_settings={"show_default": True})
@click.option("--agent", type=click.Choice(list(PRESETS)), default="ppo", help="Preset.")
@click.option("--env", "env_id", help="Environment id.  [default: the preset's]")
@number(
    "--timesteps",
    "Control steps, over all runs. The last rollout is cut to end there, up to a multiple "
    "of --num-envs; but PPO and RL² with --copies from 2 on learn from whole runs, and "
    "unrolled agents from whole rounds, to which the number is rounded up (it is said).",
)
@number("--num-envs", "Runs at once.")
@number(
    "--copies",
    "Runs that train on the same task at the same time, of which --num-envs is a multiple. "
    "With 1, the reward is that of the environment. From 2 on, it is the reward minus the "
    "mean reward of the other copies, so that easy and hard tasks count alike; unrolled "
    "agents keep the environment's.",
)
@number(
    "--candidates",
    "Number of policies to train, with seeds of their own. From 2 on, all are evaluated on "
    "the selection tasks, and the best --members of them make up the policy.",
)
@number(
    "--members",
    "Number of the best candidates that make up the policy: it acts by the mean of their "
    "outputs. At most --candidates.",
)
@click.option(
    "--base-lr",
    type=click.FloatRange(0.0, min_open=True),
    help="Base learning rate of the policy's optimizers where the user gives none.  "
    "[default: the preset's, or the usual one of the rule]",
)
@click.option("--seed", type=int, default=0, help="Seed of agent and environments.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for model, policy, logs and results, which must not exist yet or be "
    "empty.  [default: runs/AGENT_seedSEED, such as runs/ppo_seed0; if that is taken, "
    "runs/ppo_seed0-2, and so on]",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=take_defaults,
    help="Configuration of a training, such as runs/ppo_seed0/config.json: its entries are "
    "the defaults of the other options.",
)
@assignments("--env-arg", "env_arg", "Argument of the environment; repeatable.")
@assignments("--set", "overrides", "Argument of the algorithm; repeatable.")
@click.option(
    "--save-every",
    type=click.IntRange(1),
    help="Control steps from one writing of model.zip and policy to the next, which waits "
    f"for the end of a rollout.  [default: 1/{training.CHECKPOINTS} of the training]",
)
@click.option(
    "--resume",
    type=click.Path(exists=True, path_type=Path),
    is_eager=True,
    callback=take_folder,
    help="Folder of a training that was stopped or killed: it goes on there exactly as if "
    "it had not been, by the options in its config.json. Or a model.zip: another training "
    "begins with this model, up to --timesteps in all, with the environment in the "
    "config.json beside it.",
)
@click.option(
    "--policy", metavar="NAME|PATH", help="Evaluate this policy instead of training one."
)
@click.option(
    "--evaluate/--no-evaluate",
    "do_evaluate",
    default=True,
    help="Compare with the baselines.",
)
@click.option(
    "--eval-task",
    multiple=True,
    help=f"Held-out task; repeatable.  [default: {', '.join(t.name for t in HELDOUT)}]",
)
@length_option("--eval-length")
@seeds_option("--eval-seeds", 3)
@tuning_seeds_option(help="Other seeds, to tune AdamW on.")
@workers_option(1, 2, "Processes that train candidates, and run policy and baselines.")
@engine_option("--workers-engine")
@click.option(
    "--engine",
    type=click.Choice(engines.ENGINES),
    default="sb3",
    help="Library that trains: Stable-Baselines3 in one process, or RLlib (extra ray; PPO "
    "and RL²) with the runs in --num-workers processes of a Ray cluster.",
)
@click.option(
    "--num-workers",
    type=click.IntRange(1, MAX_WORKERS),
    help="Processes of --engine rllib, among which --num-envs are divided.  [default: "
    f"{engines.NUM_WORKERS}]",
)
@address_option()
@click.option("--progress/--no-progress", default=True, help="Report the progress.")
@terminated_as_interrupted()
def main(**options: Any) -> None:
    begun = time.monotonic()
    context = click.get_current_context()
    torch.set_num_threads(1)  # the batched networks are too small for more threads

    # 1. Check everything that can be checked, before anything is written.
    try:
        engines.check_engine(options)
        tasks = select_tasks(options["eval_task"], HELDOUT, options["eval_length"])
        resume = options["resume"]
        if resume is not None and resume.is_dir():
            # Lock it before its files are read: another process may be writing them
            context.with_resource(exclusive(resume, "training"))
        again = resumed(options)
        config = configure(options) if again is None else again.config
        if options["policy"] is None:
            if again is None:
                check_candidates(options, config)
            model = engines.build(
                options, config, options["resume"] if again is None else again.model
            )
            check_policy(model, options)
            timesteps = config["timesteps"]
            if again is None or again.checkpoint is None:
                timesteps = factory.remaining(model, timesteps)
        else:
            check_evaluation(options)
            load_policy(options["policy"])
        context.with_resource(engines.connected(options))
        name = f"{options['agent']}_seed{options['seed']}"
        folder = training.new_folder(
            options["out"] or Path("runs") / name, numbered=options["out"] is None,
            # Runs of an evaluation that was stopped
            kept=() if options["policy"] is None or options["out"] is None else (FILE,),
        ) if again is None else again.folder  # fmt: skip
        if again is None:
            context.with_resource(exclusive(folder, "training"))
        store = Store(folder / FILE) if options["do_evaluate"] else None
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    policy = options["policy"] or folder / "policy"
    several = options["policy"] is None and config["candidates"] > 1
    seeds, tuning = seed_ranges(options["eval_seeds"], options["tuning_seeds"])

    with contextlib.ExitStack() as stack:
        stack.enter_context(stops_explained(options, folder))

        def start() -> BaselineRuns:
            echo(
                f"baselines: AdamW is tuned on {len(tasks)} tasks, then all are run, in "
                f"{options['workers']} processes"
            )
            runs = start_baselines(
                tasks, tuning, seeds, options["workers"], report=echo,
                engine=engines.jobs_engine(options), store=store,
            )  # fmt: skip
            return stack.enter_context(contextlib.closing(runs))

        # 2. Train. The baselines run at the same time, unless candidates use all processes.
        baselines = start() if options["do_evaluate"] and not several else None
        if options["policy"] is None:
            command = sys.argv if again is None else again.command
            checkpoint = None if again is None else again.checkpoint
            if again is None:
                # --env-arg is already part of env_arguments.
                given = {k: v for k, v in options.items() if k not in ("config", "env_arg")}
                if resume is not None and options["engine"] == "sb3":
                    keep_beginning(resume, folder)
                training.write_config(folder / "config.json", {**given, **config})
            echo(
                f"training: {options['agent']} on {config['env_id']}, "
                f"{config['timesteps']:,} control steps, results in {folder}"
            )
            rounded = rollouts.rounded(model, timesteps)
            if checkpoint is not None:
                echo(f"training: goes on after {model.num_timesteps:,} control steps")
            elif rounded != timesteps:
                echo(
                    f"training: it makes {rollouts.unit(model):,} control steps at a time, "
                    f"and so ends at {model.num_timesteps + rounded:,}"
                )
            if several:
                learn_several(options, config, folder)
            elif again is not None and again.finished:
                echo("training: it has come to its end already")
                if not policy.with_suffix(".json").exists():  # removed, or not copied
                    export_policy(model, policy)
            elif not training.learn(
                model, timesteps, folder, progress=options["progress"],
                save_every=options["save_every"], resume=checkpoint,
            ):  # fmt: skip
                stop(
                    f"interrupted; what was learned so far is in {folder}; "
                    f"{engines.goes_on(options, folder)}"
                )
            words = shlex.join(["python", "train_agent.py", *command[1:]])
            training.sign(policy, words, config["base_lr"])
            echo(f"training: done after {minutes_since(begun)}, policy in {policy}.*")
        if not options["do_evaluate"]:
            return

        # 3. Evaluate the policy as an optimizer, and wait for the baselines.
        baselines = baselines or start()
        try:
            algorithm = load_policy(policy).description.get("algorithm", "policy")
            ours = learned_arm(f"{algorithm} (ours)", policy)
            echo(f"evaluation: the policy on {len(tasks)} tasks, {len(seeds)} seeds")
            rows = baselines.evaluate([ours], options["progress"])
            echo(f"evaluation: done after {minutes_since(begun)}")
            rows = baselines.result(options["progress"])[0] + rows
            echo(f"baselines: done after {minutes_since(begun)}")
        except KeyboardInterrupt:
            stop(f"interrupted; {engines.goes_on(options, folder, trained=True)}")

        # 4. Report.
        write_csv(rows, folder / "eval.csv")
        plot_curves(rows, folder / "curves.png")
        echo(f"wrote {folder}/eval.csv and {folder}/curves.png")
        echo(f"all done in {minutes_since(begun)}\n")
        echo(format_table(rows))


@contextlib.contextmanager
def stops_explained(options: dict[str, Any], folder: Path) -> Iterator[None]:
    """Exit with a one-line message on an interrupt or if the disk is full."""
    try:
        with full_disk_explained(folder, engines.goes_on(options, folder)):
            yield
    except KeyboardInterrupt:
        stop(f"interrupted; the results so far are in {folder}")


def learn_several(options: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Train the candidates, and write the average of the best."""
    try:
        train_candidates(
            options["agent"], options["seed"], config, folder,
            count=config["candidates"], members=config["members"],
            workers=options["workers"], progress=options["progress"],
            save_every=options["save_every"], engine=engines.jobs_engine(options),
        )  # fmt: skip
    except KeyboardInterrupt:
        stop(
            f"interrupted; the policies so far are in {folder}; `python -m "
            "agents.evaluation --suite selection --policy ...` evaluates those that ended, "
            f"--resume {folder} goes on"
        )


def minutes_since(begun: float) -> str:
    """Format the time since ``begun`` on the monotonic clock."""
    return f"{(time.monotonic() - begun) / 60:.1f} minutes"


def stop(message: str) -> NoReturn:
    """Print a message, and exit with the status of an interrupted program."""
    echo(message)
    sys.exit(130)


if __name__ == "__main__":
    main()
