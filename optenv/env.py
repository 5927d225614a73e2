"""The single environment: a batch of one run."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from .actions import Action, validate
from .assignment import read
from .autoreset import check_options
from .group import Group
from .rendering import RENDER_MODES
from .settings import check_names
from .vector import BATCH_ARGUMENTS, LearningRateVectorEnv

__all__ = ["LearningRateEnv"]


class LearningRateEnv(gym.Env[np.ndarray, Any]):
    """Control the training of a network, one decision at a time.

    The environment id says what an action sets, for example the learning rate, the update
    rule or the batch size.

    ## Description
    A run trains one model on one task with one update rule, for a number of updates that is
    known from its start. The run is divided into `horizon` windows of updates. At each
    control step the agent observes the telemetry of the run and changes the learning rate,
    which then holds for the updates of the next window.

    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make("optenv/LearningRate-v0", rule="momentum", horizon=20)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (25,)
    >>> observation, reward, terminated, truncated, info = env.step(
    ...     env.action_space.sample()
    ... )
    >>> sorted(info)
    ['diverged', 'loss', 'lr']

    ```

    ## Action Space
    The learning rate is the base learning rate times a schedule times `exp(s)`, with a
    log-multiplier `s`. By default `s` starts at 0 and stays within ±6, and the schedule is
    constant. The fields `start`, `bound` and `schedule` (a name in `optenv.schedules`) of
    the argument `action` change that, as in `action={"schedule": "wsd"}`. The shipped
    policies use other values: `default` starts at -2, with bound 8 and schedule `"wsd"`.

    | Id | Space | Effect of an action `a` |
    |----|-------|-------------------------|
    | `optenv/LearningRate-v0` | `Box(-1, 1, (1,))` | `s` moves by `0.9 a` |
    | `optenv/DiscreteLearningRate-v0` | `Discrete(7)` | the learning rate is multiplied by `2 ** ((a - 3) / 2)` |
    | `optenv/UpdateRule-v0` | `Discrete(24)` | rule `a // 3` makes the updates, and the learning rate is multiplied by 0.5, 1 or 2 for `a % 3` = 0, 1 or 2 |
    | `optenv/Hyperparameters-v0` | `Box(-1, 1, (6,))` | learning rate and hyperparameters by name, see below |
    | `optenv/RoleLearningRate-v0` | `Box(-1, 1, (4,))` | each role of parameters has a log-multiplier of its own, which moves by 0.9 times its entry |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-1, 1, (64,))` | each parameter tensor has a log-multiplier of its own, which moves by 0.9 times its entry |
    | `optenv/Update-v0` | `Box(-1, 1, (2,))` | each parameter changes by `0.25 * sinh(6 a) / sinh(6)`, where `a` is its entry |
    | `optenv/BatchSize-v0` | `Discrete(7)` | batches have `2 ** (a - 3)` times the task's own size |

    `optenv/UpdateRule-v0` chooses among the rules in `optenv.rules.switching.NAMES`:

    | `a // 3` | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
    |----------|---|---|---|---|---|---|---|---|
    | rule | `sgd` | `momentum` | `nesterov` | `rmsprop` | `adam` | `nadam` | `lion` | `orthogonal-adam` |

    Adam is active before the first action. Learning rates are on Adam's scale: after each
    choice, the first step of the chosen rule is as long as Adam's step would be.

    The entries of an action of `optenv/Hyperparameters-v0` are, with the rule `adam`, in
    this order:

    | Number | Name | Effect | at -1 | at 0 | at 1 |
    |--------|------|--------|-------|------|------|
    | 0 | `learning_rate` | `s` moves by 0.9 times the entry | -0.9 | 0 | 0.9 |
    | 1 | `beta1` | hyperparameter of the rule | 0.5 | 0.9 | 0.99 |
    | 2 | `beta2` | hyperparameter of the rule | 0.95 | 0.999 | 0.9999 |
    | 3 | `weight_decay` | decoupled weight decay | 0.0001 | 0.01 | 1 |
    | 4 | `clip` | largest norm of a gradient, in units of the root mean square of the norms so far | 0.3 | 3 | 30 |
    | 5 | `average` | exponent `q` of the average of the parameters, which is evaluated: its horizon after `t` updates is `t ** q` | 0 | 0.5 | 1 |

    Other rules have other entries in place of `beta1` and `beta2`: the rules `momentum` and
    `nesterov` have `momentum` (0.5 at -1, 0.9 at 0, 0.99 at 1), and `sgd` and `rmsprop`
    have none. To choose some of the names, give the argument
    `action={"kind": "hyperparameters", "names": ["learning_rate", "clip"]}`. Each action
    sets all of them to new values, except the learning rate, which it moves. Between the
    columns, the logarithm of a value is interpolated linearly (for decay rates, the
    logarithm of one minus the rate; for `average`, the value itself). Before the first
    action the rule's own hyperparameters apply, without weight decay, clipping or averaging.

    The entries of an action of `optenv/RoleLearningRate-v0`:

    | Number | Role | Parameters |
    |--------|------|------------|
    | 0 | `matrices` | all that have no other role |
    | 1 | `output` | weight of the last layer, if there are several layers |
    | 2 | `embeddings` | weights of embeddings |
    | 3 | `vectors` | parameters with fewer than two dimensions: biases, scales of normalisation |

    The features describe the mean of the four log-multipliers, each within ±6. Entries of
    roles that the model does not have are ignored.

    An action of `optenv/LayerwiseLearningRate-v0` has an entry for each parameter tensor of
    the model (each weight, each bias), in the model's order. If a model has fewer than 64
    tensors, the last entries are ignored; a model with more needs a larger space, for
    example `action={"kind": "layerwise", "tensors": 80}`. The features describe the mean of
    the log-multipliers, each within ±6. To train one policy that acts on each tensor
    separately, and thus on any model, wrap a batch in `optenv.PerTensor`.

    An action of `optenv/Update-v0` is the update itself, in place of an update rule: each
    update of the control step adds it to the parameters. By default a control step has one
    update, and tasks are test functions of two parameters. `base_lr`, 0.25 by default, is
    the largest change of a parameter; an entry of 0.5 is a 20th of it, and one of 0.1 a
    300th:

    | Number | Entry | at -1 | at 0 | at 1 |
    |--------|-------|-------|------|------|
    | `i` | update of parameter `i` | `-base_lr` | 0 | `base_lr` |

    The number of entries is the largest number of parameters among the given tasks or
    instances; for families of `tasks`, it is the smallest number that they have.
    `action={"kind": "update", "dim": 4}` sets another number. Tasks with more parameters
    are not drawn, and are refused if they are given. For tasks with fewer, the last entries
    are ignored.

    In `optenv/BatchSize-v0` each control step uses a fixed number of examples: as many as
    its updates would use with the task's own batch size. Smaller batches thus mean more
    updates, larger ones fewer. Batch sizes are rounded. They are at least 2 (1 if the
    task's own is 1) and at most the number of examples of the control step. Examples that
    are too few for another batch are carried over to the next control step. The learning
    rate is `base_lr`. The first update of a control step uses the gradient that was
    observed before it, of a batch of the previous size.

    ## Observation Space
    A vector of features of the run, each within ±4. Except for the learning rate and the
    length of the run, they do not depend on the scales of loss, gradient and model.
    `optenv.telemetry.FEATURES` lists their names and meanings. There are 25 by default, 24
    with `loss_features="positive"` and 31 with `"both"`, so that all widths below are then
    smaller by 1 or larger by 6.

    | Id | Space | Entries |
    |----|-------|---------|
    | `optenv/LearningRate-v0` | `Box(-4, 4, (25,))` | the features |
    | `optenv/DiscreteLearningRate-v0` | `Box(-4, 4, (25,))` | the features |
    | `optenv/UpdateRule-v0` | `Box(-4, 4, (33,))` | the features, and a 1 at the rule that the last action chose (no 1 before the first action) |
    | `optenv/Hyperparameters-v0` | `Box(-4, 4, (30,))` | the features, and the last action without its entry of the learning rate (0 before the first action) |
    | `optenv/RoleLearningRate-v0` | `Box(-4, 4, (29,))` | the features, and for each role its log-multiplier minus the mean of all, divided by 3 |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-4, 4, (921,))` | the features, and for each of 64 tensors the 14 of `optenv.tensor_telemetry.TENSOR_FEATURES` (0 beyond the tensors of the model): computed by the same formulas from the tensor's own gradient, step, values and log-multiplier, and the tensor's share of the decrease of the loss that the last step predicts |
    | `optenv/Update-v0` | `Box(-4, 4, (38,))` | the features, and 13 entries about parameters, gradients and losses, see below |
    | `optenv/BatchSize-v0` | `Box(-4, 4, (26,))` | the features, and the base-2 logarithm of the last batch size over the task's own, divided by 3 |

    The further entries of `optenv/Update-v0`, with 2 parameters and 3 past control steps:

    | Number | Meaning |
    |--------|---------|
    | 25 to 26 | parameters |
    | 27 to 28 | gradient `g`, relative to the norm `n` of the run's first one, as `asinh(sinh(6) g / n) / 2` |
    | 29 to 34 | gradients at the 3 previous control steps, latest first, likewise |
    | 35 to 37 | differences `d` between the training loss of the last batch and those at the 3 previous control steps, relative to the range `r` of the losses so far, as `asinh(100 d / r) / 2` |

    They are within ±4, and 0 for control steps before the first. An action that equals
    minus a third of the observed gradient is a step of gradient descent.

    With `observe_validation=True` six features of the validation loss follow the others:
    whether one has been given, how long ago the last one was given, how far it has fallen
    since the one before and lies above the lowest one, how much validation losses usually
    change, and how far the last one lies above the training loss. With the argument
    `features`, the values of further features follow.

    ## Rewards
    By default, the decrease of the potential `log((L + 0.003 L0) / (1.003 L0))` in a
    control step, where `L` is the loss on at most 128 fixed examples of the run, and `L0`
    its initial value. The return is thus the log progress of the whole run; in
    `optenv/BatchSize-v0`, the log progress made with a fixed number of examples. Where a
    loss is negative, or its initial value not positive, the potential depends on the
    difference of losses instead, see `optenv.rewards`.

    | `objective` | Examples |
    |-------------|----------|
    | `"train"` | training examples |
    | `"validation"` | validation examples |
    | `"both"` | both: the mean of the two potentials |
    | `"observed"` | validation examples in runs that observe their validation losses (`observe_validation`), both in others |

    With `changes`, the task changes between two control steps. Progress is then measured on
    the new task, from the loss that the initial parameters have on it, so that the return
    is the sum of the returns of the tasks. A run that diverges is charged for the later
    tasks as well.

    | `reward` | Reward of a control step | Return |
    |----------|--------------------------|--------|
    | `"log_loss"` | decrease of the potential | progress of the run |
    | `"final"` | 0, and at the end minus the potential | progress of the run |
    | `"baseline"` | decrease of the potential, plus, at the end, the potential that the same run reaches under Adam at 1e-3 with a cosine schedule | progress beyond that of Adam |
    | `"time"` | increase of the ratio of the progress so far to the mean cost of the updates so far, relative to SGD's (`optenv.rules.COSTS`); negative progress is not divided | progress per unit of time |

    ## Starting State
    A new task, drawn from `tasks`, with newly initialised parameters. The first observation
    describes a run without a past.

    With the argument `instances`, the task is one of a set of instances, which fix model,
    data, base learning rate and length; the seed then determines initial parameters and the
    order of batches. `reset(options={"instance": ...})` chooses an instance:

    | Option | Values |
    |--------|--------|
    | `instance` | name (`"cnn/train/3"`), number in the set `instances` (or, without that argument, in the standard set of `tasks`), or an `optenv.instances.Instance` |

    ## Episode End
    The episode ends if:

    1. Termination: the run has made all its updates. This is no truncation, as the
       progress of the run is observed.
    2. Termination: the run has diverged, i.e. its loss is not finite, or more than about 20
       times the initial loss (if that is not positive: above it by more than about 10 times
       the larger of its absolute value and 1). The return is then lower than that of every
       run that has not diverged. With `on_divergence="absorb"` the episode continues to the
       horizon, without further reward.

    There is no truncation.

    ## Info
    A step returns:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `loss` | `float` | loss on the examples of the objective (`"both"`: the training examples); infinity if it is not finite |
    | `lr` | `float` | learning rate of the step's first update |
    | `diverged` | `bool` | whether the run has diverged |
    | `validation_loss` | `float` | at the end of a run: loss on all its validation examples |
    | `batch_size` | `int` | `optenv/BatchSize-v0` only: examples in a batch of the step, and `examples` (see below) at every step |

    `reset()`, and the step that ends a run, return:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `family` | `str` or `None` | family of the task; None if a task object was given |
    | `split` | `str` or `None` | split of the family; likewise |
    | `instance` | `str` or `None` | name of the instance; None if the task is newly drawn |
    | `structure` | `str` | the task with its fields |
    | `initial_loss` | `float` | `loss` before the first update, against which rewards measure progress |
    | `examples` | `int` | training examples seen in the run so far, repetitions included |
    | `work` | `int` | approximate number of multiplications in the forward passes of the run so far |

    With `changes`, these describe the present task, and a step also returns

    - `changes`, an `int`: number of changes before the step;
    - `mean_loss`, a `float`: mean of the present losses on all tasks so far;
    - `forgetting`, a `float`: mean, over the earlier tasks, of the loss now minus the loss
      when the task ended.

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `tasks` | `"mlp-classification"` | task families, splits, or task objects |
    | `instances` | `None` | instances in place of `tasks`: a set, the name of a standard set, or a file |
    | `instance_order` | `"cycle"` | `"cycle"`: in turn, from number `seed` on after a reset with a seed; `"draw"`: at random |
    | `rule` | `"adam"` | update rule (`"switching"` in `optenv/UpdateRule-v0`) |
    | `action` | of the id | kind of action; a dict of its `kind` and fields; or a dict of fields to change in the action of the id |
    | `horizon` | `40` | control steps of a run |
    | `updates_per_step` | `10` | updates in a window on average, or a range to draw from |
    | `max_work` | `None` | limit on the multiplications of a run |
    | `spacing` | `1.0` | above 1: control steps are denser early in the run |
    | `base_lr` | `None` | base learning rate, or a range to draw from; None: the rule's default |
    | `objective` | `"train"` | examples that the loss of the reward is taken on, see above |
    | `reward` | `"log_loss"` | reward, see above |
    | `on_divergence` | `"end"` | `"end"` or `"absorb"` |
    | `reparametrize` | `0.0` | spread of random factors of the parameter tensors |
    | `loss_dropout` | `0.0` | fraction of the runs whose losses are not observed |
    | `loss_features` | `"invariant"` | features of the loss: `"invariant"`, `"positive"` or `"both"`, see `optenv.telemetry.LOSS_FEATURE_SETS` |
    | `observe_validation` | `False` | whether validation losses are observed, see `optenv.telemetry.VALIDATION_FEATURES` |
    | `validation_dropout` | `0.0` | fraction of the runs that are never given a validation loss |
    | `validation_every` | `1` | control steps from one validation loss to the next, or a range to draw from |
    | `anytime` | `False` | whether the length of a run is hidden |
    | `changes` | `None` | changes of the task during a run: their number, kinds of them, or both, see `optenv.changes` |
    | `features` | `()` | names of further features |
    | `max_memory` | `None` | largest memory in GiB that the environment may need; None: `OPTENV_MAX_MEMORY`, or three quarters of the machine's |
    | `device` | `"cpu"` | torch device |
    | `dtype` | `"float32"` | type of the runs and of both spaces |
    | `render_mode` | `None` | `"ansi"`: a line of text; `"rgb_array"`: a picture of the episode so far, see below |

    Each id has variants with a family of tasks in place of the default one, such as
    `optenv/LearningRate-CNN-v0`; `optenv.registration.FAMILIES` lists the families.
    `optenv.settings.Settings` has the details. An invalid argument raises a `ValueError` or
    a `TypeError` whose message says what is valid.

    ## Rendering
    `render_mode="rgb_array"` needs matplotlib (`pip install ".[render]"`). A picture
    `[540, 960, 3]` uint8 shows the episode so far, one point per control step:

    | Panel | Shows |
    |-------|-------|
    | loss | `loss` of the info |
    | learning rate | of the step's first update; a curve for each role of `optenv/RoleLearningRate-v0` |
    | update rule | the rule that `optenv/UpdateRule-v0` chose, a row for each |
    | multiplier of each tensor | of `optenv/LayerwiseLearningRate-v0`, a row for each tensor |
    | gradient norm | norm of the gradient |
    | gradient cosine | cosine of the gradient and the one before it |
    | relative step | norm of the last update divided by the norm of the parameters |
    | names | each hyperparameter that the action sets |
    | path of the two parameters | for tasks with two parameters: their path, on the contours of the loss |

    `render_mode="ansi"` returns one line: step, loss, learning rate, other quantities that
    the action sets, and reward.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=256)` advances 256 runs at once as batched tensors, see
    `optenv.LearningRateVectorEnv`.

    ## Version History
    - v0: initial version.
    """  # noqa: E501

    metadata: dict[str, Any] = {
        "render_modes": list(RENDER_MODES),
        "render_fps": 10,
    }

    #: Class of the vector environment of one run that does the work.
    vector_class: type[LearningRateVectorEnv] = LearningRateVectorEnv

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        own_action: str | dict[str, Any] | Action = "continuous",
        **arguments: Any,
    ) -> None:
        for name in BATCH_ARGUMENTS:
            if name in arguments:
                raise TypeError(
                    f"{name} is an argument of gym.make_vec in its default vectorization "
                    "mode; a single environment, which is one run, does not have it, got "
                    f"{name}={arguments[name]!r}"
                )
        own = self.vector_class.own_arguments
        check_names(arguments, [name for name in own if name not in BATCH_ARGUMENTS])
        self.batch = self.vector_class(
            1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            own_action=own_action,
            **arguments,
        )
        self.render_mode = render_mode
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def describe(self) -> dict[str, Any]:
        """Describe the environment for a policy that was trained on it.

        See :meth:`optenv.settings.Settings.describe`.
        """
        return self.batch.describe()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new run.

        Args:
            seed: seed of this run and of the following ones; None to continue with the
                present random numbers.
            options: ``{"instance": ...}`` for a run on an instance, which may be given as
                an :class:`~optenv.instances.Instance`, by its name, or by its number in the
                environment's set (without a set, in the standard set of its tasks).

        Returns:
            The observation, and ``info``, see the class.

        Raises:
            ValueError, TypeError: an option or the instance is unknown.
        """
        given = check_options(options, ("instance",)).get("instance")
        if given is not None:
            read(given, np.ones(1, np.bool_), self.batch.settings)  # before seeds change
        super().reset(seed=seed)
        if seed is not None or not self.batch.started:
            self.batch.adopt(self.np_random, self.np_random_seed)
        observation, batched = self.batch.reset(options={"instance": given})
        return observation[0], _single(batched)

    def step(
        self, action: Any
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one control step.

        Raises:
            ValueError: the action is out of range, or the run has ended.
        """
        # Validated here as well, so that messages refer to the single action space.
        batch = validate(self.action_space, action)[None]
        if self.batch.ended[0]:
            raise ValueError("the run has ended; call reset()")
        observation, reward, terminated, _, batched = self.batch.step(batch)
        info = _single(batched)
        return observation[0], float(reward[0]), bool(terminated[0]), False, info

    @property
    def group(self) -> Group:
        """Group of one run that does the work."""
        return self.batch.groups[0][1]

    @property
    def num_steps(self) -> int:
        """Control steps of an episode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        return int(self.batch.num_steps[0])

    def render(self) -> str | np.ndarray | None:  # type: ignore[override]
        """Render the episode so far in the render mode.

        Returns:
            A line of text, an image ``[H, W, 3]`` uint8, or None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        frames = self.batch.render()
        return None if frames is None else frames[0]


def _single(batched: dict[str, Any]) -> dict[str, Any]:
    """Return the info of a batch of one run, as plain Python values."""
    return {
        key: value.item(0)
        for key, value in batched.items()
        if not key.startswith("_") and batched["_" + key][0]
    }
