"""The vector environment: a thin shell around groups of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from . import settings
from .actions import Action, completed, validate
from .actions import make as make_action
from .assignment import Rotation, Rows, partition, read, refuse_mixture
from .autoreset import check_options, join_infos, reset_mask, split_final
from .group import IDENTITY, Group, StepResult, footprint
from .instances import Instance
from .memory_limit import limit_of, refuse_beyond
from .rendering import RENDER_MODES, Renderer
from .telemetry import OBSERVATION_BOUND

__all__ = [
    "BATCH_ARGUMENTS",
    "GROUP_SIZE",
    "LearningRateVectorEnv",
    "observation_space",
]

#: Runs in a group of a mixed batch, unless the argument ``groups`` is given.
GROUP_SIZE = 32

#: Arguments of batches, which single environments do not have.
BATCH_ARGUMENTS = ("num_envs", "groups", "autoreset_mode", "rendered")

#: Labels of the memory that a batch needs besides its groups, and bytes that each run needs
#: for its generator and its entries in ``info``.
BATCH, RECORD, _RUN = "generators and observations", "the record of the episodes", 6000

#: Types of the values that a step returns: in all environments, where tasks change, and
#: where actions set the batch size. Except for reward and terminated, they are in ``info``.
_STEP: dict[str, type] = {
    "reward": float, "terminated": bool, "loss": float, "lr": float, "diverged": bool,
}  # fmt: skip
_OF_TASKS: dict[str, type] = {"mean_loss": float, "forgetting": float, "changes": int}
_OF_BATCHES: dict[str, type] = {"batch_size": int, "examples": int}


def observation_space(dtype: str, action: Action, features: Sequence[str]) -> spaces.Box:
    """Make the space of one observation.

    Args:
        dtype: name of the type, a key of :data:`optenv.settings.DTYPES`.
        action: kind of action, which may add entries to the observation.
        features: names of the observed features.
    """
    width = len(features) + action.observed * action.slots
    bound, numpy_dtype = OBSERVATION_BOUND, settings.DTYPES[dtype][1]
    return spaces.Box(-bound, bound, (width,), numpy_dtype)


class LearningRateVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Control the training of a batch of networks, one decision at a time.

    The environment id says what an action sets, for example the learning rate, the update
    rule or the batch size.

    ## Description
    A batch of `num_envs` runs, each equivalent to a `LearningRateEnv`, which documents
    task, actions and rewards. Runs of one structure (model, batch size, length) form a
    group, which advances as stacked tensors. After `reset(seed=s)`, sub-environment `i`
    equals a single environment of the same structure after `reset(seed=s + i)`, whatever
    the batch size.

    ```python
    >>> import gymnasium as gym
    >>> import optenv
    >>> env = gym.make_vec("optenv/LearningRate-v0", num_envs=3, tasks="quadratic")
    >>> observations, infos = env.reset(seed=0)
    >>> observations.shape
    (3, 25)
    >>> observations, rewards, terminated, truncated, infos = env.step(
    ...     env.action_space.sample()
    ... )
    >>> sorted(infos)
    ['_diverged', '_loss', '_lr', 'diverged', 'loss', 'lr']

    ```

    ## Action Space
    The single action space with a first dimension of `num_envs`:

    | Id | Space |
    |----|-------|
    | `optenv/LearningRate-v0` | `Box(-1, 1, (num_envs, 1))` |
    | `optenv/DiscreteLearningRate-v0` | `MultiDiscrete([7, ..., 7])` |
    | `optenv/UpdateRule-v0` | `MultiDiscrete([24, ..., 24])` |
    | `optenv/Hyperparameters-v0` | `Box(-1, 1, (num_envs, 6))` |
    | `optenv/RoleLearningRate-v0` | `Box(-1, 1, (num_envs, 4))` |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-1, 1, (num_envs, 64))` |
    | `optenv/Update-v0` | `Box(-1, 1, (num_envs, 2))` |
    | `optenv/BatchSize-v0` | `MultiDiscrete([7, ..., 7])` |

    ## Observation Space
    The single observation space with a first dimension of `num_envs`:

    | Id | Space |
    |----|-------|
    | `optenv/LearningRate-v0` | `Box(-4, 4, (num_envs, 25))` |
    | `optenv/DiscreteLearningRate-v0` | `Box(-4, 4, (num_envs, 25))` |
    | `optenv/UpdateRule-v0` | `Box(-4, 4, (num_envs, 33))` |
    | `optenv/Hyperparameters-v0` | `Box(-4, 4, (num_envs, 30))` |
    | `optenv/RoleLearningRate-v0` | `Box(-4, 4, (num_envs, 29))` |
    | `optenv/LayerwiseLearningRate-v0` | `Box(-4, 4, (num_envs, 921))` |
    | `optenv/Update-v0` | `Box(-4, 4, (num_envs, 38))` |
    | `optenv/BatchSize-v0` | `Box(-4, 4, (num_envs, 26))` |

    `optenv.PerTensor` makes a sub-environment of each parameter tensor of
    `optenv/LayerwiseLearningRate-v0`.

    ## Rewards
    `[num_envs]` float64, the rewards of the single environments; 0 for runs that a step
    only resets.

    ## Starting State
    Each run begins like the single environment. A group draws a new structure whenever all
    its runs are reset together. If only some of them are reset, these restart with the
    group's structure.

    With the argument `instances`, a group takes an instance of the set whenever all its
    runs are reset together. Its runs share this instance, or have different instances of
    the same structure if the set has such. `groups=num_envs` gives each run an instance of
    its own. `reset()` has these options:

    | Option | Values |
    |--------|--------|
    | `reset_mask` | bool array `[num_envs]`: which runs are reset |
    | `instance` | instance as in the single environment, or a list with one for each run; runs with instances of one structure then form a group |

    ## Episode End
    Each run ends like the single environment (`truncated` is always False), and is reset
    according to `autoreset_mode`:

    | Mode | Reset |
    |------|-------|
    | `NEXT_STEP` | in the next step, which ignores its action and returns reward 0 |
    | `SAME_STEP` | in the same step; `info` has `final_obs` and `final_info` |
    | `DISABLED` | by `reset(options={"reset_mask": mask})`, before the next step |

    ## Info
    Arrays `[num_envs]`. For each key, the array under the key with a leading underscore is
    a mask of the valid entries. A step returns, for the runs that take part:

    | Key | Meaning |
    |-----|---------|
    | `loss` | loss on the examples of the objective; infinity if it is not finite |
    | `lr` | learning rate of the step's first update |
    | `diverged` | whether the run has diverged |
    | `validation_loss` | at the end of a run: loss on all its validation examples |
    | `batch_size` | `optenv/BatchSize-v0` only: examples in a batch of the step, and `examples` (see below) at every step |

    At a reset and at the end of a run:

    | Key | Meaning |
    |-----|---------|
    | `family` | family of the task; None if a task object was given |
    | `split` | split of the family; likewise |
    | `instance` | name of the instance; None if the task is newly drawn |
    | `structure` | the task with its fields |
    | `initial_loss` | `loss` before the first update |
    | `examples` | training examples seen in the run so far, repetitions included |
    | `work` | approximate number of multiplications in the forward passes of the run so far |

    A step that resets runs returns the keys of the second table for them. In `SAME_STEP`
    mode the values at the end of a run are in `final_info`.

    With the argument `changes`, a step also returns `changes`, `mean_loss` and
    `forgetting`, as in the single environment.

    ## Arguments

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `num_envs` | `1` | number of runs |
    | `groups` | `None` | number of groups, each with its own structure (None: 1 per 32 runs; 1 for a fixed task) |
    | `autoreset_mode` | `NEXT_STEP` | any of Gymnasium's |
    | `render_mode` | `None` | as in the single environment; `render()` then returns a tuple with one for each run |
    | `rendered` | `None` | number of runs that are rendered, the first ones (None: all); the others' images are empty |

    All others are those of the single environment, see `optenv.settings.Settings`. An
    invalid argument raises a `ValueError` or a `TypeError`.

    ## Version History
    - v0: initial version.
    """  # noqa: E501

    metadata: dict[str, Any] = {
        "render_modes": list(RENDER_MODES),
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    #: Names of the arguments that are not settings.
    own_arguments: tuple[str, ...] = (
        "num_envs", "groups", "autoreset_mode", "render_mode", "rendered",
    )  # fmt: skip

    #: Number of runs in an episode.
    runs: int = 1

    def __init__(
        self,
        num_envs: int = 1,
        *,
        groups: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        rendered: int | None = None,
        own_action: str | dict[str, Any] | Action = "continuous",
        **arguments: Any,
    ) -> None:
        # 1. Check the arguments. The id passes its own action as well, so that a dict may
        # change only some of its fields.
        arguments["action"] = completed(arguments.get("action", {}), own_action)
        self.settings = settings.make(arguments, self.own_arguments)
        counts = {
            "num_envs": num_envs,
            "groups": 1 if groups is None else groups,
            "rendered": num_envs if rendered is None else rendered,
        }
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs!r}")
        if rendered is not None and render_mode is None:
            raise ValueError(
                f"rendered={rendered!r} has no effect without a render_mode; valid: "
                f"{', '.join(map(repr, RENDER_MODES))}"
            )
        if not 1 <= counts["rendered"] <= num_envs:
            raise ValueError(f"rendered must lie in [1, {num_envs}], got {rendered!r}")
        self.renderer: Renderer | None = None
        if render_mode is not None:
            self.renderer = Renderer(
                render_mode, num_envs, int(counts["rendered"]), self.runs
            )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._check_memory()
        # 2. Make the spaces.
        self.action = make_action(self.settings.action)
        self.single_action_space = self.action.space(
            settings.DTYPES[self.settings.dtype][1]
        )
        self._run_space = observation_space(
            self.settings.dtype,
            self.action,
            (*self.settings.observed, *self.settings.features),
        )
        self.single_observation_space = self._observation_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # 3. Make the groups; they are empty until the first reset.
        has_set = self.settings.instances is not None
        self._rotation = Rotation(self.settings) if has_set else None
        self.groups = self._default_groups = self._make_groups(groups)
        sizes = [group.size for _, group in self.groups]
        footprint.check_before(self.groups[0][1].setup, sizes, self._own_memory())
        self._generators: list[np.random.Generator] = []
        self._ended = np.zeros(num_envs, np.bool_)
        self._estimated_reward = np.zeros(num_envs)
        #: Types of the values of a step.
        self._kinds: dict[str, type] = {
            **_STEP,
            **(_OF_TASKS if self.settings.changes is not None else {}),
            **(_OF_BATCHES if self.action.sets_batch_size else {}),
        }

    def _check_memory(self) -> None:
        """Refuse a batch that needs more memory than the limit, before it is made.

        Raises:
            ValueError: it needs more; the message says what to lower.
        """
        own = self._own_memory()
        refuse_beyond(
            limit_of(self.settings.max_memory),
            f"an environment with num_envs={self.num_envs}, horizon="
            f"{self.settings.horizon} and {self.runs} runs an episode",
            own,
            {
                BATCH: ("num_envs", "the slots of the action"),
                RECORD: ("num_envs", "rendered", "horizon", "runs"),
            },
        )

    def _own_memory(self) -> dict[str, int]:
        """Estimate the memory needed besides the groups, in bytes, by purpose."""
        action, chosen = make_action(self.settings.action), self.settings
        number = np.dtype(settings.DTYPES[chosen.dtype][1]).itemsize
        width = len(chosen.observed) + len(chosen.features)
        width += action.observed * action.slots + action.slots * action.outputs
        found = {BATCH: self.num_envs * (_RUN + 8 * number * width)}
        if self.renderer is not None:
            found[RECORD] = self.renderer.memory(chosen.horizon)
        return found

    def memory(self) -> dict[str, int]:
        """Estimate the memory that the environment needs, in bytes, by purpose.

        Environments whose estimate exceeds ``max_memory`` are refused. The memory of losses
        and their gradients is measured on tensors without values, which may take a second
        for each group.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, which draws the tasks.

        Example:
            >>> import gymnasium as gym
            >>> import optenv
            >>> env = gym.make_vec("optenv/LearningRate-v0", num_envs=2)
            >>> _ = env.reset(seed=0)
            >>> 2**10 < sum(env.unwrapped.memory().values()) < 2**30
            True
        """
        if not self.started:
            raise gym.error.ResetNeeded("call reset() before memory()")
        groups = [group.measured_footprint() for _, group in self.groups]
        return footprint.total(self._own_memory(), groups)

    def _observation_space(self) -> spaces.Box:
        """Make the single observation space; subclasses extend it."""
        return self._run_space

    def _make_groups(self, count: int | None) -> list[tuple[Rows, Group]]:
        """Divide the runs into groups of nearly equal size."""
        if count is None:
            fixed = Group(self.settings, 1).sampler.fixed
            if self._rotation is not None:
                fixed = self._rotation.num_structures == 1
            count = 1 if fixed else max(1, self.num_envs // GROUP_SIZE)
        if not 1 <= count <= self.num_envs:
            raise ValueError(f"groups must lie in [1, {self.num_envs}], got {count!r}")
        edges = np.linspace(0, self.num_envs, count + 1).round().astype(int)
        return [
            (slice(a, b), Group(self.settings, b - a))
            for a, b in zip(edges.tolist(), edges[1:].tolist(), strict=False)
        ]

    @property
    def num_tensors(self) -> np.ndarray:
        """Number of parameter tensors of each run's model, ``[num_envs]``.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        return self._of_groups("num_tensors", lambda group: len(group.task.shapes))

    @property
    def num_steps(self) -> np.ndarray:
        """Control steps of each episode, ``[num_envs]``, unless it diverges.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        return self._of_groups("num_steps", lambda group: group.num_steps)

    def _of_groups(self, name: str, value: Callable[[Group], int]) -> np.ndarray:
        """Return a value of each run's group, ``[num_envs]``; ``name`` is for errors."""
        if not self.started:
            raise gym.error.ResetNeeded(f"call reset() before {name}")
        numbers = np.zeros(self.num_envs, np.int64)
        for rows, group in self.groups:
            numbers[rows] = value(group)
        return numbers

    @property
    def started(self) -> bool:
        """True once the batch has been reset."""
        return bool(self._generators)

    @property
    def ended(self) -> np.ndarray:
        """Mask of the runs that have ended and are not reset yet, ``[num_envs]`` bool."""
        return self._ended.copy()

    def describe(self) -> dict[str, Any]:
        """Describe the environment for a policy that was trained on it.

        See :meth:`optenv.settings.Settings.describe`.
        """
        return self.settings.describe()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new runs.

        Args:
            seed: seed of the first run; run ``i`` gets ``seed + i``. Or a list with a seed
                for each run. None to continue with the present random numbers.
            options: a dict with optional entries ``"reset_mask"``, a bool array
                ``[num_envs]`` of the runs that are reset and seeded; and ``"instance"``,
                the instance of all reset runs or a list with one for each run, see
                :func:`optenv.assignment.read`.

        Returns:
            Observations ``[num_envs, F]`` (zero where not reset) and ``info``, see the
            class.

        Raises:
            ValueError, TypeError: the seeds, the mask or the instances do not fit the
                batch, or an option is unknown.
            gymnasium.error.ResetNeeded: the first reset is not of all runs.
        """
        # 1. Check everything before anything changes.
        known = check_options(options, ("reset_mask", "instance"))
        mask = reset_mask(known, self.num_envs)
        if not self.started and not mask.all():
            raise gym.error.ResetNeeded("reset all runs before some of them")
        given = None
        if known.get("instance") is not None:
            given = read(known["instance"], mask, self.settings)
        groups = self._groups_for(given, mask)
        self._seed(seed, mask)
        # 2. Start the runs.
        self.groups = groups
        return self._reset(mask, given), self._identify(mask)

    def _groups_for(
        self, given: list[Instance | None] | None, mask: np.ndarray
    ) -> list[tuple[Rows, Group]]:
        """Choose the groups of a reset.

        By default they are the groups made by the constructor. If all runs are reset and
        given instances, runs of one structure form a group (unless each run already is its
        own group). If only some runs are reset, the groups of the last reset stay.

        Raises:
            ValueError: the given instances do not fit the groups that stay.
        """
        groups = self._default_groups if mask.all() else self.groups
        if given is None:
            return groups
        wanted = [
            None if each is None else self.settings.structure_of(each) for each in given
        ]
        if mask.all() and len(groups) < self.num_envs:
            parts = partition([each for each in wanted if each is not None])
            everyone = np.arange(self.num_envs)
            return [(rows, Group(self.settings, len(everyone[rows]))) for rows in parts]
        for part, group in groups:
            rows = np.arange(self.num_envs)[part]
            index = np.flatnonzero(mask[rows])
            if len(index):
                refuse_mixture(group, rows, index, [wanted[i] for i in rows[index]])
        return groups

    def _identify(self, mask: np.ndarray) -> dict[str, Any]:
        """Return the identity of the runs in ``mask``, as an ``info`` with masks."""
        info: dict[str, Any] = {}
        for name, kind in IDENTITY.items():
            info[name] = np.zeros(self.num_envs, kind)
            if kind is object:
                info[name][:] = None
            info["_" + name] = mask.copy()
        for part, group in self.groups:
            index = np.flatnonzero(mask[part])
            if len(index):
                chosen = np.arange(self.num_envs)[part][index]
                for name, values in group.identify(index).items():
                    info[name][chosen] = values
        info["initial_loss"] = _finite_or_inf(torch.from_numpy(info["initial_loss"]))
        return info

    def _seed(self, seed: int | list[int | None] | None, mask: np.ndarray) -> None:
        """Seed the generators of the runs in ``mask``; without seeds they continue."""
        # 1. One seed for each run.
        if isinstance(seed, tuple):
            seed = list(seed)
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(
                f"seed must have one entry per run ({self.num_envs}), got {len(seed)}"
            )
        is_first = not self.started
        if seed is None and not is_first:
            return
        if not isinstance(seed, list):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = seed
        # 2. The generators of the runs.
        pairs = [seeding.np_random(s) for s in seeds]
        for i, (generator, _) in enumerate(pairs):
            if is_first:
                self._generators.append(generator)
            elif seeds[i] is not None and mask[i]:
                self._generators[i] = generator
        # 3. The generator of structures: a child of the first generator that is seeded, so
        # that drawing a structure does not change the runs' own random numbers.
        seeded = [i for i in range(self.num_envs) if seeds[i] is not None and mask[i]]
        first = 0 if is_first else next(iter(seeded), None)
        if first is not None:
            self._structure = self._generators[first].spawn(1)[0]
            if self._rotation is not None:
                self._rotation.start(pairs[first][1])
        if first == 0:
            self._np_random, self._np_random_seed = self._generators[0], pairs[0][1]

    def random_state(self) -> dict[str, Any]:
        """Return the state of everything random in a reset of all runs, as JSON values.

        :meth:`set_random_state` restores it, also in another process.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, which seeds the batch.
        """
        if not self.started:
            raise gym.error.ResetNeeded("call reset() before random_state()")
        return {
            "runs": [each.bit_generator.state for each in self._generators],
            "structure": self._structure.bit_generator.state,
            "instance": None if self._rotation is None else self._rotation.next_place,
        }

    def set_random_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of everything random in a reset of all runs.

        The next reset must be of all runs and without a seed. It starts the same runs as
        such a reset would have started when the state was taken.

        Args:
            state: result of :meth:`random_state` of a batch with the same arguments.

        Raises:
            ValueError: the state is of another number of runs.
        """
        if len(state["runs"]) != self.num_envs:
            raise ValueError(
                f"the state is of {len(state['runs'])} runs, not of {self.num_envs}"
            )
        generators = [np.random.Generator(np.random.PCG64()) for _ in state["runs"]]
        self._structure = np.random.Generator(np.random.PCG64())
        pairs = zip(
            [*generators, self._structure],
            [*state["runs"], state["structure"]],
            strict=True,
        )
        for generator, value in pairs:
            generator.bit_generator.state = value
        self._generators, self._np_random = generators, generators[0]
        if self._rotation is not None:
            self._rotation.next_place = int(state["instance"])

    def adopt(self, generator: np.random.Generator, seed: int) -> None:
        """Let a batch of one run draw from ``generator``, which was made from ``seed``."""
        self._generators = [generator]
        self._structure = generator.spawn(1)[0]
        if self._rotation is not None:
            self._rotation.start(seed)

    def _reset(
        self, mask: np.ndarray, given: list[Instance | None] | None = None
    ) -> np.ndarray:
        """Reset the runs in ``mask``; returns observations, zero for the others.

        Args:
            mask: which runs, ``[num_envs]`` bool.
            given: instance of each run; None to let the environment choose.
        """
        self._ended = self._ended & ~mask
        return self._begin(mask, given=given)

    def _begin(
        self,
        mask: np.ndarray,
        same_task: bool = False,
        given: list[Instance | None] | None = None,
    ) -> np.ndarray:
        """Begin runs.

        Args:
            mask: which runs, ``[num_envs]`` bool.
            same_task: whether they keep their tasks.
            given: instance of each run; None to let the environment choose.

        Returns:
            First observations ``[num_envs, F]`` without the further entries of trials, zero
            for the other runs.
        """
        observation = np.zeros(
            (self.num_envs, *self._run_space.shape), self._run_space.dtype
        )
        for rows, group in self.groups:
            index = np.flatnonzero(mask[rows])
            if len(index):
                chosen = np.arange(self.num_envs)[rows][index]
                generators = [self._generators[i] for i in chosen]
                if same_task:
                    first = group.restart(index, generators)
                else:
                    instances = (
                        self._choose(group, index, generators)
                        if given is None
                        else [given[i] for i in chosen]
                    )
                    if len(index) == group.size:  # a new structure is drawn
                        others = [g.footprint for _, g in self.groups if g is not group]
                        group.beside = footprint.held(self._own_memory(), others)
                    first = group.reset(index, generators, self._structure, instances)
                observation[chosen, : first.shape[1]] = first.cpu().numpy()
                if self.renderer is not None:
                    self.renderer.begin(rows, group, index, same_episode=same_task)
        return observation

    def _choose(
        self, group: Group, index: np.ndarray, generators: list[np.random.Generator]
    ) -> Sequence[Instance | None] | None:
        """Choose instances of the set for runs of a group that are reset."""
        if self._rotation is None:
            return None
        if len(index) == group.size:
            return self._rotation.whole(group.size, self._structure)
        return [
            self._rotation.again(group.instances[i], group, generator)
            for i, generator in zip(index, generators, strict=True)
        ]

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one control step in every run.

        Args:
            actions: ``[num_envs, ...]`` of ``action_space``.

        Returns:
            Observations ``[num_envs, F]``, rewards, terminated, truncated (always False)
            and ``info``, see the class.

        Raises:
            ValueError: actions are out of range, or runs have ended and were not reset.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        # 1. Check the actions and the state of the runs.
        batch = validate(self.action_space, actions)
        if not self.started:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode is AutoresetMode.DISABLED and np.count_nonzero(self._ended):
            ended = np.flatnonzero(self._ended).tolist()
            raise ValueError(
                f"runs {ended} have ended; reset them with "
                "reset(options={'reset_mask': mask})"
            )
        # 2. Step. In NEXT_STEP mode, runs that have ended are reset instead.
        resetting = self._ended.copy()
        observation, reward, terminated, info = self._step(batch, ~resetting)
        if np.count_nonzero(resetting):
            observation[resetting] = self._reset(resetting)[resetting]
            info = join_infos(info, self._identify(resetting))
        self._ended = terminated.copy()
        # 3. In SAME_STEP mode, runs that end now are reset as well.
        if self.autoreset_mode is AutoresetMode.SAME_STEP and terminated.any():
            info = split_final(observation, info, terminated)
            observation[terminated] = self._reset(terminated)[terminated]
            info = join_infos(info, self._identify(terminated))
        truncated = np.zeros(self.num_envs, np.bool_)
        return observation, reward, terminated, truncated, info

    def render(self) -> tuple[Any, ...] | None:
        """Render the episodes so far in the render mode.

        Returns:
            A line of text or an image ``[H, W, 3]`` uint8 for each run; None without a
            render mode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.renderer is None:
            return None
        if not self.started:
            raise gym.error.ResetNeeded("call reset() before render()")
        return self.renderer.render(self.groups)

    def _step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the groups.

        Args:
            actions: valid actions ``[num_envs, ...]``.
            active: runs that take part, ``[num_envs]`` bool.

        Returns:
            Observations, rewards, terminated and info; zero for runs that take no part.
        """
        observation = np.zeros(
            (self.num_envs, *self._run_space.shape), self._run_space.dtype
        )
        values: dict[str, np.ndarray] = {
            name: np.zeros(self.num_envs, kind) for name, kind in self._kinds.items()
        }
        for rows, group in self.groups:
            mask = active[rows]
            taking_part = np.count_nonzero(mask)  # several times faster than mask.any()
            if not taking_part:
                continue
            whole = taking_part == len(mask)
            result = group.step(torch.from_numpy(actions[rows]), None if whole else mask)
            if self.renderer is not None:
                self.renderer.record(rows, group, mask, result)
            observed = result.observation.cpu().numpy()
            observation[rows, : observed.shape[1]] = observed
            for name, value in self._values(group, result).items():
                # No products: values of runs that take no part may be infinite.
                values[name][rows] = value if whole else np.where(mask, value, 0)
            self._estimated_reward[rows] = result.estimated_reward.cpu().numpy()
        reward, terminated = values.pop("reward"), values.pop("terminated")
        info: dict[str, Any] = {}
        if np.count_nonzero(active):
            for name, of_runs in values.items():
                info |= {name: of_runs, "_" + name: active.copy()}
        if np.count_nonzero(terminated):
            ends = self._identify(terminated)
            if self.action.sets_batch_size:  # already in the info of all runs
                ends = {k: v for k, v in ends.items() if k.lstrip("_") != "examples"}
            info |= {
                "validation_loss": self._validation_losses(terminated),
                "_validation_loss": terminated.copy(),
                **ends,
            }
        return observation, reward, terminated, info

    def _values(self, group: Group, result: StepResult) -> dict[str, np.ndarray]:
        """Return reward, terminated and info of a group's step, each ``[B]``."""
        values = {
            "reward": result.reward.cpu().numpy(),
            "terminated": result.terminated.cpu().numpy(),
            "loss": _finite_or_inf(group.state.loss[:, 0]),
            "lr": result.lr.cpu().numpy(),
            "diverged": result.diverged.cpu().numpy(),
        }
        if self.settings.changes is not None:
            losses = group.state.stage_losses
            values["mean_loss"] = _finite_or_inf(losses.mean)
            values["forgetting"] = _finite_or_inf(losses.forgetting)
            values["changes"] = losses.changes.cpu().numpy()
        if self.action.sets_batch_size:
            values["batch_size"] = result.batch_size
            values["examples"] = group.examples.cpu().numpy()
        return values

    def _validation_losses(self, mask: np.ndarray) -> np.ndarray:
        """Compute the validation losses of the runs in ``mask``; 0 for the others."""
        losses = np.zeros(self.num_envs)
        for rows, group in self.groups:
            index = np.flatnonzero(mask[rows])
            if len(index):
                chosen = np.arange(self.num_envs)[rows][index]
                losses[chosen] = _finite_or_inf(group.validation_loss(index))
        return losses


def _finite_or_inf(loss: torch.Tensor) -> np.ndarray:
    """Convert losses to NumPy, with infinity for those that are not finite."""
    values = loss.cpu().numpy().astype(np.float64)
    if np.isfinite(values).all():
        return values
    return np.where(np.isfinite(values), values, np.inf)
