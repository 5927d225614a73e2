"""Recordings as offline data sets: episodes as arrays, and data sets of Minari."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..actions import make
from ..extras import install_hint
from ..settings import DTYPES
from ..telemetry import OBSERVATION_BOUND
from .columns import ACTION, OBSERVATION
from .parquet import describe, read

if TYPE_CHECKING:
    from minari import MinariDataset

__all__ = ["Episode", "episodes", "to_minari"]

#: Entries of a description that all recordings of a data set must have in common.
COMMON = ("features", "action")


class Episode(NamedTuple):
    """Arrays of one episode of ``T`` control steps.

    Attributes:
        number: number of the episode in its file.
        seed: seed of its reset; None if it had none.
        observations: ``[T + 1, F]``, the last one after the last step.
        actions: ``[T, K]``; ``[T]`` for discrete actions.
        rewards: ``[T]``.
        terminated: ``[T]`` bool, True at the end of the episode.
        truncated: ``[T]`` bool, True at the last step if the episode was cut off.
    """

    number: int
    seed: int | None
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def episodes(path: str | os.PathLike[str]) -> Iterator[Episode]:
    """Yield the episodes of a recording.

    An episode that was cut off, by a reset or by the end of the recording, counts as
    truncated. It loses its last step, because the observation after it is unknown. If it
    has no other step, it is left out.

    Args:
        path: path of a recorder's file.

    Raises:
        ValueError: the file is no recording.
        OSError: the file cannot be read.
    """
    table = read(path)
    names = table.column_names
    columns = {
        name: table[name].to_numpy()
        for name in ("episode", "reward", "terminated", "truncated", "seed", "resets")
        if name in names
    }
    if not columns:  # a recording without a step
        return
    seen, acted = (
        np.stack([table[name].to_numpy() for name in names if name.startswith(start)], 1)
        for start in (OBSERVATION, ACTION)
    )
    action = make(describe(path)["description"]["action"])
    if isinstance(action.space(), spaces.Discrete):
        acted = acted[:, 0]
    finals = table["final_observation"]
    # Rows are in the order of time: of all environments together, and of each.
    order = np.argsort(columns["episode"], kind="stable")
    starts = np.flatnonzero(np.diff(columns["episode"][order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        ends = columns["terminated"][rows], columns["truncated"][rows].copy()
        if ends[0][-1] or ends[1][-1]:
            final = np.asarray(finals[int(rows[-1])].as_py(), seen.dtype)
            taken = rows
        else:
            final, taken = seen[rows[-1]], rows[:-1]
            ends = ends[0][:-1], ends[1][:-1]
            ends[1][-1:] = True
        if not len(taken):
            continue
        is_seeded = columns["resets"][rows[0]] == 0
        yield Episode(
            int(columns["episode"][rows[0]]),
            int(columns["seed"][rows[0]]) if is_seeded else None,
            np.concatenate([seen[taken], final[None]]),
            acted[taken],
            columns["reward"][taken],
            *ends,
        )


def to_minari(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    dataset_id: str,
    **about: Any,
) -> MinariDataset:
    """Make an offline data set of Minari from recordings.

    The data set is stored in Minari's folder (``~/.minari/datasets``, or the absolute path
    in the environment variable ``MINARI_DATASETS_PATH``). It names the environment if the
    environment's arguments are JSON values.

    Args:
        paths: path of a recorder's file, or several paths for one environment.
        dataset_id: name of the data set, such as ``"optenv/learning-rate/ppo-v0"``.
        **about: arguments of ``minari.create_dataset_from_buffers``, such as ``author`` or
            ``description``; ``algorithm_name`` is by default the label of the recording.

    Returns:
        The data set.

    Raises:
        ValueError: a file is no recording; there is no episode of two or more steps; the
            recordings differ in their environments, observations or actions; or Minari
            refuses the name.
        ImportError: Minari is not installed (extra ``record``).
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise ImportError(
            f"offline data sets need Minari; {install_hint('record')}"
        ) from error
    # 1. Check that the recordings go together.
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise ValueError("paths must name at least one recording, got none")
    described = [describe(path) for path in files]
    for path, each in zip(files, described, strict=True):
        for key in ("id", "dtype", *COMMON):
            wanted, found = (
                side["description"][key] if key in COMMON else side[key]
                for side in (described[0], each)
            )
            if found != wanted:
                raise ValueError(
                    f"{str(path)!r} has {key} {found!r}, and {str(files[0])!r} {wanted!r}; "
                    "a data set needs one environment"
                )
    # 2. Collect the episodes.
    buffers = [
        EpisodeBuffer(
            id=number, seed=each.seed, options=None,
            observations=each.observations, actions=each.actions,
            rewards=each.rewards.tolist(), terminations=each.terminated.tolist(),
            truncations=each.truncated.tolist(),
            infos={},
        )
        for number, each in enumerate(one for path in files for one in episodes(path))
    ]  # fmt: skip
    if not buffers:
        raise ValueError(f"no episode of two or more steps in {[str(f) for f in files]}")
    # 3. Write the data set.
    first = described[0]
    dtype = DTYPES[first["dtype"]][1]
    width = buffers[0].observations.shape[1]
    is_known = first["id"] is not None and first["arguments"] is not None
    env = gym.make(first["id"], **first["arguments"]).spec if is_known else None
    about.setdefault("algorithm_name", first["label"])
    about.setdefault("data_format", "arrow")
    about.setdefault("eval_env", env)
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        env=env,
        observation_space=spaces.Box(
            -OBSERVATION_BOUND, OBSERVATION_BOUND, (width,), dtype
        ),
        action_space=make(first["description"]["action"]).space(dtype),
        **about,
    )
