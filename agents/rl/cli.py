"""Configuration of a training from the options of ``train_agent.py``."""

from __future__ import annotations

import ast
import zipfile
from typing import Any

import click
from stable_baselines3.common.base_class import BaseAlgorithm

from optenv import actions
from optenv.memory_limit import refuse_count

from ..policy.spec import MAX_NUMBER, MIN_EPS
from . import factory
from .config_file import read_object
from .export import check_export, describe
from .presets import PRESETS, RLLIB
from .rllib.model import RLlibModel

__all__ = [
    "check_candidates",
    "check_evaluation",
    "check_policy",
    "configure",
    "parse_assignments",
]


def parse_assignments(context: Any, option: Any, values: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``name=value`` pairs; values are Python literals, or else strings.

    ``true`` and ``false`` are accepted as well, as in configuration files.

    It is a callback of click, which passes ``context`` and ``option``.

    Raises:
        click.BadParameter: a pair has no name or no equals sign.
    """
    parsed: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        try:
            parsed[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parsed[name] = {"true": True, "false": False}.get(value, value)
    return parsed


def configure(options: dict[str, Any]) -> dict[str, Any]:
    """Combine a preset with the options of the command line.

    Entries of the file of ``--config``, or of the configuration of the model of
    ``--resume``, replace the preset's.

    Args:
        options: values of all options, by name.

    Returns:
        The configuration for :func:`agents.rl.factory.build`.

    Raises:
        ValueError: the configuration or the model to resume is of another agent, or the
            model has no config.json.
    """
    saved = options["config"] or {}
    _check_agent("the file of --config", options["agent"], saved)
    engine = RLLIB if options.get("engine") == "rllib" else {}
    preset = {**PRESETS[options["agent"]], **engine, **_resumed(options)}
    names = ("env_id", "timesteps", "num_envs", "copies", "candidates", "members")
    chosen = {name: options[name] or preset[name] for name in names}
    if options["resume"] is not None and chosen["env_id"] == preset["env_id"]:
        arguments = preset["env_arguments"]
    else:
        arguments = factory.env_arguments(options["agent"], chosen["env_id"])
        is_same = saved.get("env_id", preset["env_id"]) == chosen["env_id"]
        if "env_arguments" in saved and is_same:
            arguments = saved["env_arguments"]
        else:
            arguments = _changed(arguments, saved.get("env_arg", {}))
    # "algorithm" in a file has all arguments, changes included.
    changes = saved.get("overrides", {})
    whole = saved.get("algorithm") or _changed(preset["algorithm"], changes)
    given = _merged(whole, options["overrides"])
    algorithm = whole | given
    env_arguments = _changed(arguments, options["env_arg"])
    base_lr = options["base_lr"]
    if base_lr is None and _rule_name(env_arguments) == _rule_name(preset["env"]):
        base_lr = preset.get("base_lr")
    if base_lr is not None and not MIN_EPS <= base_lr <= MAX_NUMBER:
        raise ValueError(
            f"base_lr must be in [{MIN_EPS:g}, {MAX_NUMBER:g}], got {base_lr!r}"
        )
    return {
        **chosen,
        "base_lr": base_lr,
        "env_arguments": env_arguments,
        "algorithm": algorithm,
        "overrides": {
            name: algorithm[name] for name in {**changes, **given} if name in algorithm
        },
    }


def _rule_name(arguments: dict[str, Any]) -> Any:
    """Return the name of the update rule in arguments of an environment."""
    rule = arguments.get("rule")
    return rule.get("name") if isinstance(rule, dict) else rule


def _check_agent(source: str, agent: str, config: dict[str, Any]) -> None:
    """Refuse a configuration of another agent.

    Args:
        source: origin of the configuration, for the message.
        agent: agent to be trained.
        config: entries of the configuration.

    Raises:
        ValueError: the configuration is of another agent.
    """
    if config.get("agent", agent) != agent:
        raise ValueError(
            f"{source} is of agent {config['agent']!r}; give --agent {config['agent']}"
        )


def _changed(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return ``defaults``, updated with the entries of ``given``."""
    return {**defaults, **_merged(defaults, given)}


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return ``given``, with missing entries of its dictionaries taken from ``defaults``.

    A dictionary with a ``"kind"`` (of an action) or a ``"name"`` (of a rule) replaces the
    default as a whole.
    """
    merged = dict(given)
    for name, value in given.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            is_whole = {"kind", "name"} & set(value)
            merged[name] = value if is_whole else {**default, **value}
    return merged


def _resumed(options: dict[str, Any]) -> dict[str, Any]:
    """Read the configuration of the model to resume; empty without ``--resume``."""
    if options["resume"] is None:
        return {}
    agent = options["agent"]
    known = {"candidates": 1, "members": 1, "env_arguments": PRESETS[agent]["env"]}
    path = options["resume"].with_name("config.json")
    if not path.exists():
        if not zipfile.is_zipfile(options["resume"]):
            return known  # not a model, which is refused when it is read
        raise ValueError(
            f"{path} is missing, which says what environment {options['resume'].name} was "
            "trained in: copy it from the folder of that training"
        )
    config = read_object(path)
    _check_agent(str(path), agent, config)
    names = ("env_id", "num_envs", "copies", "env_arguments", "base_lr")
    resumed = known | {name: config[name] for name in names if name in config}
    # In version 0.1, configurations had no "loss_features", which were always these
    resumed["env_arguments"] = {"loss_features": "positive", **resumed["env_arguments"]}
    return resumed


#: Memory of a candidate, in bytes: its policy, all of which are loaded at the end, and its
#: rows.
_CANDIDATE = 100_000


def check_candidates(options: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse numbers of candidates and members that contradict each other or the agent.

    Raises:
        ValueError: they do, or the candidates exceed the memory limit.
    """
    count, members = config["candidates"], config["members"]
    algorithm = factory.algorithm_of_preset(options["agent"])
    refuse_count("candidates", count, "the policies", _CANDIDATE)
    if members > count:
        raise ValueError(
            f"members ({members}) are chosen among the candidates ({count}); "
            "give at most as many"
        )
    if count > 1 and algorithm.trials:
        raise ValueError(
            f"candidates are evaluated by single runs, in which a memory has no use; give "
            f"--candidates 1 for agent {options['agent']!r}"
        )
    if members > 1 and not algorithm.averages:
        raise ValueError(
            f"policies of different rules have no average; give --members 1 for agent "
            f"{options['agent']!r}"
        )
    if count > 1 and options["resume"] is not None:
        raise ValueError("--resume goes on with one model; give --candidates 1 as well")


#: Options that only apply to a training, by the names of their values.
TRAINING = {
    "env_id": "--env",
    "timesteps": "--timesteps",
    "num_envs": "--num-envs",
    "copies": "--copies",
    "candidates": "--candidates",
    "members": "--members",
    "base_lr": "--base-lr",
    "env_arg": "--env-arg",
    "overrides": "--set",
    "save_every": "--save-every",
}


def check_policy(model: Any, options: dict[str, Any]) -> None:
    """Refuse a training whose policy could not be exported or evaluated.

    Args:
        model: model that will be trained.
        options: options of the command line.

    Raises:
        ValueError: the policy could not be exported; or it should be evaluated but chooses
            the batch size, which is fixed in the tasks of the evaluation.
    """
    if isinstance(model, RLlibModel):  # already checked
        described = model.described
    elif isinstance(model, BaseAlgorithm):
        check_export(model)
        described = describe(model.get_env())
    else:  # a learner that unrolls, whose policy can always be exported and evaluated
        return
    if not options["do_evaluate"]:
        return
    action = actions.make(described["action"])
    if action.sets_batch_size:
        raise ValueError(
            "the tasks of the evaluation have batches of one size, and a policy with "
            f"action {action.kind!r} chooses it; give --no-evaluate"
        )


def check_evaluation(options: dict[str, Any]) -> None:
    """Refuse options that contradict ``--policy``, or would be ignored with it.

    Raises:
        ValueError: there is one.
    """
    if options["resume"] is not None:
        raise ValueError(
            "--policy evaluates a policy and --resume trains one; give one of them"
        )
    if not options["do_evaluate"]:
        raise ValueError("--policy evaluates a policy, which --no-evaluate leaves out")
    if options["config"] is not None:
        raise ValueError("--policy evaluates a policy and trains none; leave out --config")
    given = [flag for name, flag in TRAINING.items() if options[name]]
    if given:
        raise ValueError(
            f"--policy evaluates a policy and trains none; leave out {', '.join(given)}"
        )
