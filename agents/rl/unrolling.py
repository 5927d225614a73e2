"""The agents that learn by unrolling: from a preset to a policy file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optenv

from ..utils.arguments import check_arguments
from ..utils.workers import stopped
from .unrolled import UnrolledLR
from .unrolled_rule import UnrolledRule

__all__ = ["UNROLLED", "build_unrolled", "learn_unrolled"]

#: By the name of its class in a preset.
UNROLLED: dict[str, type[UnrolledLR]] = {
    "UnrolledLR": UnrolledLR,
    "UnrolledRule": UnrolledRule,
}

#: What configuration gives, as numbers of runs, of tasks and of the seed.
_GIVEN = ("arguments", "groups", "size", "seed")


def build_unrolled(
    preset: Mapping[str, Any], config: Mapping[str, Any], seed: int | None
) -> UnrolledLR:
    """Learner of a preset.

    Args:
        preset: of :data:`agents.rl.presets.PRESETS`.
        config: ``env_id``, ``env_arguments``, ``num_envs``, ``copies`` (of each task) and
            ``overrides`` of the learner's arguments.
        seed: of the learner and its tasks.

    Raises:
        ValueError, TypeError: an argument is unknown or not valid.
    """
    env_id, valid = config["env_id"], "optenv/LearningRate-v0"
    if env_id != valid:
        known = env_id in (*optenv.ENVIRONMENTS, *optenv.TRIALS)
        raise ValueError(
            f"{'cannot be unrolled:' if known else 'unknown'} environment {env_id!r}; "
            f"valid: {valid}"
        )
    learner = UNROLLED[preset["class"]]
    defaults = {
        name: parameter.default
        for of in (UnrolledLR, learner)
        for name, parameter in inspect.signature(of).parameters.items()
        if name not in (*_GIVEN, "unrolled")
    }
    for name in ("groups", "size"):
        if name in config["overrides"]:
            raise TypeError(
                f"{name!r} follows from num_envs ({config['num_envs']}) and copies "
                f"({config['copies']}), runs of each task; give these"
            )
    check_arguments(learner.__name__, config["overrides"], defaults)
    if config["num_envs"] % config["copies"]:
        raise ValueError(
            f"num_envs ({config['num_envs']}) must be a multiple of copies "
            f"({config['copies']})"
        )
    return learner(
        config["env_arguments"],
        groups=config["num_envs"] // config["copies"],
        size=config["copies"],
        seed=0 if seed is None else seed,
        **{**preset["algorithm"], **config["overrides"]},
    )


def learn_unrolled(
    model: UnrolledLR, timesteps: int, folder: Path, *, progress: bool
) -> bool:
    """Learn, and leave the policy in ``folder``, also if the user interrupts.

    It is renewed every tenth of the way, so that even a killed process leaves one.

    Returns:
        Whether learning went to its end.
    """
    finished, saved = True, model.num_timesteps

    def callback(learner: UnrolledLR, found: float) -> bool:
        nonlocal saved
        if learner.num_timesteps - saved >= timesteps / 10:
            saved = learner.num_timesteps
            learner.save(folder / "policy")
        return not stopped()

    try:
        model.learn(timesteps, callback, progress)
    except KeyboardInterrupt:
        finished = False
    model.save(folder / "policy")
    return finished
