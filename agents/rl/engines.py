"""Engines that train: Stable-Baselines3 in one process, or RLlib in several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from ..utils.job_engines import Engine
from ..utils.ray_cluster import cluster
from . import factory
from .checkpoints import MODEL
from .config_file import read_object
from .presets import RLLIB
from .rllib.build import build_rllib
from .rllib.model import RLlibModel
from .unrolled import UnrolledLR

__all__ = ["ENGINES", "build", "check_engine", "connected", "goes_on", "jobs_engine"]

#: Names of the engines.
ENGINES = ("sb3", "rllib")

#: Default number of RLlib's processes that step environments.
NUM_WORKERS = 2


def check_engine(options: Mapping[str, Any]) -> None:
    """Refuse options that the engine does not support.

    Args:
        options: values of all options of ``train_agent.py``, by name.

    Raises:
        ValueError: there is such an option.
    """
    engine = options["engine"]
    uses_ray = engine == "rllib" or options["workers_engine"] == "ray"
    if options["address"] is not None and not uses_ray:
        raise ValueError(
            f"--address is that of a Ray cluster, got {options['address']!r}; give "
            "--engine rllib or --workers-engine ray as well"
        )
    if engine == "sb3":
        if options["num_workers"] is not None:
            raise ValueError(
                "--num-workers are processes of RLlib; give --engine rllib as well, or "
                "--num-envs for runs at once in this process"
            )
    else:
        for name, value in RLLIB.items():
            if options[name] not in (None, value):
                why = (
                    "rewards are the environment's"
                    if name == "copies"
                    else "one policy is trained"
                )
                raise ValueError(
                    f"with --engine rllib {why}; leave out --{name} {options[name]}"
                )
        if options["policy"] is not None:
            raise ValueError(
                "--policy evaluates a policy and trains none; leave out --engine rllib"
            )
    resume = options["resume"]
    if resume is not None and resume.is_dir() and engine == "rllib":
        raise ValueError(
            f"--resume {resume} goes on exactly, which trainings by RLlib cannot; give "
            f"--engine rllib --resume {resume / MODEL}, with which another training begins"
        )
    if resume is not None and not resume.is_dir():
        _check_saved(resume.with_name("config.json"), engine)


def _check_saved(path: Path, engine: str) -> None:
    """Refuse to resume a training of another engine.

    Raises:
        ValueError: the configuration next to the model names another engine.
    """
    if not path.exists():
        return
    saved = read_object(path).get("engine", "sb3")
    if saved != engine:
        raise ValueError(
            f"{path} is of a training by {saved}; give --engine {saved} to go on with it"
        )


def goes_on(options: Mapping[str, Any], folder: Path, trained: bool = False) -> str:
    """Return advice on how to continue after an interrupt.

    Args:
        options: values of all options of ``train_agent.py``, by name.
        folder: folder of the results.
        trained: whether the training has ended.
    """
    if options["policy"] is not None:
        return f"--policy {options['policy']} --out {folder} goes on"
    if options["engine"] != "rllib":
        return f"--resume {folder} goes on"
    if trained:
        return f"--policy {folder / 'policy'} evaluates the policy"
    return f"--engine rllib --resume {folder / MODEL} begins another training with it"


def jobs_engine(options: Mapping[str, Any]) -> Engine:
    """Return the engine of the processes that train candidates and run baselines."""
    if options["workers_engine"] == "ray":
        return Engine("ray", options["address"])
    return Engine(options["workers_engine"])


@contextlib.contextmanager
def connected(options: Mapping[str, Any]) -> Iterator[None]:
    """Connect to a Ray cluster within the context, if any engine needs one.

    Args:
        options: values of all options of ``train_agent.py``, by name.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no cluster at the address.
    """
    count = 0
    if options["engine"] == "rllib" and options["policy"] is None:
        count += (options["num_workers"] or NUM_WORKERS) + 1
    if options["workers_engine"] == "ray":
        count += options["workers"]
    with cluster(count, options["address"]) if count else contextlib.nullcontext():
        yield


def build(
    options: Mapping[str, Any], config: Mapping[str, Any], resume: Path | None
) -> BaseAlgorithm | UnrolledLR | RLlibModel:
    """Make the model of a training with the chosen engine.

    Args:
        options: values of all options of ``train_agent.py``, by name.
        config: see :func:`agents.rl.factory.build`.
        resume: file of a model to continue with; None makes a new one.

    Raises:
        ImportError: the engine needs Ray, which is not installed.
        TypeError, ValueError: see :func:`agents.rl.factory.build` and
            :func:`agents.rl.rllib.build.build_rllib`.
    """
    agent, given = options["agent"], {"seed": options["seed"], "resume": resume}
    if options["engine"] == "sb3":
        return factory.build(agent, config, **given)
    workers = options["num_workers"] or NUM_WORKERS
    return build_rllib(
        agent, config, num_workers=workers, address=options["address"], **given
    )
