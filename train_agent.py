#!/usr/bin/env python
"""Train an agent, export its policy as an optimizer, and hold it against the baselines.

    python train_agent.py                       # PPO on optenv/LearningRate-v0
    python train_agent.py --agent dqn           # DQN on optenv/DiscreteLearningRate-v0
    python train_agent.py --policy runs/ppo_seed0/policy        # judge it once more
    python train_agent.py --env-arg tasks=digits --set learning_rate=1e-3 --no-evaluate

The folder ``--out`` gets config.json, model.zip (of Stable-Baselines3's algorithms),
policy.safetensors and policy.json (for agents.LearnedOptimizer), TensorBoard logs, eval.csv
and curves.png.
"""

from __future__ import annotations

import ast
import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click
import torch

from agents import load_policy
from agents.evaluation import BaselineRuns, evaluate, start_baselines
from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.report.plots import plot_curves
from agents.evaluation.report.tables import format_table, write_csv
from agents.evaluation.tasks.heldout import HELDOUT, task_named
from agents.rl import factory, training
from agents.rl.presets import PRESETS
from agents.rl.seeds import train_candidates


def parse_assignments(context: Any, option: Any, values: tuple[str, ...]) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are Python literals, or else strings."""
    parsed: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        try:
            parsed[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parsed[name] = value
    return parsed


@click.command(help=__doc__.splitlines()[0], context_settings={"show_default": True})
@click.option(
    "--agent", type=click.Choice(list(PRESETS)), default="ppo", help="Which preset."
)
@click.option("--env", "env_id", help="Environment id.  [default: the preset's]")
@click.option(
    "--timesteps", type=click.IntRange(1), help="Control steps.  [default: the preset's]"
)
@click.option(
    "--num-envs", type=click.IntRange(1), help="Runs at once.  [default: the preset's]"
)
@click.option(
    "--copies",
    type=click.IntRange(1),
    help="Runs of each task; from 2 on, rewards are relative, but for unrolled agents.  "
    "[default: the preset's]",
)
@click.option(
    "--candidates",
    type=click.IntRange(1),
    help="Trainings, each with a seed of its own, to choose from on the selection tasks.  "
    "[default: the preset's]",
)
@click.option(
    "--members",
    type=click.IntRange(1),
    help="How many of the candidates to average.  [default: the preset's]",
)
@click.option("--seed", type=int, default=0, help="Seed of agent and environments.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of results, new or empty.  [default: runs/AGENT_seedSEED, or -2, -3 ...]",
)
@click.option(
    "--env-arg",
    multiple=True,
    callback=parse_assignments,
    metavar="NAME=VALUE",
    help="Argument of the environment; repeatable.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=parse_assignments,
    metavar="NAME=VALUE",
    help="Argument of the algorithm; repeatable.",
)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on from this model.zip, up to --timesteps in all, with the environment in the "
    "config.json beside it.",
)
@click.option(
    "--policy",
    metavar="NAME|PATH",
    help="Judge this policy instead of training one.",
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
@click.option(
    "--eval-length",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    help="Factor on the number of updates of the held-out tasks.",
)
@click.option(
    "--eval-seeds", type=click.IntRange(1, 1000), default=5, help="Seeds of the comparison."
)
@click.option(
    "--tuning-seeds",
    type=click.IntRange(1),
    default=2,
    help="Other seeds, to tune AdamW on.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that train candidates, or run the baselines.  [default: 2, or 1 if "
    "there is one candidate]",
)
@click.option("--progress/--no-progress", default=True, help="Progress bars.")
def main(**options: Any) -> None:
    begun = time.monotonic()
    torch.set_num_threads(1)  # the batched networks are too small for more to pay
    try:
        tasks = [task_named(name) for name in options["eval_task"]] or list(HELDOUT)
        tasks = [task.lasting(options["eval_length"]) for task in tasks]
        config = configure(options)
        if options["policy"] is None:
            check_candidates(options, config)
            model = factory.build(
                options["agent"], config, seed=options["seed"], resume=options["resume"]
            )
            timesteps = factory.remaining(model, config["timesteps"])
        else:
            check_judging(options)
            load_policy(options["policy"])
        name = f"{options['agent']}_seed{options['seed']}"
        folder = training.new_folder(
            options["out"] or Path("runs") / name, numbered=options["out"] is None
        )
    except (OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error

    policy = options["policy"] or folder / "policy"
    several = options["policy"] is None and config["candidates"] > 1
    workers = options["workers"] or (2 if several else 1)
    seeds = range(options["eval_seeds"])
    tuning = range(1000, 1000 + options["tuning_seeds"])
    with contextlib.ExitStack() as stack:

        def start() -> BaselineRuns:
            runs = start_baselines(tasks, tuning, seeds, workers)
            return stack.enter_context(contextlib.closing(runs))

        # The baselines do not wait for the policy, unless its training takes all cores.
        baselines = start() if options["do_evaluate"] and not several else None
        if options["policy"] is None:
            training.write_config(folder / "config.json", {**options, **config})
            click.echo(
                f"{options['agent']} on {config['env_id']}, {config['timesteps']:,} "
                f"control steps, results in {folder}"
            )
            if several:
                learn_several(options, config, folder, workers)
            elif not training.learn(model, timesteps, folder, progress=options["progress"]):
                stop(f"interrupted; what was learned so far is in {folder}")
            training.sign(policy, shlex.join(["python", "train_agent.py", *sys.argv[1:]]))
            click.echo(f"trained in {(time.monotonic() - begun) / 60:.1f} minutes")
        if not options["do_evaluate"]:
            return
        baselines = baselines or start()
        try:
            algorithm = load_policy(policy).description.get("algorithm", "policy")
            ours = learned_arm(f"{algorithm} (ours)", policy)
            rows = evaluate([ours], tasks, seeds, progress=options["progress"])
            rows = baselines.result(options["progress"])[0] + rows
        except KeyboardInterrupt:
            stop(f"interrupted; --policy {policy} judges the policy anew")
    write_csv(rows, folder / "eval.csv")
    plot_curves(rows, folder / "curves.png")
    click.echo(f"wrote {folder}/eval.csv and {folder}/curves.png")
    click.echo(f"all done in {(time.monotonic() - begun) / 60:.1f} minutes\n")
    click.echo(format_table(rows))


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """What the agent is made with: the preset's, unless an option says otherwise.

    A model to go on from has what it was made with in place of the preset's.

    Raises:
        ValueError: that model is of another agent.
    """
    preset = {**PRESETS[options["agent"]], **resumed(options)}
    names = ("env_id", "timesteps", "num_envs", "copies", "candidates", "members")
    chosen = {name: options[name] or preset[name] for name in names}
    if options["resume"] is not None and chosen["env_id"] == preset["env_id"]:
        own = preset["env_arguments"]
    else:
        own = factory.env_arguments(options["agent"], chosen["env_id"])
    overrides = within(preset["algorithm"], options["overrides"])
    return {
        **chosen,
        "env_arguments": {**own, **within(own, options["env_arg"])},
        "algorithm": preset["algorithm"] | overrides,
        "overrides": overrides,
    }


def within(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What is given, where a dictionary changes the entries that it has of our own.

    One that says itself what it is, a kind of action or a rule, takes the place of ours.
    """
    found = dict(given)
    for name, value in given.items():
        ours = own.get(name)
        if isinstance(value, dict) and isinstance(ours, dict):
            found[name] = value if {"kind", "name"} & set(value) else {**ours, **value}
    return found


