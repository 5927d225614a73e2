"""State of a Stable-Baselines3 model that is missing from its own file.

The file contains the networks, the optimizer and the counters. Random states, environments,
the replay buffer and the memory of a recurrent policy are missing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from ..utils.warning import warn_user
from .checkpoints import Checkpoint
from .journal import journal_of, replay

__all__ = ["restore", "restore_generators", "take"]

#: Counters that a replay buffer can have.
COUNTERS = ("pos", "full", "_num_open")


def take(model: BaseAlgorithm) -> Checkpoint | None:
    """Return the state of a model at the beginning of a rollout.

    Args:
        model: model that is trained, with an environment of
            :func:`agents.rl.factory.build`.

    Returns:
        The state; None if the environment has no journal to reproduce its runs from.
    """
    env = model.get_env()
    journal = None if env is None else journal_of(env)
    if journal is None or journal.beginning is None:
        return None
    numbers: dict[str, Any] = {
        "generators": _generators(model), "beginning": journal.beginning
    }  # fmt: skip
    arrays = {
        "torch_generator": torch.get_rng_state().numpy(),
        "actions": np.array(journal.actions),
        "observation": np.asarray(model._last_obs),
    }
    for i, tensor in enumerate(_memory(model)):
        arrays[f"memory/{i}"] = tensor.cpu().numpy()
    for name, tensor in _noise(model).items():
        arrays[f"noise/{name}"] = tensor.cpu().numpy()
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        values = vars(buffer)
        numbers["buffer"] = {name: int(values[name]) for name in COUNTERS if name in values}
        for name, array in _without_repetitions(_rows(buffer)).items():
            arrays[f"buffer/{name}"] = array
    return Checkpoint(numbers, arrays)


def restore(model: BaseAlgorithm, state: Checkpoint) -> None:
    """Load the state that :func:`take` returned into a model, except the random states.

    The runs of the environment are reproduced, from their last joint reset.

    Args:
        model: model that was loaded from its file, with an environment made with the same
            arguments.
        state: see :func:`take`.

    Raises:
        ValueError: the state belongs to another environment or another replay buffer.
    """
    # 1. The environment
    env = model.get_env()
    assert env is not None
    numbers, arrays = state
    observation, starts = replay(env, numbers["beginning"], arrays["actions"])
    expected = arrays["observation"]
    if observation.shape != expected.shape:
        raise ValueError(
            f"the observations are of shape {observation.shape}, those of the training of "
            f"shape {expected.shape}"
        )
    if not np.array_equal(observation, expected):
        warn_user(
            "the runs of the environment differ from those of the training that was "
            "stopped: this machine, its libraries or its number of threads compute other "
            "last digits. The training goes on with them, not bit for bit as it would have."
        )
    model._last_obs = expected
    # SB3 has no public way to continue within an episode
    model._last_episode_starts = starts  # type: ignore[assignment]
    # 2. The memory of a recurrent policy
    for i, tensor in enumerate(_memory(model)):
        tensor.copy_(torch.from_numpy(arrays[f"memory/{i}"]))
    # 3. The replay buffer
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        saved = state.under("buffer")
        for name, value in saved.numbers.items():
            setattr(buffer, name, type(getattr(buffer, name))(value))
        for name, rows in _rows(buffer).items():
            found = _with_repetitions(name, saved.arrays)
            if rows.shape != found.shape:
                raise ValueError(
                    f"{name} of the replay buffer are of shape {rows.shape}, those of the "
                    f"training of shape {found.shape}"
                )
            rows[...] = found


def restore_generators(model: BaseAlgorithm, state: Checkpoint) -> None:
    """Restore all generators that a model draws from; see :func:`take`.

    Call it when a rollout has begun, whose noise may already have been drawn.
    """
    for name, tensor in _noise(model).items():
        tensor.copy_(torch.from_numpy(state.arrays[f"noise/{name}"]))
    saved = state.numbers["generators"]
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    legacy = saved["numpy"]
    key = np.array(legacy["state"]["key"], np.uint32)
    # The buffers of SB3 draw from NumPy's global generator
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(state.arrays["torch_generator"]))
    model.action_space.np_random.bit_generator.state = saved["action_space"]


def _generators(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the states of the generators, except torch's, as JSON values."""
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    key = legacy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**legacy, "state": {**legacy["state"], "key": key}},
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def _memory(model: BaseAlgorithm) -> list[torch.Tensor]:
    """Return the hidden states of a recurrent policy; an empty list for other policies."""
    states = getattr(model, "_last_lstm_states", None)
    return [] if states is None else [tensor for pair in states for tensor in pair]


def _noise(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """Return the noise of a policy with state-dependent exploration (gSDE), by name."""
    acting = getattr(model.policy, "actor", None) or model.policy
    values = vars(getattr(acting, "action_dist", acting))
    names = ("exploration_mat", "exploration_matrices")
    return {name: values[name].detach() for name in names if name in values}


def _rows(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """Return the rows in use of a replay buffer's arrays, by name."""
    size = buffer.buffer_size
    # One more if the next observation is stored in the next row
    count = size if buffer.full else min(size, buffer.pos + buffer.optimize_memory_usage)
    return {
        name: value[:count]
        for name, value in vars(buffer).items()
        if isinstance(value, np.ndarray) and value.shape[:1] == (size,)
    }


def _without_repetitions(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leave out next observations that equal the observations of the next row.

    This saves nearly half of a replay buffer: only at the end of a run they differ.
    """
    if "next_observations" not in rows:
        return rows
    after, before = rows["next_observations"], rows["observations"]
    own = [
        i for i in range(len(after))
        if i + 1 == len(after) or after[i].tobytes() != before[i + 1].tobytes()
    ]  # fmt: skip
    kept = {"next_observations": after[own], "own": np.array(own, np.int64)}
    return {**rows, **kept}


def _with_repetitions(name: str, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Restore an array of a replay buffer; reverses :func:`_without_repetitions`."""
    if name != "next_observations":
        return rows[name]
    whole = np.roll(rows["observations"], -1, axis=0)
    whole[rows["own"]] = rows[name]
    return whole
