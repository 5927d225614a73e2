"""Memory needed for the experience of an algorithm, with a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from optenv.checks import is_number
from optenv.memory_limit import limit_of, refuse_beyond

__all__ = ["check_experience"]

#: Count of numbers per control step in a rollout, besides observation and action: reward,
#: return, advantage, value, log-probability, and whether an episode begins.
_ROLLOUT = 6

#: Count of numbers per control step in a replay buffer, besides observations and action.
_REPLAY = 3

#: Size of one of these numbers, in bytes.
_NUMBER = 4


def check_experience(
    arguments: Mapping[str, Any],
    env: VecEnv,
    *,
    num_envs: int | None = None,
    max_memory: float | None = None,
) -> None:
    """Refuse an algorithm whose buffer or minibatches exceed the memory limit.

    A rollout counts twice, since it is copied to be divided into minibatches.

    Args:
        arguments: arguments of the algorithm; those that are not positive numbers are
            ignored here, and checked by its class.
        env: environment of the training.
        num_envs: number of runs, by default ``env.num_envs``.
        max_memory: limit in GiB, see :func:`optenv.memory_limit.limit_of`.

    Raises:
        ValueError: the limit is exceeded; the message says what to lower.
    """
    runs = env.num_envs if num_envs is None else num_envs
    seen = math.prod(env.observation_space.shape or (1,))
    done = math.prod(env.action_space.shape or (1,))

    def given(name: str) -> int:
        value = arguments.get(name, 0)
        return int(value) if is_number(value) and 0 < value < math.inf else 0

    row, transition = seen + done + _ROLLOUT, 2 * seen + done + _REPLAY
    parts = {"minibatches": _NUMBER * given("batch_size") * transition}
    lower = {"minibatches": [f"batch_size={arguments.get('batch_size')}"]}
    if "buffer_size" in arguments:
        parts["the replay buffer"] = _NUMBER * given("buffer_size") * transition
        lower["the replay buffer"] = [f"buffer_size={arguments['buffer_size']}"]
    else:  # with a replay buffer, n_steps are those of a return
        parts["the rollout"] = 2 * _NUMBER * given("n_steps") * runs * row
        lower["the rollout"] = [f"n_steps={arguments.get('n_steps')}", f"num_envs={runs}"]
    refuse_beyond(limit_of(max_memory), "the training", parts, lower)
