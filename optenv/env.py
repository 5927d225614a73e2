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

    The id names what an action sets: the learning rate, the update rule or the batch size,
    for instance.

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
    constant. The fields `start`, `bound` and `schedule` (a name in `optenv.schedules`) of the
    argument `action` change that, as in `action={"schedule": "wsd"}`. The shipped policies
    have other values: `default` starts at -2, with bound 8 and schedule `"wsd"`.

    | Id | Space | Effect of an action `a` |
    |----|-------|-------------------------|
    | `optenv/LearningRate-v0` | `Box(-1, 1, (1,))` | `s` moves by `0.9 a` |
    | `optenv/DiscreteLearningRate-v0` | `Discrete(7)` | the learning rate is multiplied by `2 ** ((a - 3) / 2)` |
    | `optenv/UpdateRule-v0` | `Discrete(24)` | rule `a // 3` moves the parameters, and the learning rate is multiplied by 0.5, 1 or 2 for `a % 3` = 0, 1 or 2 |
    | `optenv/Hyperparameters-v0` | `Box(-1, 1, (6,))` | learning rate and hyperparameters by name, see below |
    | `optenv/RoleLearningRate-v0` | `Box(-1, 1, (4,))` | each role of parameters has a log-multiplier of its own, which moves by 0.9 times its entry |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-1, 1, (64,))` | each parameter tensor has a log-multiplier of its own, which moves by 0.9 times its entry |
    | `optenv/Update-v0` | `Box(-1, 1, (2,))` | each parameter changes by `0.25 * sinh(6 a) / sinh(6)` of its entry |
    | `optenv/BatchSize-v0` | `Discrete(7)` | batches have `2 ** (a - 3)` times the task's own size |

    The rules of `optenv/UpdateRule-v0` are those of `optenv.rules.switching.NAMES`:

    | `a // 3` | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
    |----------|---|---|---|---|---|---|---|---|
    | rule | `sgd` | `momentum` | `nesterov` | `rmsprop` | `adam` | `nadam` | `lion` | `orthogonal-adam` |

    Adam is in force before the first action. Learning rates are those of Adam: another rule
    begins with steps as long as Adam's would be.

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

    Another rule has its own in place of `beta1` and `beta2`: `momentum`, from 0.5 by 0.9 to
    0.99, with the rules `momentum` and `nesterov`; none with `sgd` and `rmsprop`. The
    argument `action={"kind": "hyperparameters", "names": ["learning_rate", "clip"]}` chooses
    some. All but the learning rate are set anew by each action. Between the columns their
    logarithm is linear (of decay rates: that of one minus the rate), and `average` itself.
    Before the first action the rule has its own values, and there is no weight decay, no
    clipping and no average.

    The entries of an action of `optenv/RoleLearningRate-v0`:

    | Number | Role | Parameters |
    |--------|------|------------|
    | 0 | `matrices` | all that have no other role |
    | 1 | `output` | weight of the last layer, if there are several |
    | 2 | `embeddings` | weights of embeddings |
    | 3 | `vectors` | those with fewer than two dimensions: biases, scales of normalisation |

    The features describe the mean of the four log-multipliers, each within ±6. A run without
    parameters of a role ignores its entry.

    An action of `optenv/LayerwiseLearningRate-v0` has an entry for each parameter tensor of
    the model (each weight, each bias), in the model's order. A model with fewer than 64
    tensors ignores the last entries; one with more needs
    `action={"kind": "layerwise", "tensors": 80}`, say, and the space has as many entries. The
    features describe the mean of the log-multipliers, each within ±6. For a policy that is
    the same for every tensor, and thus for every model, wrap a batch in `optenv.PerTensor`.

    An action of `optenv/Update-v0` is the update itself, in place of an update rule: what each
    update of the control step adds to the parameters. There is one update in a control step
    by default, and tasks are test functions of two parameters. `base_lr`, 0.25 by default, is
    the largest change of a parameter; an entry of 0.5 is a 20th of it, and one of 0.1 a 300th:

    | Number | Entry | at -1 | at 0 | at 1 |
    |--------|-------|-------|------|------|
    | `i` | update of parameter `i` | `-base_lr` | 0 | `base_lr` |

    The space has as many entries as the given tasks or instances have parameters at most, or
    as few as the families of `tasks` allow; `action={"kind": "update", "dim": 4}` sets another
    number. Tasks with more parameters are not drawn, and refused if they are given. Those with
    fewer ignore the last entries.

    With `optenv/BatchSize-v0` each control step is given the same number of examples, that of
    its updates with the task's own batch size: smaller batches make more updates, larger ones
    fewer. Sizes are rounded, at least 2 unless the task's own is 1, and at most the examples
    of the control step. What is too little for one more batch is left to the next control
    step. The learning rate is `base_lr`. The first update of a control step uses the gradient
    that was observed before it, of the batch size before.

    ## Observation Space
    A vector within ±4 of the run's features, all but the learning rate and the length of the
    run free of the scales of loss, gradient and model. `optenv.telemetry.FEATURES` lists
    their names and meanings. With `loss_features="positive"` they are 24, and with `"both"`
    31, so that all widths below are smaller by 1 or larger by 6.

    | Id | Space | Entries |
    |----|-------|---------|
    | `optenv/LearningRate-v0` | `Box(-4, 4, (25,))` | the features |
    | `optenv/DiscreteLearningRate-v0` | `Box(-4, 4, (25,))` | the features |
    | `optenv/UpdateRule-v0` | `Box(-4, 4, (33,))` | the features, and a 1 at the rule that the last action chose (no 1 before the first action) |
    | `optenv/Hyperparameters-v0` | `Box(-4, 4, (30,))` | the features, and the last action but for its learning rate (0 before the first action) |
    | `optenv/RoleLearningRate-v0` | `Box(-4, 4, (29,))` | the features, and for each role its log-multiplier minus the mean of all, divided by 3 |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-4, 4, (921,))` | the features, and for each of 64 tensors the 14 of `optenv.tensor_telemetry.TENSOR_FEATURES` (0 beyond the tensors of the model): by the same formulas, from its own gradient, step, values and log-multiplier, and its share of the decrease of the loss that the last step predicts |
    | `optenv/Update-v0` | `Box(-4, 4, (38,))` | the features, and 13 entries about parameters, gradients and losses, see below |
    | `optenv/BatchSize-v0` | `Box(-4, 4, (26,))` | the features, and the base-2 logarithm of the last batch size over the task's own, divided by 3 |

    The further entries of `optenv/Update-v0`, with 2 parameters and 3 past control steps:

    | Number | Meaning |
    |--------|---------|
    | 25 to 26 | parameters |
    | 27 to 28 | gradient `g`, relative to the norm `n` of the run's first one, as `asinh(sinh(6) g / n) / 2` |
    | 29 to 34 | gradients of the 3 control steps before, latest first, likewise |
    | 35 to 37 | training loss of the last batch minus those of the 3 control steps before, relative to the range `r` of the losses so far, as `asinh(100 d / r) / 2` |

    They are within ±4, and 0 where there is no past. Minus a third of an observed gradient, as
    an action, is a step of gradient descent.

    With `observe_validation=True` six features of the validation loss follow the others: how
    long ago the last one was given, its fall and its rise in units of their range, how much
    they change, and how far they are above the training loss. With the argument `features`,
    the values of further features follow.

    ## Rewards
    By default the decrease of the potential `log((L + 0.003 L0) / (1.003 L0))` in a control
    step, where `L` is the loss on at most 128 fixed examples of the run, and `L0` its initial
    value. The return is thus the log progress of the whole run; in `optenv/BatchSize-v0`, that
    of a budget of examples. Where a loss is negative, or its initial value not positive, the
    potential grows with the difference of losses instead, see `optenv.rewards`.

    | `objective` | Examples |
    |-------------|----------|
    | `"train"` | training examples |
    | `"validation"` | validation examples |
    | `"both"` | both: the mean of the two potentials |
    | `"observed"` | validation examples in runs that observe their validation losses (`observe_validation`), both in others |

    With `changes`, the task changes between two control steps. Progress is then measured on
    the new task, from the loss that the initial parameters have on it, so that the return is
    the sum of the returns of the tasks. A run that diverges pays for the later tasks as well.

    | `reward` | Reward of a control step | Return |
    |----------|--------------------------|--------|
    | `"log_loss"` | decrease of the potential | progress of the run |
    | `"final"` | 0, and at the end minus the potential | progress of the run |
    | `"baseline"` | decrease of the potential, and at the end the potential that the same run reaches under Adam at 1e-3 with a cosine schedule | progress beyond that run's |
    | `"time"` | increase of the progress so far, divided by the mean cost of the updates so far relative to SGD's (`optenv.rules.COSTS`); progress below 0 is not divided | progress per unit of time |

    ## Starting State
    A new task of those that `tasks` names, with newly initialised parameters. The first
    observation is that of a run without a past.

    With the argument `instances`, the task is one of a set of instances, which fix model,
    data, base learning rate and length; seeds then draw initial parameters and the order of
    batches. `reset(options={"instance": ...})` chooses one:

    | Option | Values |
    |--------|--------|
    | `instance` | name (`"cnn/train/3"`), number in the set of `instances` (in the standard set of `tasks` without one), or an `optenv.instances.Instance` |

    ## Episode End
    The episode ends if:

    1. Termination: the run has made all its updates (progress is observed).
    2. Termination: the run has diverged, i.e. its loss is not finite, or more than about 20
       times the initial loss; or, if that is not positive, about 10 times its absolute value
       (at least 1) above it. It then returns less than every run that has not diverged. With
       `on_divergence="absorb"` the episode goes on, without further reward, to the horizon.

    There is no truncation.

    ## Info
    A step returns:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `loss` | `float` | loss on the examples of the objective (`"both"`: the training examples); infinite if it is not finite |
    | `lr` | `float` | learning rate of the step's first update |
    | `diverged` | `bool` | whether the run has diverged |
    | `validation_loss` | `float` | at the end of a run: loss on all its validation examples |
    | `batch_size` | `int` | `optenv/BatchSize-v0` only: examples in a batch of the step, and `examples` (see below) at every step |

    `reset()`, and the step that ends a run, return:

    | Key | Type | Meaning |
    |-----|------|---------|
    | `family` | `str` or `None` | family of the task; None if a task object was given |
    | `split` | `str` or `None` | split of the family; likewise |
    | `instance` | `str` or `None` | name of the instance; None if the task was drawn anew |
    | `structure` | `str` | the task with its fields |
    | `initial_loss` | `float` | `loss` before the first update, which rewards measure progress against |
    | `examples` | `int` | training examples seen in the run so far, repetitions included |
    | `work` | `int` | multiplications in the forward passes of the run so far, about |

    With `changes`, these are about the present task, and a step also returns

    - `changes`, an `int`: number of changes before the step;
    - `mean_loss`, a `float`: mean of the present losses on all tasks so far;
    - `forgetting`, a `float`: mean, over the earlier tasks, of the loss now minus the loss
      when the task ended.

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `tasks` | `"mlp-classification"` | task families, splits, or task objects |
    | `instances` | `None` | instances in place of `tasks`: a set, the name of a standard set, or a file |
    | `instance_order` | `"cycle"` | `"cycle"`: in turn, after a reset with a seed from that number on; `"draw"`: at random |
    | `rule` | `"adam"` | update rule (`"switching"` in `optenv/UpdateRule-v0`) |
    | `action` | of the id | kind of action; a dict of its `kind` and fields; or a dict of fields to change in the id's |
    | `horizon` | `40` | control steps of a run |
    | `updates_per_step` | `10` | updates in a window on average, or a range to draw from |
    | `max_work` | `None` | limit on the multiplications of a run |
    | `spacing` | `1.0` | above 1: control steps are denser early in the run |
    | `base_lr` | `None` | base learning rate, or a range to draw from; None: the rule's |
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
    `optenv.settings.Settings` has the details. An argument that is not valid raises a
    `ValueError` or a `TypeError` that says what is.

    ## Rendering
    `render_mode="rgb_array"` needs matplotlib (`pip install ".[render]"`). A picture
    `[540, 960, 3]` uint8 shows the episode so far, over the control steps:

    | Panel | Shows |
    |-------|-------|
    | loss | `loss` of the info |
    | learning rate | of the step's first update; a curve for each role of `optenv/RoleLearningRate-v0` |
    | update rule | the rule that `optenv/UpdateRule-v0` chose, a row for each |
    | multiplier of each tensor | of `optenv/LayerwiseLearningRate-v0`, a row for each tensor |
    | gradient norm | norm of the gradient |
    | gradient cosine | cosine of the gradient and the one before it |
    | relative step | norm of the last update divided by that of the parameters |
    | names | each hyperparameter that the action sets |
    | path of the two parameters | for tasks with two parameters: their path, on the contours of the loss |

    `render_mode="ansi"` is one line: step, loss, learning rate, what else the action sets,
    and reward.

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

    #: Class of the batch of one that does the work.
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
            seed: seed of the run and of those after it.
            options: ``{"instance": ...}`` for a run on an instance, which may be given as
                an :class:`~optenv.instances.Instance`, by its name, or by its number in the
                set of the environment (in the standard set of its tasks without one).

        Returns:
            The observation, and ``info``, see the class.

        Raises:
            ValueError, TypeError: an option is unknown, or the instance is.
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
        # Validated here as well, so that messages are about the single action space.
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
        """Render the episode so far, as the render mode says.

        Returns:
            A line of text, an image ``[H, W, 3]`` uint8, or None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        frames = self.batch.render()
        return None if frames is None else frames[0]


def _single(batched: dict[str, Any]) -> dict[str, Any]:
    """Return the info of the only run of a batch, as plain values of Python."""
    return {
        key: value.item(0)
        for key, value in batched.items()
        if not key.startswith("_") and batched["_" + key][0]
    }