def resumed(options: dict[str, Any]) -> dict[str, Any]:
    """What is known of the model that ``--resume`` goes on with; nothing without it."""
    if options["resume"] is None:
        return {}
    agent = options["agent"]
    found = {"candidates": 1, "members": 1, "env_arguments": PRESETS[agent]["env"]}
    path = options["resume"].with_name("config.json")
    if not path.exists():
        return found
    config = json.loads(path.read_text())
    if config.get("agent", agent) != agent:
        raise ValueError(
            f"{path} is of agent {config['agent']!r}; give --agent {config['agent']}"
        )
    names = ("env_id", "num_envs", "copies", "env_arguments")
    return found | {name: config[name] for name in names if name in config}


def check_candidates(options: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse numbers of candidates that make no sense."""
    count, members = config["candidates"], config["members"]
    algorithm = factory.algorithm_of_preset(options["agent"])
    if members > count:
        raise ValueError(
            f"members ({members}) are chosen among the candidates ({count}); "
            "give at most as many"
        )
    if count > 1 and algorithm.trials:
        raise ValueError(
            f"candidates are judged by single runs, in which a memory has no use; give "
            f"--candidates 1 for agent {options['agent']!r}"
        )
    if members > 1 and not algorithm.averages:
        raise ValueError(
            f"policies of different rules have no average; give --members 1 for agent "
            f"{options['agent']!r}"
        )
    if count > 1 and options["resume"] is not None:
        raise ValueError("--resume goes on with one model; give --candidates 1 as well")


def check_judging(options: dict[str, Any]) -> None:
    """Refuse options that contradict ``--policy``."""
    if options["resume"] is not None:
        raise ValueError(
            "--policy judges a policy and --resume trains one; give one of them"
        )
    if not options["do_evaluate"]:
        raise ValueError("--policy judges a policy, which --no-evaluate leaves out")


def learn_several(
    options: dict[str, Any], config: dict[str, Any], folder: Path, workers: int
) -> None:
    """Train the candidates, and leave the average of the best."""
    try:
        train_candidates(
            options["agent"], options["seed"], config, folder,
            count=config["candidates"], members=config["members"], workers=workers,
            progress=options["progress"],
        )  # fmt: skip
    except KeyboardInterrupt:
        stop(
            f"interrupted; the policies so far are in {folder}; `python -m "
            "agents.evaluation --suite selection --policy ...` judges those that ended"
        )


def stop(message: str) -> NoReturn:
    """Say what an interrupt leaves behind, and end as an interrupted program does."""
    click.echo(message)
    sys.exit(130)


if __name__ == "__main__":
    main()
