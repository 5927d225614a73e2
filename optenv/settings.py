"""Settings: the arguments of single and vector environments, with their checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from . import actions, changes, instances, rewards, rules, tasks, windows
from .checks import is_number, known, positive_int, quoted, suggestion
from .instances import Instance
from .memory_limit import limit_of
from .ranges import as_range, int_range, log_uniform
from .tasks.base import Task
from .telemetry import (
    FEATURE_VERSION,
    LOSS_FEATURE_SETS,
    check_features,
    observed_features,
)

__all__ = [
    "DTYPES",
    "INSTANCE_ORDERS",
    "ON_DIVERGENCE",
    "Settings",
    "Structure",
    "check_names",
    "make",
]

#: Types of torch and NumPy, by the name of the ``dtype`` argument.
DTYPES: dict[str, tuple[torch.dtype, Any]] = {
    "float32": (torch.float32, np.float32),
    "float64": (torch.float64, np.float64),
}

#: Values of the ``on_divergence`` argument.
ON_DIVERGENCE = ("end", "absorb")

#: Values of the ``instance_order`` argument.
INSTANCE_ORDERS = ("cycle", "draw")


class Structure(NamedTuple):
    """Structure that runs must share to be stacked.

    Attributes:
        task: task of the runs.
        total_updates: length of the runs in updates.
        scaled: whether parameter tensors have random factors.
    """

    task: Task
    total_updates: int
    scaled: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Keyword arguments of the environments.

    Attributes:
        tasks: tasks to train on, see :func:`optenv.tasks.make`.
        instances: instances to train on in place of ``tasks``, see
            :func:`optenv.instances.make`: a set of them, the name of a standard one
            (``"cnn/train"``), or a file. None for new tasks at every reset.
        instance_order: ``"cycle"`` to take the instances in turn, after a reset with a seed
            from number ``seed`` on (modulo the size of the set); ``"draw"`` to draw them.
        rule: update rule, a key of :data:`optenv.rules.RULES`, or a dict of its ``name``
            and hyperparameters, see :func:`optenv.rules.get`. If, and only if, actions
            choose among rules, it is ``"switching"``.
        action: kind of action, a key of :data:`optenv.actions.ACTIONS`; a dict of its
            ``kind`` and fields; or an action of :mod:`optenv.actions`. Environments also
            take a dict without ``kind``: fields to change in the action of their id.
        horizon: control steps of a run.
        updates_per_step: updates between two control steps, on average over a run. A pair
            ``(low, high)`` draws it log-uniformly whenever a structure is drawn.
        max_work: approximate limit on the multiplications in the forward passes of a run,
            as counted by :attr:`optenv.tasks.Task.work`. Runs that would need more are
            shortened, but not below the smallest ``updates_per_step``. This way, runs of
            small networks can be long without runs of large ones taking most of the time.
            None for no limit.
        spacing: 1.0 for equal windows, larger for control steps that are denser early in
            the run, see :func:`optenv.windows.boundaries`.
        base_lr: base learning rate. A pair draws it log-uniformly for every run; None takes
            the rule's default.
        reparametrize: standard deviation of the log of a factor for every parameter tensor
            of a run. The loss multiplies the tensor by the factor, and its initial values
            are divided by it: the network stays the same, but other learning rates are best
            (as Metz et al., 2022, and others do to train learned optimizers). 0 for none.
        loss_dropout: fraction of the runs whose losses are not observed, like those of
            users who give the optimizer none; 1 hides them all. Rewards are not affected.
        loss_features: observed features of the loss, a key of
            :data:`optenv.telemetry.LOSS_FEATURE_SETS`: ``"invariant"`` for features that
            stay the same if losses are multiplied by a positive number or a constant is
            added, so that losses may have any unit and be negative; ``"positive"`` for
            logarithms of positive losses; or ``"both"``. It has no effect if all losses are
            hidden.
        observe_validation: whether the validation loss of a run is observed
            (:data:`optenv.telemetry.VALIDATION_FEATURES`). It is the loss of the parameters
            at the end of a control step, on as many validation examples as a reward uses,
            whatever the objective.
        validation_dropout: fraction of the runs in which no validation loss is ever given,
            like those of users who do not validate. It is drawn once for all runs of a
            trial.
        validation_every: number of control steps from one validation loss to the next, and
            from the start to the first. A pair ``(low, high)`` draws it for each run,
            uniformly in the logarithm.
        anytime: whether the length of a run is hidden. If so, no feature depends on length
            or progress, and the action's schedule must be constant. Windows are still
            fractions of the run. An optimizer, which does not know the length, uses the
            windows of a run of ``horizon ** spacing`` updates, continued beyond its end.
        changes: changes of the task during a run, see :func:`optenv.changes.make`: their
            number, a kind or a list of kinds, or a dict of ``kinds`` and ``count``. Each
            run draws their times, which are not observed. None for no changes.
        features: names of further features to observe, see
            :func:`optenv.telemetry.register_feature`.
        objective: examples that the loss of the reward is taken on: ``"train"``,
            ``"validation"``, or ``"both"`` for the mean of their progress; ``"observed"``
            for validation alone in runs that observe it, and both in others. Must be
            ``"train"`` for a registered reward that names its own examples.
        reward: reward, a key of :data:`optenv.rewards.REWARDS`: ``"log_loss"``,
            ``"final"``, ``"baseline"`` or ``"time"``; see :mod:`optenv.rewards`.
        on_divergence: ``"end"`` to end a diverged run, or ``"absorb"`` to continue it at
            the worst potential until the horizon.
        max_memory: largest memory that the environment may need, in GiB. An environment
            whose estimate (:meth:`optenv.LearningRateVectorEnv.memory`) is larger is
            refused before it allocates any. None for the environment variable
            ``OPTENV_MAX_MEMORY``, or else three quarters of the memory of the device; see
            :func:`optenv.memory_limit.limit_of`.
        device: torch device of the runs.
        dtype: ``"float32"`` or ``"float64"``, of the runs and of both spaces.

    Raises:
        ValueError: a value is not valid; the message quotes it and says what is valid.
        TypeError: an argument is unknown or of the wrong type.
    """

    tasks: tasks.TaskSpec = "mlp-classification"
    instances: Any = None
    instance_order: str = "cycle"
    rule: rules.RuleSpec = "adam"
    action: str | dict[str, Any] | actions.Action = "continuous"
    horizon: int = 40
    updates_per_step: int | tuple[float, float] = 10
    max_work: float | None = None
    spacing: float = 1.0
    base_lr: float | tuple[float, float] | None = None
    objective: str = "train"
    reward: str = "log_loss"
    on_divergence: str = "end"
    reparametrize: float = 0.0
    loss_dropout: float = 0.0
    loss_features: str = "invariant"
    observe_validation: bool = False
    validation_dropout: float = 0.0
    validation_every: int | tuple[int, int] = 1
    anytime: bool = False
    changes: Any = None
    features: tuple[str, ...] = ()
    max_memory: float | None = None
    device: str | torch.device = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        # 1. Arguments that are looked up by name.
        tasks.make(self.tasks)
        if self.instances is not None:
            object.__setattr__(self, "instances", instances.make(self.instances))
        known("instance_order", self.instance_order, INSTANCE_ORDERS)
        known("objective", self.objective, rewards.OBJECTIVES)
        reward = rewards.get(self.reward)
        if self.objective == "observed" and not self.observe_validation:
            raise ValueError(
                "objective='observed' needs observe_validation=True; without it, runs are "
                "those of objective='both'"
            )
        sources = rewards.OBJECTIVES[self.objective]
        if self.objective != "train" and reward.sources not in (None, sources):
            raise ValueError(
                f"reward {self.reward!r} takes losses on examples of its own, "
                f"{' and '.join(reward.sources)}; leave objective at 'train', got "
                f"{self.objective!r}"
            )
        rule = rules.get(self.rule)
        if reward.needs_cost and rule.name != rules.SWITCHING.name:
            rules.relative_cost(rule.name, 1, 1.0)  # refuses rules without a known cost
        action = actions.make(self.action).for_rule(rule)
        if action.is_update:
            action = action.for_sizes(self._num_params())
        object.__setattr__(self, "action", action)
        actions.check_rule(action, rule)
        object.__setattr__(self, "features", check_features(self.features))
        if self.dtype not in list(DTYPES):
            raise ValueError(f"unknown dtype {self.dtype!r}; valid: {', '.join(DTYPES)}")
        # 2. Numbers.
        if self.base_lr is None:
            object.__setattr__(self, "base_lr", rule.default_lr)
        for name in ("base_lr", "updates_per_step"):
            object.__setattr__(self, name, as_range(name, getattr(self, name), self.dtype))
        object.__setattr__(self, "horizon", positive_int("horizon", self.horizon))
        if self.updates_per_step[0] < 1:  # type: ignore[index]
            raise ValueError(
                f"updates_per_step must be at least 1, got {self.updates_per_step!r}"
            )
        longest = self._total(self.updates_per_step[1])  # type: ignore[index]
        if longest > windows.MAX_UPDATES:
            raise ValueError(
                f"a run has at most {windows.MAX_UPDATES} updates, got horizon="
                f"{self.horizon} and updates_per_step={self.updates_per_step!r}"
            )
        work = self.max_work
        if work is not None and (not is_number(work) or not 0 < work < math.inf):
            raise ValueError(
                f"max_work must be a positive number or None, got {quoted(work)}"
            )
        object.__setattr__(self, "spacing", windows.check_spacing(self.spacing))
        if not is_number(self.reparametrize) or not 0 <= self.reparametrize < math.inf:
            raise ValueError(
                f"reparametrize must be a number, at least 0, "
                f"got {quoted(self.reparametrize)}"
            )
        known("loss_features", self.loss_features, LOSS_FEATURE_SETS)
        if not is_number(self.loss_dropout) or not 0 <= self.loss_dropout <= 1:
            raise ValueError(
                f"loss_dropout must be a number in [0, 1], got {quoted(self.loss_dropout)}"
            )
        self._check_validation()
        # 3. Changes.
        object.__setattr__(self, "changes", changes.make(self.changes))
        self._check_changes()
        # 4. Choices.
        if not isinstance(self.anytime, bool):
            raise TypeError(f"anytime must be True or False, got {self.anytime!r}")
        if self.anytime and action.schedule != "constant":
            raise ValueError(
                "anytime=True needs an action with schedule 'constant', as the end of the "
                f"run is unknown, got {action.schedule!r}"
            )
        if self.on_divergence not in ON_DIVERGENCE:
            raise ValueError(
                f"unknown on_divergence {self.on_divergence!r}; "
                f"valid: {', '.join(ON_DIVERGENCE)}"
            )
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
            if device.type == "meta":
                raise NotImplementedError("tensors on it have no values")
        except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
            raise ValueError(f"cannot use device {self.device!r}: {error}") from None

        limit_of(self.max_memory, device)

    def _check_validation(self) -> None:
        """Check the arguments about validation losses.

        Raises:
            TypeError, ValueError: an argument is not valid, or has no effect because no
                validation loss is observed.
        """
        observed, share = self.observe_validation, self.validation_dropout
        if not isinstance(observed, bool):
            raise TypeError(f"observe_validation must be True or False, got {observed!r}")
        if not is_number(share) or not 0 <= share <= 1:
            raise ValueError(
                f"validation_dropout must be a number in [0, 1], got {quoted(share)}"
            )
        every = int_range("validation_every", self.validation_every)
        if not observed and (share, every) != (0, (1, 1)):
            raise ValueError(
                f"validation_dropout={share!r} and validation_every="
                f"{self.validation_every!r} have no effect without validation losses; "
                "give observe_validation=True as well, or leave them at 0.0 and 1"
            )
        object.__setattr__(self, "validation_every", every)

    def _check_changes(self) -> None:
        """Refuse changes that do not fit the tasks, the horizon, the action or the reward.

        Raises:
            ValueError: the changes do not fit; for tasks, the message lists kinds that do.
        """
        if self.changes is None:
            return
        if actions.make(self.action).sets_batch_size:
            if "batch_size" in self.changes.kinds:
                raise ValueError(
                    "the action sets the batch size, which can not be a change as well, "
                    f"got changes {list(self.changes.kinds)}"
                )
            object.__setattr__(self, "changes", self.changes.without("batch_size"))
        if self.changes.most >= self.horizon:
            raise ValueError(
                f"the number of changes must be less than horizon ({self.horizon}), got "
                f"{self.changes.most}"
            )
        if rewards.get(self.reward).needs_baseline:
            valid = [n for n, r in rewards.REWARDS.items() if not r.needs_baseline]
            raise ValueError(
                f"tasks that change have no baseline, got reward {self.reward!r} with "
                f"changes; valid: {', '.join(valid)}"
            )
        given = [each.task for each in self.instances or ()]
        changes.check(self.changes, tasks.make(self.tasks), given)

    def draw_total_updates(self, task: Task, rng: np.random.Generator) -> int:
        """Draw the length of the runs of a structure, in updates."""
        drawn = self._total(log_uniform(self.updates_per_step, rng))
        if self.max_work is None:
            return drawn
        least = self._total(cast(Any, self.updates_per_step)[0])
        return min(drawn, max(least, int(self.max_work / task.work)))

    def _num_params(self) -> int:
        """Return the default number of parameters whose updates an action sets.

        It is the largest number of parameters among given tasks and instances, or else the
        smallest among some tasks drawn from the families.
        """
        given: list[Task] = [each.task for each in self.instances or ()]
        sources = () if given else tasks.make(self.tasks).sources
        given += [each for each in sources if isinstance(each, Task)]
        if given:
            return max(task.num_params for task in given)
        rng, sampler = np.random.default_rng(0), tasks.make(self.tasks)
        return min(sampler.draw(rng).num_params for _ in range(32 * len(sources)))

    def structure_of(self, instance: Instance) -> Structure:
        """Return the structure of the runs on an instance."""
        length, spread = instance.updates, instance.reparametrize
        if length is None:
            length = self.draw_total_updates(instance.task, instance.generator(1))
        if spread is None:
            spread = self.reparametrize
        return Structure(instance.task, length, spread > 0)

    def longest_run(self) -> int:
        """Return the largest length of a run, in updates.

        With ``max_work`` that depends on the task; the smallest length is returned then.
        """
        low, high = cast(Any, self.updates_per_step)
        return self._total(high if self.max_work is None else low)

    def _total(self, updates_per_step: float) -> int:
        """Compute the length of a run in updates from its updates per control step."""
        return max(1, round(self.horizon * updates_per_step))

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the features of the package that are observed, in order."""
        return observed_features(
            "invariant" if self.loss_dropout == 1 else self.loss_features,
            self.observe_validation,
        )

    def describe(self) -> dict[str, Any]:
        """Describe the environment for a policy that was trained on it.

        The description holds everything that the policy needs in order to act in an
        optimizer, as JSON values. The loss features are left out if no loss was observed.
        """
        hidden = LOSS_FEATURE_SETS["both"] if self.loss_dropout == 1 else ()
        names = [*self.observed, *self.features]
        return {
            "feature_version": FEATURE_VERSION,
            "features": [name for name in names if name not in hidden],
            "action": actions.make(self.action).to_dict(),
            "rule": rules.get(self.rule).to_spec(),
            "horizon": self.horizon,
            "spacing": self.spacing,
            "anytime": self.anytime,
            "total_updates": self._lengths(),
        }

    def _lengths(self) -> list[int]:
        """Return the smallest and the largest length of a run, in updates."""
        drawn = [self._total(n) for n in cast(Any, self.updates_per_step)]
        given = [each.updates for each in self.instances or ()]
        lengths = [n for n in given if n is not None]
        if None in given or not given:
            lengths += drawn
        return [min(lengths), max(lengths)]


def make(arguments: dict[str, Any], others: Sequence[str] = ()) -> Settings:
    """Build settings from keyword arguments.

    Args:
        arguments: keyword arguments of :class:`Settings`.
        others: names of further arguments that the caller takes, for the message.

    Raises:
        TypeError: an argument is unknown; the message names the closest valid one.
        ValueError: see :class:`Settings`.
    """
    check_names(arguments, (), others)
    return Settings(**arguments)


def check_names(
    arguments: Iterable[str], others: Sequence[str], shown: Sequence[str] = ()
) -> None:
    """Refuse names of arguments that an environment does not have.

    Args:
        arguments: names to check.
        others: names that are valid besides the fields of :class:`Settings`.
        shown: further names that the message lists.

    Raises:
        TypeError: a name is unknown; the message names the closest valid one.
    """
    valid = [*(field.name for field in fields(Settings)), *others]
    for name in arguments:
        if name not in valid:
            hint = suggestion(name, [*valid, *shown])
            # Python's own wording, which TorchRL and others look for
            raise TypeError(f"got an unexpected keyword argument {name!r}; {hint}")
