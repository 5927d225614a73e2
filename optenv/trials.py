"""Trials: several training runs on one task, one after the other.

What was learned about the task in the first run can serve in the next ones, to an agent
that remembers it (RL², Duan et al., 2016; Wang et al., 2016). All runs of a trial have the
same structure, data and base learning rate; each begins with new parameters and batches in
another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from .actions import Action
from .checks import positive_int
from .env import LearningRateEnv
from .telemetry import OBSERVATION_BOUND
from .vector import LearningRateVectorEnv

#: What an observation has beyond the telemetry, after the previous action.
EXTRA = ("previous_reward", "new_run")

PREVIOUS_REWARDS = ("given", "told")


def trial_space(telemetry: spaces.Box, action: Action) -> spaces.Box:
    """Space of one observation of a trial, given that of a run's telemetry."""
    bound, size = OBSERVATION_BOUND, telemetry.shape[0] + action.outputs + len(EXTRA)
    return spaces.Box(-bound, bound, (size,), telemetry.dtype)  # type: ignore[arg-type]


class TrialVectorEnv(LearningRateVectorEnv):
    """A batch of trials; one of them is a :class:`TrialEnv`.

    Args:
        num_envs: number of trials.
        runs: runs of a trial.
        previous_reward: which previous reward is observed: ``"given"``, the environment's,
            or ``"told"``, what an optimizer knows of it, which has no examples apart from
            its batches: the decrease of the log of their mean loss against the step before.
        **arguments: of :class:`~optenv.LearningRateVectorEnv`.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    _others = (*LearningRateVectorEnv._others, "runs", "previous_reward")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        runs: int = 3,
        previous_reward: str = "given",
        **arguments: Any,
    ) -> None:
        self.runs = positive_int("runs", runs)
        if previous_reward not in PREVIOUS_REWARDS:
            raise ValueError(
                f"unknown previous_reward {previous_reward!r}; "
                f"valid: {', '.join(PREVIOUS_REWARDS)}"
            )
        self.previous_reward = previous_reward
        super().__init__(num_envs, **arguments)
        self._run = np.zeros(num_envs, np.int64)

    def describe(self) -> dict[str, Any]:
        """What a policy trained here must know to act elsewhere (JSON-able)."""
        seen = {"previous_reward": self.previous_reward}
        return {**super().describe(), "runs": self.runs, **seen}

    def _observation_space(self) -> spaces.Box:
        return trial_space(super()._observation_space(), self.action)

    def _reset(self, mask: np.ndarray) -> np.ndarray:
        self._run[mask] = 0
        return self._extended(super()._reset(mask), new_run=mask)

    def _step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        run = self._run.copy()
        observation, reward, ended, info = super()._step(actions, active)
        self._run = self._run + ended
        again = ended & (self._run < self.runs)
        if again.any():
            observation[again] = self._begin(again, again=True)[again]
        if info:
            info |= {"run": run * active, "_run": active.copy()}
        observation = self._extended(observation, again, actions, reward)
        return observation, reward, ended & ~again, info

    def _extended(
        self,
        observation: np.ndarray,
        new_run: np.ndarray,
        actions: np.ndarray | None = None,
        reward: np.ndarray | None = None,
    ) -> np.ndarray:
        """Observations with the previous action and reward, and the beginnings of runs."""
        count, size = len(observation), self.action.outputs
        before = np.zeros((count, size + len(EXTRA)), observation.dtype)
        if actions is not None and reward is not None:
            said = self.action.encode(torch.from_numpy(actions))
            before[:, :size] = said.numpy()
            seen = np.nan_to_num(self._told) if self.previous_reward == "told" else reward
            before[:, -2] = seen.clip(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        before[:, -1] = new_run
        return np.concatenate([observation, before], axis=1)


class TrialEnv(LearningRateEnv):
    """Choose the learning rates of several training runs on one task.

    ## Description
    A trial is `runs` runs of :class:`~optenv.LearningRateEnv` with the same model, data and
    base learning rate, each from new initial parameters and with batches in another order.
    An agent with a memory can do better in the second run than in the first.

    ## Action Space
    That of the environment of a single run: `optenv/LearningRateTrial-v0` has that of
    `optenv/LearningRate-v0`, `optenv/DiscreteLearningRateTrial-v0` that of
    `optenv/DiscreteLearningRate-v0`, `optenv/UpdateRuleTrial-v0` that of
    `optenv/UpdateRule-v0`.

    ## Observation Space
    `Box(-4, 4)`: the observation of a single run; the previous action (of a discrete one,
    a 1 at its place); the previous reward; and 1 at the beginning of a run, 0 elsewhere.
    With `previous_reward="told"` that reward is what an optimizer knows of it, in nats.
    These are the numbers of a single run's observation, of `env.action.outputs` (1 of a
    continuous action, `n` of `Discrete(n)`), and 2. `info["run"]` is the number of the run
    that the step was of, and `validation_loss` is there at the end of each.
    Action and reward are those of the step before, also across the runs of a trial, and 0
    at its beginning.

    ## Rewards
    Those of a single run. The return of a trial is the sum over its runs.

    ## Starting State
    A new task, newly initialised parameters.

    ## Episode End
    Termination: the last run of the trial has ended, by the rules of a single run. At the
    end of the others the observation is the first of the next run.

    ## Arguments
    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make("optenv/LearningRateTrial-v0", runs=2, horizon=20)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (27,)

    ```
    `runs` (3 by default), `previous_reward` (`"given"` by default), and those of the
    environment of a single run.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=256)` advances 256 trials at once as batched tensors.

    ## Version History
    - v0: initial version.
    """

    vector_class = TrialVectorEnv
    batch: TrialVectorEnv

    @property
    def num_steps(self) -> int:
        """Control steps of a trial."""
        return self.group.num_steps * self.batch.runs
