"""The batched environment: a thin shell around groups of runs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from . import settings
from .actions import Action, validate
from .actions import make as make_action
from .autoreset import reset_mask, split_final
from .group import Group
from .telemetry import FEATURES, OBSERVATION_BOUND

#: Runs that a group of a mixed batch holds, unless ``groups`` says otherwise.
GROUP_SIZE = 32


def observation_space(dtype: str, action: Action) -> spaces.Box:
    """Space of one observation: :data:`optenv.telemetry.FEATURES`, and what is observed
    of the last action.
    """
    bound, numpy_dtype = OBSERVATION_BOUND, settings.DTYPES[dtype][1]
    return spaces.Box(-bound, bound, (len(FEATURES) + action.observed,), numpy_dtype)


class LearningRateVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A batch of training runs; one of them is a :class:`optenv.LearningRateEnv`.

    Sub-environment ``i`` of ``reset(seed=s)`` is the single environment of the same
    structure with ``reset(seed=s + i)``, whatever the batch size.

    Args:
        num_envs: number of runs.
        groups: number of structures at a time. By default 1 if ``tasks`` is one
            :class:`~optenv.tasks.Task`, else one per 32 runs. A group draws a new
            structure whenever all its runs are reset together.
        autoreset_mode: any of Gymnasium's; ``DISABLED`` needs
            ``reset(options={"reset_mask": mask})``.
        render_mode: None; a batch is not rendered.
        **arguments: :class:`optenv.settings.Settings`.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    metadata: dict[str, Any] = {
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    #: Arguments that are not of the settings.
    _others: tuple[str, ...] = ("num_envs", "groups", "autoreset_mode", "render_mode")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        groups: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        self.settings = settings.make(arguments, self._others)
        counts = {"num_envs": num_envs, "groups": 1 if groups is None else groups}
        for name, value in counts.items():
            if not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs!r}")
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.action = make_action(self.settings.action)
        self.single_action_space = self.action.space(
            settings.DTYPES[self.settings.dtype][1]
        )
        self._seen = len(FEATURES) + self.action.observed
        self.single_observation_space = self._observation_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.groups = self._make_groups(groups)
        self._generators: list[np.random.Generator] = []
        self._finished = np.zeros(num_envs, np.bool_)
        self._told = np.zeros(num_envs)

    def _observation_space(self) -> spaces.Box:
        return observation_space(self.settings.dtype, self.action)

    def _make_groups(self, count: int | None) -> list[tuple[slice, Group]]:
        if count is None:
            fixed = Group(self.settings, 1).sampler.fixed
            count = 1 if fixed else max(1, self.num_envs // GROUP_SIZE)
        if not 1 <= count <= self.num_envs:
            raise ValueError(f"groups must lie in [1, {self.num_envs}], got {count!r}")
        edges = np.linspace(0, self.num_envs, count + 1).round().astype(int)
        return [
            (slice(a, b), Group(self.settings, b - a))
            for a, b in zip(edges.tolist(), edges[1:].tolist(), strict=False)
        ]

    def describe(self) -> dict[str, Any]:
        """What a policy trained here must know to act elsewhere (JSON-able)."""
        return self.settings.describe()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new runs.

        Args:
            seed: seed of the first run; run ``i`` gets ``seed + i``. Or one seed a run.
            options: ``{"reset_mask": bool array [num_envs]}`` resets and seeds only some.

        Returns:
            ``[num_envs, F]`` observations (zero where not reset) and an empty dict.

        Raises:
            ValueError, TypeError: the seeds or the mask do not fit the batch.
            gymnasium.error.ResetNeeded: the first reset leaves some runs out.
        """
        mask = reset_mask(options, self.num_envs)
        if not self._generators and not mask.all():
            raise gym.error.ResetNeeded("reset all runs before some of them")
        self._seed(seed, mask)
        observation = self._reset(mask)
        return observation, {}

    def _seed(self, seed: int | list[int | None] | None, mask: np.ndarray) -> None:
        if isinstance(seed, tuple):
            seed = list(seed)
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(
                f"seed must have one entry per run ({self.num_envs}), got {len(seed)}"
            )
        first = not self._generators
        if seed is None and not first:
            return
        if not isinstance(seed, list):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = seed
        pairs = [seeding.np_random(s) for s in seeds]
        for i, (generator, _) in enumerate(pairs):
            if first:
                self._generators.append(generator)
            elif seeds[i] is not None and mask[i]:
                self._generators[i] = generator
        if first or (seeds[0] is not None and mask[0]):
            self._np_random, self._np_random_seed = self._generators[0], pairs[0][1]
            # A child stream: drawing structures leaves the runs' own streams alone.
            self._structure = self._generators[0].spawn(1)[0]

    def adopt(self, generator: np.random.Generator) -> None:
        """Let the only run of a batch of one draw from ``generator``."""
        self._generators = [generator]
        self._structure = generator.spawn(1)[0]

    def _reset(self, mask: np.ndarray) -> np.ndarray:
        self._finished = self._finished & ~mask
        return self._begin(mask)

    def _begin(self, mask: np.ndarray, again: bool = False) -> np.ndarray:
        """First observations of new runs, zeros for the rest; ``again``: of their tasks."""
        space = self.single_observation_space
        observation = np.zeros((self.num_envs, self._seen), space.dtype)
        for where, group in self.groups:
            index = np.flatnonzero(mask[where])
            if len(index):
                rows = index + where.start
                generators = [self._generators[i] for i in rows]
                first = (
                    group.restart(index, generators)
                    if again
                    else group.reset(index, generators, self._structure)
                )
                observation[rows] = first.cpu().numpy()
        return observation

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one control step in every run.

        Args:
            actions: ``[num_envs, ...]`` of ``action_space``.

        Returns:
            Observations ``[num_envs, F]``, rewards, terminated, truncated (never) and
            ``info`` with ``loss``, ``lr`` and ``diverged`` of every run, and for runs that
            ended ``validation_loss``.

        Raises:
            ValueError: actions out of range, or runs that ended and were not reset.
        """
        batch = validate(self.action_space, actions)
        if not self._generators:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._finished.any():
            ended = np.flatnonzero(self._finished).tolist()
            raise ValueError(
                f"runs {ended} have ended; reset them with "
                "reset(options={'reset_mask': mask})"
            )
        resetting = self._finished.copy()
        observation, reward, terminated, info = self._step(batch, ~resetting)
        if resetting.any():  # NEXT_STEP: this step is their reset
            observation[resetting] = self._reset(resetting)[resetting]
        self._finished = terminated.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and terminated.any():
            info = split_final(observation, info, terminated)
            observation[terminated] = self._reset(terminated)[terminated]
        truncated = np.zeros(self.num_envs, np.bool_)
        return observation, reward, terminated, truncated, info

    def _step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        space = self.single_observation_space
        observation = np.zeros((self.num_envs, self._seen), space.dtype)
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        diverged = np.zeros(self.num_envs, np.bool_)
        loss, lr, final = (np.zeros(self.num_envs) for _ in range(3))
        for where, group in self.groups:
            here = active[where]
            if not here.any():
                continue
            result = group.step(
                torch.from_numpy(actions[where]), None if here.all() else here
            )
            observation[where] = result.observation.cpu().numpy()
            reward[where] = result.reward.cpu().numpy() * here
            terminated[where] = result.terminated.cpu().numpy() & here
            diverged[where] = result.diverged.cpu().numpy() & here
            loss[where] = _finite(group.state.loss[:, 0]) * here
            lr[where] = result.lr.cpu().numpy() * here
            self._told[where] = result.told.cpu().numpy()
            ended = np.flatnonzero(terminated[where])
            if len(ended):
                final[ended + where.start] = _finite(group.validation_loss(ended))
        if not active.any():  # every run is being reset, which tells nothing
            return observation, reward, terminated, {}
        info: dict[str, Any] = {
            "loss": loss, "_loss": active.copy(),
            "lr": lr, "_lr": active.copy(),
            "diverged": diverged, "_diverged": active.copy(),
        }  # fmt: skip
        if terminated.any():
            info |= {"validation_loss": final, "_validation_loss": terminated.copy()}
        return observation, reward, terminated, info


def _finite(loss: torch.Tensor) -> np.ndarray:
    """Losses with infinity for NaN, which does not even equal itself."""
    return np.nan_to_num(loss.cpu().numpy().astype(np.float64), nan=np.inf, posinf=np.inf)
