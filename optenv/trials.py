"""Trials: several training runs on one task, one after the other.

An agent with a memory can use in later runs what it has learned about the task in the first
one (RL², Duan et al., 2016; Wang et al., 2016). All runs of a trial have the same
structure, data and base learning rate. Each starts from new parameters and has its batches
in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from .actions import Action
from .checks import known, positive_int
from .env import LearningRateEnv
from .instances import Instance
from .telemetry import OBSERVATION_BOUND
from .vector import LearningRateVectorEnv

__all__ = ["EXTRA", "PREVIOUS_REWARDS", "TrialEnv", "TrialVectorEnv", "trial_space"]

#: Entries of an observation after the telemetry and the encoding of the previous action.
EXTRA = ("previous_reward", "new_run")

#: Values of the ``previous_reward`` argument.
PREVIOUS_REWARDS = ("given", "told")


def trial_space(run_space: spaces.Box, action: Action) -> spaces.Box:
    """Make the space of one observation of a trial.

    Args:
        run_space: space of the observations of a single run.
        action: the action, whose encoding is observed.
    """
    bound = OBSERVATION_BOUND
    width = run_space.shape[0] + action.slots * action.outputs + len(EXTRA)
    return spaces.Box(-bound, bound, (width,), run_space.dtype)  # type: ignore[arg-type]


class TrialVectorEnv(LearningRateVectorEnv):
    """Choose the learning rates of several runs on one task, for a batch of tasks.

    ## Description
    A batch of `num_envs` trials, each equivalent to a `TrialEnv`, which documents them. It
    advances like a `LearningRateVectorEnv`.

    ## Action Space
    The single action space with a first dimension of `num_envs`:

    | Id | Space |
    |----|-------|
    | `optenv/LearningRateTrial-v0` | `Box(-1, 1, (num_envs, 1))` |
    | `optenv/DiscreteLearningRateTrial-v0` | `MultiDiscrete([7, ..., 7])` |
    | `optenv/UpdateRuleTrial-v0` | `MultiDiscrete([24, ..., 24])` |
    | `optenv/HyperparametersTrial-v0` | `Box(-1, 1, (num_envs, 6))` |
    | `optenv/RoleLearningRateTrial-v0` | `Box(-1, 1, (num_envs, 4))` |
    | `optenv/LayerwiseLearningRateTrial-v0` | `Box(-1, 1, (num_envs, 64))` |
    | `optenv/UpdateTrial-v0` | `Box(-1, 1, (num_envs, 2))` |
    | `optenv/BatchSizeTrial-v0` | `MultiDiscrete([7, ..., 7])` |

    ## Observation Space
    The single observation space with a first dimension of `num_envs`:

    | Id | Space |
    |----|-------|
    | `optenv/LearningRateTrial-v0` | `Box(-4, 4, (num_envs, 28))` |
    | `optenv/DiscreteLearningRateTrial-v0` | `Box(-4, 4, (num_envs, 34))` |
    | `optenv/UpdateRuleTrial-v0` | `Box(-4, 4, (num_envs, 59))` |
    | `optenv/HyperparametersTrial-v0` | `Box(-4, 4, (num_envs, 38))` |
    | `optenv/RoleLearningRateTrial-v0` | `Box(-4, 4, (num_envs, 35))` |
    | `optenv/LayerwiseLearningRateTrial-v0` | `Box(-4, 4, (num_envs, 987))` |
    | `optenv/UpdateTrial-v0` | `Box(-4, 4, (num_envs, 42))` |
    | `optenv/BatchSizeTrial-v0` | `Box(-4, 4, (num_envs, 35))` |

    ## Rewards
    `[num_envs]` float64, the rewards of the single environments; 0 for trials that a step
    only resets.

    ## Starting State
    As in `LearningRateVectorEnv`: a group of trials draws a new structure whenever all of
    them are reset together.

    ## Episode End
    Each trial ends like the single environment (`truncated` is always False), and is reset
    according to `autoreset_mode`, as in `LearningRateVectorEnv`. Within a trial, a run that
    ends is followed by the next one in the same step.

    ## Info
    As in `LearningRateVectorEnv`, with one more key:

    | Key | Meaning |
    |-----|---------|
    | `run` | number of the run that the step was part of, from 0 |

    `validation_loss` and the keys that a reset returns are valid at the end of each run of
    a trial, and describe that run.

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `runs` | `3` | runs of a trial |
    | `previous_reward` | `"told"` | previous reward to observe, see `TrialEnv` |

    All others are those of `LearningRateVectorEnv`.

    ## Version History
    - v0: initial version.
    """

    own_arguments = (*LearningRateVectorEnv.own_arguments, "runs", "previous_reward")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        runs: int = 3,
        previous_reward: str = "told",
        **arguments: Any,
    ) -> None:
        self.runs = positive_int("runs", runs)
        known("previous_reward", previous_reward, PREVIOUS_REWARDS)
        self.previous_reward = previous_reward
        super().__init__(num_envs, **arguments)
        self._run = np.zeros(num_envs, np.int64)

    def describe(self) -> dict[str, Any]:
        """Describe the environment for a policy that was trained on it.

        See :meth:`optenv.settings.Settings.describe`.
        """
        return {
            **super().describe(),
            "runs": self.runs,
            "previous_reward": self.previous_reward,
        }

    @property
    def num_steps(self) -> np.ndarray:
        """Control steps of each trial, ``[num_envs]``, unless a run of it diverges.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        return super().num_steps * self.runs

    def _observation_space(self) -> spaces.Box:
        return trial_space(super()._observation_space(), self.action)

    def _reset(
        self, mask: np.ndarray, given: list[Instance | None] | None = None
    ) -> np.ndarray:
        self._run[mask] = 0
        return self._extend(super()._reset(mask, given), new_run=mask)

    def _step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        run = self._run.copy()
        observation, reward, run_ended, info = super()._step(actions, active)
        # A run that ends is followed by the next one of its trial.
        self._run = self._run + run_ended
        next_run = run_ended & (self._run < self.runs)
        if next_run.any():
            observation[next_run] = self._begin(next_run, same_task=True)[next_run]
        if info:
            info |= {"run": run * active, "_run": active.copy()}
        observation = self._extend(observation, next_run, actions, reward)
        return observation, reward, run_ended & ~next_run, info

    def _extend(
        self,
        observation: np.ndarray,
        new_run: np.ndarray,
        actions: np.ndarray | None = None,
        reward: np.ndarray | None = None,
    ) -> np.ndarray:
        """Append the previous action, the previous reward and the flag of a new run.

        Args:
            observation: observations of single runs, ``[num_envs, F]``.
            new_run: runs that begin, ``[num_envs]`` bool.
            actions: previous actions ``[num_envs, ...]``; None at the beginning of trials.
            reward: previous rewards ``[num_envs]``; None at the beginning of trials.
        """
        width = self.action.slots * self.action.outputs
        extra = np.zeros((len(observation), width + len(EXTRA)), observation.dtype)
        if actions is not None and reward is not None:
            encoding = self.action.encode(torch.from_numpy(actions)).numpy()
            if self.action.per_tensor:  # entries beyond the model's tensors have no effect
                slot = np.arange(width) // self.action.outputs
                encoding = np.where(slot < self.num_tensors[:, None], encoding, 0.0)
            extra[:, :width] = encoding
            if self.previous_reward == "told":
                reward = np.nan_to_num(self._estimated_reward)
            extra[:, -2] = reward.clip(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        extra[:, -1] = new_run
        return np.concatenate([observation, extra], axis=1)


class TrialEnv(LearningRateEnv):
    """Choose the learning rates of several training runs on one task.

    ## Description
    A trial is `runs` runs of `LearningRateEnv` with the same model, data and base learning
    rate, each from new initial parameters and with batches in another order. An agent with
    a memory can do better in the second run than in the first.

    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make("optenv/LearningRateTrial-v0", runs=2, horizon=20)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (28,)
    >>> observation, reward, terminated, truncated, info = env.step(
    ...     env.action_space.sample()
    ... )
    >>> sorted(info)
    ['diverged', 'loss', 'lr', 'run']

    ```

    ## Action Space
    The action space of the environment of single runs:

    | Id | Space | Actions as in |
    |----|-------|---------------|
    | `optenv/LearningRateTrial-v0` | `Box(-1, 1, (1,))` | `optenv/LearningRate-v0` |
    | `optenv/DiscreteLearningRateTrial-v0` | `Discrete(7)` | `optenv/DiscreteLearningRate-v0` |
    | `optenv/UpdateRuleTrial-v0` | `Discrete(24)` | `optenv/UpdateRule-v0` |
    | `optenv/HyperparametersTrial-v0` | `Box(-1, 1, (6,))` | `optenv/Hyperparameters-v0` |
    | `optenv/RoleLearningRateTrial-v0` | `Box(-1, 1, (4,))` | `optenv/RoleLearningRate-v0` |
    | `optenv/LayerwiseLearningRateTrial-v0` | `Box(-1, 1, (64,))` | `optenv/LayerwiseLearningRate-v0` |
    | `optenv/UpdateTrial-v0` | `Box(-1, 1, (2,))` | `optenv/Update-v0` |
    | `optenv/BatchSizeTrial-v0` | `Discrete(7)` | `optenv/BatchSize-v0` |

    ## Observation Space
    A vector within ±4, in this order:

    | Entries | Number |
    |---------|--------|
    | observation of a single run | 25, 25, 33, 30, 29, 921, 38 or 26 |
    | previous action; a discrete one as a 1 at its index; 0 beyond the tensors of a model | 1, 7, 24, 6, 4, 64, 2 or 7 |
    | previous reward | 1 |
    | 1 at the beginning of a run, else 0 | 1 |

    | Id | Space |
    |----|-------|
    | `optenv/LearningRateTrial-v0` | `Box(-4, 4, (28,))` |
    | `optenv/DiscreteLearningRateTrial-v0` | `Box(-4, 4, (34,))` |
    | `optenv/UpdateRuleTrial-v0` | `Box(-4, 4, (59,))` |
    | `optenv/HyperparametersTrial-v0` | `Box(-4, 4, (38,))` |
    | `optenv/RoleLearningRateTrial-v0` | `Box(-4, 4, (35,))` |
    | `optenv/LayerwiseLearningRateTrial-v0` | `Box(-4, 4, (987,))` |
    | `optenv/UpdateTrial-v0` | `Box(-4, 4, (42,))` |
    | `optenv/BatchSizeTrial-v0` | `Box(-4, 4, (35,))` |

    Previous action and reward are those of the last step, even if that was part of the
    previous run of the trial; they are 0 at the beginning of a trial. The previous reward
    depends on an argument:

    | `previous_reward` | Observed |
    |-------------------|----------|
    | `"told"` | an estimate that an optimizer can compute from the losses of its batches alone: the decrease of their mean since the last step, in units of the range of the losses so far (with `loss_features="positive"` or `"both"`: the decrease of its logarithm, in nats) |
    | `"given"` | the reward of the environment, which an optimizer cannot compute: such a policy cannot be exported |

    ## Rewards
    The rewards of single runs. The return of a trial is the sum over its runs.

    ## Starting State
    A new task with newly initialised parameters.

    ## Episode End
    Termination: the last run of the trial has ended, by the rules of a single run. At the
    end of the others, the observation is the first of the next run. There is no truncation.

    ## Info
    As in `LearningRateEnv`, with one more key:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `run` | `int` | number of the run that the step was part of, from 0 |

    The keys returned at the end of a run are present at the end of each run of a trial, and
    describe that run.

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `runs` | `3` | runs of a trial |
    | `previous_reward` | `"told"` | previous reward to observe, see above |

    All others are those of `LearningRateEnv`.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=256)` advances 256 trials at once as batched tensors, see
    `optenv.TrialVectorEnv`. `optenv.PerTensor` makes a sub-environment of each parameter
    tensor of a batch of `optenv/LayerwiseLearningRateTrial-v0`, with a previous action of
    its own.

    ## Version History
    - v0: initial version.
    """  # noqa: E501

    vector_class = TrialVectorEnv
    batch: TrialVectorEnv

    @property
    def num_steps(self) -> int:
        """Control steps of a trial."""
        return self.group.num_steps * self.batch.runs
