"""Buffer of a recording's rows, which writes them to a file in row groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .columns import Columns
from .parquet import ParquetFile, array, vectors_or_null

__all__ = ["Tape"]

#: Number of values in a row group, and its least and largest number of rows.
GROUP_VALUES, GROUP_ROWS = 2**21, (1024, 65_536)

#: Entries of a reset's info that are costs so far, so that they do not hold for later rows.
COSTS = ("examples", "work")

#: Entry of a reset's info that differs among the runs of a trial.
OF_A_RUN = "initial_loss"

#: Entry of an info that is only there at the end of a run.
AT_END = "validation_loss"


class Tape:
    """Rows of the control steps of ``B`` environments.

    Args:
        file: file to write to.
        num_envs: number of environments, ``B``.
        observations: names of the columns of an observation.
        actions: names of the columns of an action.
    """

    def __init__(
        self,
        file: ParquetFile,
        num_envs: int,
        observations: Sequence[str],
        actions: Sequence[str],
    ) -> None:
        self._file = file
        self._observations, self._actions = list(observations), list(actions)
        width = len(self._observations) + len(self._actions)
        self._group_rows = int(np.clip(GROUP_VALUES // width, *GROUP_ROWS))
        self._blocks: list[Columns] = []
        self._vectors: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        self._finals: list[np.ndarray | None] = []
        self._rows = self._episodes = 0
        # State of each environment: its episode, its run in the trial, its step in the run.
        self.observation = np.zeros((num_envs, len(self._observations)))
        self._episode, self._run, self._step, self._steps, self._seed, self._resets = (
            np.zeros((6, num_envs), np.int64)
        )
        self._seeded = np.zeros(num_envs, np.bool_)
        self._identity: Columns = {}

    def begin(
        self,
        chosen: np.ndarray,
        observation: np.ndarray,
        info: Columns,
        steps: np.ndarray,
        seeds: Sequence[int | None] | None = None,
    ) -> None:
        """Begin episodes.

        Args:
            chosen: mask ``[B]`` of the environments that begin an episode.
            observation: their first observations, ``[B, F]``.
            info: info of the reset.
            steps: number of control steps of their runs, ``[B]``.
            seeds: seeds of the reset; None for no seeds.
        """
        self.observation = np.where(chosen[:, None], observation, self.observation)
        self.observation = self.observation.astype(observation.dtype)
        count = int(chosen.sum())
        self._episode[chosen] = self._episodes + np.arange(count)
        self._episodes += count
        self._run[chosen] = self._step[chosen] = 0
        self._steps[chosen] = steps[chosen]
        self._resets[chosen] += 1
        for i in np.flatnonzero(chosen).tolist():
            seed = None if seeds is None else seeds[i]
            if seed is not None and seed < 2**63:  # a column has 64 bits and a sign
                self._seed[i], self._seeded[i], self._resets[i] = seed, True, 0
        for _, valid in self._identity.values():
            valid &= ~chosen
        for name, (values, valid) in info.items():
            if name not in COSTS:
                self._identity[name] = _merged(
                    self._identity.get(name), values, valid & chosen
                )

    def add(
        self,
        active: np.ndarray,
        action: np.ndarray,
        result: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        info: Columns,
        seconds: tuple[float, float],
    ) -> None:
        """Add a row for each environment that takes part in a step.

        Args:
            active: mask ``[B]`` of these environments.
            action: actions ``[B, ...]``.
            result: observations ``[B, F]`` after the step, before a reset; rewards,
                terminated and truncated ``[B]``.
            info: info of the step.
            seconds: time of the agent and of the environment for the batch, in seconds.
        """
        count = int(active.sum())
        if not count:
            return
        observation, reward, terminated, truncated = result
        # 1. Runs of a trial: a new run counts its steps from 0.
        if "run" in info:
            run, valid = info["run"]
            new = valid & active & (run != self._run)
            self._run[new], self._step[new] = run[new], 0
            if OF_A_RUN in self._identity:  # the reset's entry is the first run's
                known = self._identity[OF_A_RUN][1]
                known &= ~new | (self._run == 0)
        ended = terminated | truncated
        run_ended = ended | (info[AT_END][1] if AT_END in info else False)
        # 2. The row.
        always = np.ones(len(active), np.bool_)
        agent, environment = (np.full(len(active), each / count) for each in seconds)
        block: Columns = {
            "env": (np.arange(len(active)), always),
            "episode": (self._episode, always),
            "seed": (self._seed, self._seeded),
            "resets": (self._resets, self._seeded),
            "run": (self._run, always),
            "step": (self._step, always),
            "steps": (self._steps, always),
            "reward": (np.asarray(reward, np.float64), always),
            "terminated": (terminated, always),
            "truncated": (truncated, always),
            "run_ended": (run_ended, always),
            "agent_seconds": (agent, always),
            "env_seconds": (environment, always),
        }
        own = set(block)
        merged = dict(self._identity)
        for name, (values, valid) in info.items():
            merged[name] = _merged(merged.get(name), values, valid & active)
        block |= {name: column for name, column in merged.items() if name not in own}
        everywhere = bool(active.all())
        self._blocks.append(
            {
                name: (values.copy(), valid.copy())
                if everywhere
                else (values[active], valid[active])
                for name, (values, valid) in block.items()
            }
        )
        flat = np.asarray(action).reshape(len(active), -1)
        self._vectors[0].append(self.observation[active])
        self._vectors[1].append(flat[active])
        self._finals += [
            observation[i].copy() if ended[i] else None for i in np.flatnonzero(active)
        ]
        # 3. The state for the next step.
        self._rows += count
        self._step[active] += 1
        self.observation = np.where(active[:, None], observation, self.observation)
        if self._rows >= self._group_rows:
            self._flush()

    def _flush(self) -> None:
        """Write the rows so far as a row group."""
        if not self._rows:
            return
        names = dict.fromkeys(name for block in self._blocks for name in block)
        lengths = [len(block["env"][0]) for block in self._blocks]
        columns = {}
        for name in names:
            parts = [block.get(name) for block in self._blocks]
            values, valid = _joined(parts, lengths)
            columns[name] = array(values, None if valid.all() else valid)
        for group, blocks in zip(
            (self._observations, self._actions), self._vectors, strict=True
        ):
            vectors = np.concatenate(blocks).T.copy()
            columns |= {name: array(row) for name, row in zip(group, vectors, strict=True)}
        columns["final_observation"] = vectors_or_null(self._finals, self.observation.dtype)
        self._file.write(columns)
        self._blocks, self._vectors, self._finals, self._rows = [], ([], []), [], 0

    def close(self) -> None:
        """Write the last rows, and finish the file."""
        if not self._file.closed:
            self._flush()
            self._file.close()


def _merged(
    before: tuple[np.ndarray, np.ndarray] | None, values: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace earlier values by new ones where these are valid."""
    if before is None or before[0].shape != values.shape:
        return values, valid
    known, known_valid = before
    mask = valid.reshape(-1, *[1] * (values.ndim - 1))
    return np.where(mask, values, known), valid | known_valid


def _joined(
    parts: Sequence[tuple[np.ndarray, np.ndarray] | None], lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Join the parts of a column; blocks without it get invalid values."""
    like = next(part[0] for part in parts if part is not None)
    values, valid = [], []
    for part, length in zip(parts, lengths, strict=True):
        if part is None:
            part = (
                np.zeros((length, *like.shape[1:]), like.dtype),
                np.zeros(length, np.bool_),
            )
        values.append(part[0])
        valid.append(part[1])
    return np.concatenate(values), np.concatenate(valid)
