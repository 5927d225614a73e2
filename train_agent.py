#!/usr/bin/env python
"""Train an agent, export its policy as an optimizer, and hold it against the baselines.

    python train_agent.py                       # PPO on optenv/LearningRate-v0
    python train_agent.py --agent dqn           # DQN on optenv/DiscreteLearningRate-v0
    python train_agent.py --env-arg tasks=digits --set learning_rate=1e-3 --no-evaluate

The folder ``--out`` gets config.json, model.zip (Stable-Baselines3), policy.safetensors and
policy.json (for agents.LearnedOptimizer), TensorBoard logs, eval.csv and curves.png.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from agents import training
from agents.evaluation import evaluate, start_baselines
from agents.evaluation.baselines import learned_arm
from agents.evaluation.heldout import HELDOUT, task_named
from agents.evaluation.plots import plot_curves
from agents.evaluation.results import format_table, write_csv
from agents.presets import PRESETS


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
@click.option("--seed", type=int, default=0, help="Seed of agent and environments.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of results, new or empty.  [default: runs/AGENT_seedSEED]",
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
    help="Argument of the SB3 algorithm; repeatable.",
)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on from this model.zip.",
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
    "--eval-seeds", type=click.IntRange(1), default=5, help="Seeds of the comparison."
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
    default=1,
    help="Processes that run the baselines meanwhile.",
)
@click.option("--progress/--no-progress", default=True, help="Progress bars.")
def main(**options: Any) -> None:
    begun = time.monotonic()
    torch.set_num_threads(1)  # the batched networks are too small for more to pay
    preset = PRESETS[options["agent"]]
    env_id = options["env_id"] or preset["env_id"]
    timesteps = options["timesteps"] or preset["timesteps"]
    num_envs = options["num_envs"] or preset["num_envs"]
    env_arguments = {**preset["env"], **options["env_arg"]}
    try:
        tasks = [task_named(name) for name in options["eval_task"]] or list(HELDOUT)
        env = training.make_env(env_id, num_envs, env_arguments)
        model = training.make_model(
            options["agent"], env, seed=options["seed"], overrides=options["overrides"],
            resume=options["resume"],
        )  # fmt: skip
        folder = training.new_folder(
            options["out"] or Path("runs") / f"{options['agent']}_seed{options['seed']}"
        )
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    training.write_config(
        folder / "config.json",
        {
            **options,
            "env_id": env_id,
            "env_arguments": env_arguments,
            "timesteps": timesteps,
            "num_envs": num_envs,
            "algorithm": preset["algorithm"] | options["overrides"],
        },
    )
    click.echo(
        f"{options['agent']} on {env_id}, {timesteps:,} control steps, results in {folder}"
    )

    with contextlib.ExitStack() as stack:
        if options["do_evaluate"]:  # the baselines do not wait for the policy
            tuning = range(1000, 1000 + options["tuning_seeds"])
            seeds = range(options["eval_seeds"])
            baselines = stack.enter_context(
                contextlib.closing(
                    start_baselines(tasks, tuning, seeds, options["workers"])
                )
            )
        finished = training.learn(model, timesteps, folder, progress=options["progress"])
        if not finished:
            click.echo(f"interrupted; model.zip and the policy so far are in {folder}")
            sys.exit(130)
        click.echo(f"trained in {(time.monotonic() - begun) / 60:.1f} minutes")
        if not options["do_evaluate"]:
            return
        ours = learned_arm(f"{options['agent'].upper()} (ours)", folder / "policy")
        rows = evaluate([ours], tasks, seeds, progress=options["progress"])
        rows = baselines.result(options["progress"])[0] + rows
    write_csv(rows, folder / "eval.csv")
    plot_curves(rows, folder / "curves.png")
    click.echo(f"wrote {folder}/eval.csv and {folder}/curves.png")
    click.echo(f"all done in {(time.monotonic() - begun) / 60:.1f} minutes\n")
    click.echo(format_table(rows))


if __name__ == "__main__":
    main()
