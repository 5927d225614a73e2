"""RLlib's model of a preset, with checks of its environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..algorithm_arguments import check_ranges
from ..experience import check_experience
from ..factory import algorithm_of_preset, check_fit, checked_arguments, make_env, preset
from ..presets import PRESETS
from .model import AGENTS, RLlibModel

__all__ = ["build_rllib"]


def build_rllib(
    agent: str,
    config: Mapping[str, Any],
    *,
    num_workers: int,
    address: str | None = None,
    seed: int = 0,
    resume: Path | None = None,
) -> RLlibModel:
    """Make RLlib's counterpart of :func:`agents.rl.factory.build`.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`, of PPO or RL².
        config: configuration, see :func:`agents.rl.factory.build`; ``copies`` must be 1.
        num_workers: number of processes that step environments.
        address: address of a running Ray cluster; None starts one on this machine.
        seed: seed of the algorithm and of the environments.
        resume: ``model.zip`` of a training by RLlib to continue from.

    Raises:
        ImportError: Ray is not installed.
        TypeError, ValueError: the preset is of another algorithm; or environment,
            algorithm and their arguments do not fit together.

    Example::

        config = configuration("ppo", copies=1, num_envs=64)
        model = build_rllib("ppo", config, num_workers=2)
    """
    algorithm = algorithm_of_preset(agent)
    if algorithm.name not in AGENTS:
        valid = [name for name, entry in PRESETS.items() if entry["class"] in AGENTS]
        raise ValueError(
            f"RLlib has no counterpart of agent {agent!r} ({algorithm.name}); valid: "
            f"{', '.join(valid)}; or give --engine sb3"
        )
    if config["copies"] != 1:
        raise ValueError(
            f"RLlib divides no rewards among copies of a task, got copies "
            f"{config['copies']!r}; give --copies 1"
        )
    env_id, given = config["env_id"], config["env_arguments"]
    # As many runs as in each process: there must be at least as many as groups
    env = make_env(env_id, max(1, config["num_envs"] // num_workers), given)
    described = check_fit(agent, env)
    arguments = {
        **config.get("algorithm", preset(agent)["algorithm"]), **config["overrides"]
    }  # fmt: skip
    check_ranges(arguments)
    check_experience(
        arguments, env, num_envs=config["num_envs"], max_memory=given.get("max_memory")
    )
    env.close()
    return RLlibModel(
        algorithm.name,
        env_id,
        checked_arguments(given),
        described,
        num_envs=config["num_envs"],
        arguments=arguments,
        num_workers=num_workers,
        address=address,
        seed=seed,
        resume=resume,
    )
