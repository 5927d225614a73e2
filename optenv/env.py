"""The single environment: a batch of one."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from .actions import validate
from .group import Group
from .rendering import line, picture
from .vector import LearningRateVectorEnv


class LearningRateEnv(gym.Env[np.ndarray, Any]):
    """Choose the learning rate of a training run, or also its update rule, step by step.

    ## Description
    A run trains one model on one task with one update rule. At every control step the
    agent looks at the telemetry of the run and moves the learning rate, which then holds
    for the updates up to the next control step.

    ## Action Space
    `optenv/LearningRate-v0`: `Box(-1, 1, (1,))`; the log-multiplier `s` of the base
    learning rate moves by 0.9 times the action, within ±6.
    `optenv/DiscreteLearningRate-v0`: `Discrete(7)`; the learning rate is multiplied by
    `2 ** (k / 2)`, `k = -3 ... 3`.
    `optenv/UpdateRule-v0`: `Discrete(24)`; action `a` chooses rule `a // 3` of
    `optenv.rules.switching.NAMES` (`sgd`, `momentum`, `nesterov`, `rmsprop`, `adam`,
    `nadam`,
    `lion`, `orthogonal-adam`) and multiplies the learning rate by 0.5, 1 or 2. Learning
    rates are of Adam's steps: another rule begins with steps as long as those would be.

    ## Observation Space
    `Box(-4, 4, (24,))`: the features of `optenv.telemetry.FEATURES`, all but two free of
    the scales of loss, gradient, learning rate and model. `optenv/UpdateRule-v0`:
    `Box(-4, 4, (32,))`, with a 1 at the rule in force, and none before the first action.

    ## Rewards
    The decrease of `log((L + 0.003 L0) / (1.003 L0))`, where `L` is the loss on 128 fixed
    examples of the run (`reward="train"`, `"validation"`, or `"both"`: the mean over
    the two) and `L0` its value at the start. The return is thus the log progress of the
    whole run.

    ## Starting State
    A new task, newly initialised parameters; the first observation is that of a run
    without a past.

    ## Episode End
    1. Termination: the run has made all its updates (their share is observed).
    2. Termination: the run has diverged (loss not finite, or more than about 20 times the
       initial loss). It then returns less than every run that has not.
       `on_divergence="absorb"` keeps such a run, without further reward, to the end.

    ## Arguments
    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make("optenv/LearningRate-v0", rule="momentum", horizon=20)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (24,)

    ```
    All arguments: :class:`optenv.settings.Settings`; `render_mode` is `"ansi"` (one
    line of text) or `"rgb_array"` (curves of loss and learning rate).

    ## Vectorized environment
    `gym.make_vec(id, num_envs=256)` advances 256 runs at once as batched tensors.

    ## Version History
    - v0: initial version.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 10,
    }

    #: Of which this is a batch of one.
    vector_class: type[LearningRateVectorEnv] = LearningRateVectorEnv

    def __init__(self, *, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            valid = ", ".join(map(repr, self.metadata["render_modes"]))
            raise ValueError(f"render_mode must be None, {valid}, got {render_mode!r}")
        self.render_mode = render_mode
        self.batch = self.vector_class(
            1, autoreset_mode=AutoresetMode.DISABLED, **arguments
        )
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._reward = 0.0

    def describe(self) -> dict[str, Any]:
        """What a policy trained here must know to act elsewhere (JSON-able)."""
        return self.batch.describe()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new run; ``options`` is ignored."""
        super().reset(seed=seed)
        if seed is not None or not self.batch._generators:
            self.batch.adopt(self.np_random)
        observation, _ = self.batch.reset()
        self._losses = [float(self.group.state.loss[0, 0])]
        self._rates, self._reward = [], 0.0
        return observation[0], {}

    def step(
        self, action: Any
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one control step.

        Raises:
            ValueError: the action is out of range, or the run has ended.
        """
        # Here too, so that what is wrong is said of this space, not of the batch's.
        batch = validate(self.action_space, action)[None]
        if self.batch._finished[0]:
            raise ValueError("the run has ended; call reset()")
        observation, reward, terminated, _, batched = self.batch.step(batch)
        info = {
            key: value[0].item()
            for key, value in batched.items()
            if not key.startswith("_") and batched["_" + key][0]
        }
        self._losses.append(info["loss"])
        self._rates.append(info["lr"])
        self._reward = float(reward[0])
        return observation[0], float(reward[0]), bool(terminated[0]), False, info

    @property
    def group(self) -> Group:
        """The group of one that this environment is."""
        return self.batch.groups[0][1]

    @property
    def num_steps(self) -> int:
        """Control steps of an episode."""
        return self.group.num_steps

    def render(self) -> str | np.ndarray | None:  # type: ignore[override]
        """Loss and learning rate so far, as text or picture, by the render mode."""
        if self.render_mode is not None and not self._losses:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self.render_mode == "rgb_array":
            return picture(self._losses, self._rates, self.num_steps)
        if self.render_mode == "ansi":
            rate = self._rates[-1] if self._rates else float(self.group.state.base_lr[0])
            done, loss = len(self._rates), self._losses[-1]
            return line(done, self.num_steps, loss, rate, self._reward)
        return None
