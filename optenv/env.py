"""The single environment: a batch of one run."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from .actions import validate
from .autoreset import check_options
from .group import Group
from .rendering import line, picture
from .vector import LearningRateVectorEnv

__all__ = ["LearningRateEnv"]


class LearningRateEnv(gym.Env[np.ndarray, Any]):
    """Choose the learning rate of a training run, or also its update rule, step by step.

    ## Description
    A run trains one model on one task with one update rule, for a number of updates that is
    known from its start. The run is divided into `horizon` windows. At each control step the
    agent observes the telemetry of the run and changes the learning rate, which then holds
    for the updates of the next window.

    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make("optenv/LearningRate-v0", rule="momentum", horizon=20)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (24,)
    >>> observation, reward, terminated, truncated, info = env.step(
    ...     env.action_space.sample()
    ... )
    >>> sorted(info)
    ['diverged', 'loss', 'lr']

    ```

    ## Action Space
    The learning rate is the base learning rate times `exp(s)`, with a log-multiplier `s` that
    starts at 0 and stays within ±6.

    | Id | Space | Effect of an action `a` |
    |----|-------|-------------------------|
    | `optenv/LearningRate-v0` | `Box(-1, 1, (1,))` | `s` moves by `0.9 a` |
    | `optenv/DiscreteLearningRate-v0` | `Discrete(7)` | the learning rate is multiplied by `2 ** ((a - 3) / 2)` |
    | `optenv/UpdateRule-v0` | `Discrete(24)` | rule `a // 3` moves the parameters, and the learning rate is multiplied by 0.5, 1 or 2 for `a % 3` = 0, 1 or 2 |

    The rules of `optenv/UpdateRule-v0` are those of `optenv.rules.switching.NAMES`:

    | `a // 3` | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
    |----------|---|---|---|---|---|---|---|---|
    | rule | `sgd` | `momentum` | `nesterov` | `rmsprop` | `adam` | `nadam` | `lion` | `orthogonal-adam` |

    Adam is in force before the first action. Learning rates are those of Adam: another rule
    begins with steps as long as Adam's would be.

    ## Observation Space
    A vector within ±4 of the run's features, all but the learning rate and the length of the
    run free of the scales of loss, gradient and model. `optenv.telemetry.FEATURES` lists
    their names and meanings.

    | Id | Space | Entries |
    |----|-------|---------|
    | `optenv/LearningRate-v0` | `Box(-4, 4, (24,))` | the features |
    | `optenv/DiscreteLearningRate-v0` | `Box(-4, 4, (24,))` | the features |
    | `optenv/UpdateRule-v0` | `Box(-4, 4, (32,))` | the features, and a 1 at the rule that the last action chose (no 1 before the first action) |

    With the argument `features`, the values of further features follow the others.

    ## Rewards
    The decrease of the potential `log((L + 0.003 L0) / (1.003 L0))` in a control step, where
    `L` is the loss on at most 128 fixed examples of the run, and `L0` its initial value. The
    return is thus the log progress of the whole run. Where a loss is negative, or its initial
    value not positive, the potential grows with the difference of losses instead, see
    `optenv.rewards`.

    | `reward` | Examples |
    |----------|----------|
    | `"train"` | training examples |
    | `"validation"` | validation examples |
    | `"both"` | both: the mean of the two potentials |

    ## Starting State
    A new task of those that `tasks` names, with newly initialised parameters. The first
    observation is that of a run without a past.

    ## Episode End
    The episode ends if:

    1. Termination: the run has made all its updates (progress is observed).
    2. Termination: the run has diverged, i.e. its loss is not finite, or more than about 20
       times the initial loss; or, if that is not positive, about 10 times its absolute value
       (at least 1) above it. It then returns less than every run that has not diverged. With
       `on_divergence="absorb"` the episode goes on, without further reward, to the horizon.

    There is no truncation.

    ## Info
    `reset()` returns an empty dict. A step returns:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `loss` | `float` | loss on the examples of the reward (`"both"`: the training examples); infinite if it is not finite |
    | `lr` | `float` | learning rate of the step's first update |
    | `diverged` | `bool` | whether the run has diverged |
    | `validation_loss` | `float` | at the end of a run: loss on all its validation examples |

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `tasks` | `"mlp-classification"` | task families, splits, or task objects |
    | `rule` | `"adam"` | update rule (`"switching"` in `optenv/UpdateRule-v0`) |
    | `action` | of the id | kind of action, or a dict of its fields |
    | `horizon` | `40` | control steps of a run |
    | `updates_per_step` | `10` | updates in a window on average, or a range to draw from |
    | `max_work` | `None` | limit on the multiplications of a run |
    | `spacing` | `1.0` | above 1: control steps are denser early in the run |
    | `base_lr` | `None` | base learning rate, or a range to draw from; None: the rule's |
    | `reward` | `"train"` | reward, see above |
    | `on_divergence` | `"end"` | `"end"` or `"absorb"` |
    | `reparametrize` | `0.0` | spread of random factors of the parameter tensors |
    | `loss_dropout` | `0.0` | fraction of the runs whose losses are not observed |
    | `anytime` | `False` | whether the length of a run is hidden |
    | `features` | `()` | names of further features |
    | `device` | `"cpu"` | torch device |
    | `dtype` | `"float32"` | type of the runs and of both spaces |
    | `render_mode` | `None` | `"ansi"`: a line of text; `"rgb_array"`: curves of loss and learning rate |

    `optenv.settings.Settings` has the details. An argument that is not valid raises a
    `ValueError` or a `TypeError` that says what is.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=256)` advances 256 runs at once as batched tensors, see
    `optenv.LearningRateVectorEnv`.

    ## Version History
    - v0: initial version.
    """  # noqa: E501

    metadata: dict[str, Any] = {
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 10,
    }

    #: Class of the batch of one that does the work.
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
        # For rendering: losses and learning rates so far, and the last reward.
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._reward = 0.0

    def describe(self) -> dict[str, Any]:
        """Describe the environment for a policy that was trained on it.

        See :meth:`optenv.settings.Settings.describe`.
        """
        return self.batch.describe()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new run; there are no options.

        Raises:
            ValueError, TypeError: options are given.
        """
        check_options(options)
        super().reset(seed=seed)
        if seed is not None or not self.batch.started:
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
        # Validated here as well, so that messages are about the single action space.
        batch = validate(self.action_space, action)[None]
        if self.batch.ended[0]:
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
        """Group of one run that does the work."""
        return self.batch.groups[0][1]

    @property
    def num_steps(self) -> int:
        """Control steps of an episode."""
        return self.group.num_steps

    def render(self) -> str | np.ndarray | None:  # type: ignore[override]
        """Render losses and learning rates so far, as the render mode says.

        Returns:
            A line of text, an image ``[H, W, 3]`` uint8, or None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.render_mode is not None and not self._losses:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self.render_mode == "rgb_array":
            return picture(self._losses, self._rates, self.num_steps)
        if self.render_mode == "ansi":
            rate = self._rates[-1] if self._rates else float(self.group.state.base_lr[0])
            done, loss = len(self._rates), self._losses[-1]
            return line(done, self.num_steps, loss, rate, self._reward)
        return None
