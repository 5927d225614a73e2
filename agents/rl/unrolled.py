"""Learning-rate policies that are learned by differentiating through training runs.

Policy and environment are the same as for PPO and DQN. The learning signal is the gradient
of the rewards themselves: the environment's dynamics are differentiated, from the losses at
the end of a segment of control steps back to the actions taken in it (truncated
backpropagation through time).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions
from optenv.checks import is_number, positive, positive_int, quoted
from optenv.group import Group, footprint
from optenv.settings import DTYPES, make

from ..policy.files import save_policy
from ..policy.module import Policy
from ..policy.spec import PolicySpec
from ..utils.arguments import refuse_unknown
from ..utils.averaging import TailAverage
from ..utils.progress import progress_bar as progress
from .checkpoints import Checkpoint

__all__ = ["Callback", "UnrolledLR"]

#: Function that is called after the runs of each round, with the learner and the runs' mean
#: return. A false result, except None, ends the learning.
Callback = Callable[["UnrolledLR", float], object]


class UnrolledLR:
    r"""Learner of a learning-rate policy by truncated backpropagation through training.

    A run is cut into segments of control steps. The action is the policy's output plus
    Gaussian noise. Each action :math:`a_t` gets the gradient of its segment's return with
    the later actions treated as constants, clipped to :math:`\pm c` for each run and step,

    .. math:: g_t = \operatorname{clip}\Bigl(
        \frac{\partial}{\partial a_t} \sum_{u \ge t} r_u, -c, c\Bigr),

    because over a few hundred updates the gradient can have any size (Metz et al., 2019);
    the policy ascends along :math:`g_t`. Rewards after the segment are ignored, so that
    with short segments the learned learning rates are too small (Wu et al., 2018).

    Args:
        arguments: arguments of the environment, see :class:`optenv.settings.Settings`; the
            action must be continuous.
        groups: number of structures that are trained on at a time.
        size: number of runs of each structure.
        segment: number of control steps that are differentiated at once.
        net_arch: widths of the policy's hidden layers.
        noise: standard deviation of the noise on the actions.
        clip: bound of the gradient of each action, in nats.
        meta_lr: learning rate of Adam on the policy's weights.
        seed: seed of tasks, noise and initial policy.
        **unknown: unknown arguments, which are refused with the closest valid name.

    Attributes:
        policy: the policy that is learned.
        num_timesteps: number of control steps made, over all runs.

    Raises:
        ValueError, TypeError: an argument is not valid, or the memory needed exceeds the
            environment's ``max_memory``.

    Example:
        ::

            learner = UnrolledLR({"tasks": "quadratic"}, groups=4, segment=5)
            learner.learn(100_000)
            learner.save("my_policy")
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        groups: int = 8,
        size: int = 16,
        segment: int = 8,
        net_arch: tuple[int, ...] = (64, 64),
        noise: float = 0.1,
        clip: float = 0.3,
        meta_lr: float = 1e-3,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown)
        arguments = dict(arguments)
        if isinstance(arguments.get("action"), Mapping):
            arguments["action"] = {"kind": "continuous", **arguments["action"]}
        self.settings = make(arguments)
        action = actions.make(self.settings.action)
        if not isinstance(action, actions.Continuous):
            raise ValueError(f"the action must be continuous, got {action}")
        if self.settings.instances is not None:
            raise ValueError(
                f"a learner that unrolls draws new tasks: give tasks instead of instances="
                f"{self.settings.instances!r}"
            )
        groups, size = positive_int("groups", groups), positive_int("size", size)
        self.segment = positive_int("segment", segment)
        footprint.check_unrolled(self.settings, groups, size, self.segment)
        self.groups = [Group(self.settings, size) for _ in range(groups)]
        for group in self.groups:
            group.segment = self.segment
        positive("clip", clip)
        positive("meta_lr", meta_lr)
        if not is_number(noise) or not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a number, at least 0, got {quoted(noise)}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {quoted(seed)}")
        self.noise, self.clip, self.seed = noise, clip, seed
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        spec = PolicySpec.from_environment(
            self.settings.describe(),
            hidden=net_arch,
            algorithm=type(self).__name__,
            seed=seed,
        )
        self.policy = Policy(spec).to(DTYPES[self.settings.dtype][0])
        self._initialise()
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=meta_lr)
        self.num_timesteps = 0
        self._average: TailAverage | None = None  # until learning begins
        self._rounds = self._done = 0  # rounds of the learning, and those done
        self._total_return = 0.0  # of the present round, over all runs

    def _initialise(self) -> None:
        """Draw orthogonal weights with initial actions near 0, as for an untrained PPO."""
        layers = [m for m in self.policy.members[0] if isinstance(m, nn.Linear)]
        for layer in layers:
            gain = 0.01 if layer is layers[-1] else 2**0.5
            nn.init.orthogonal_(layer.weight, gain, self.generator)

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Train for whole rounds of runs, for at least ``total_timesteps`` control steps.

        At the end, also after an interrupt, the parameters are the average over the last
        rounds, see :class:`~agents.utils.averaging.TailAverage`.

        Args:
            total_timesteps: number of control steps over all runs.
            callback: see :data:`Callback`.
            progress_bar: show a progress bar.

        Returns:
            The learner.
        """
        positive_int("total_timesteps", total_timesteps)
        size = sum(group.size for group in self.groups) * self.settings.horizon
        self._rounds, self._done = -(-total_timesteps // size), 0
        self._average = TailAverage(self._rounds, running=False)
        return self.go_on(callback, progress_bar)

    def go_on(self, callback: Callback | None = None, progress_bar: bool = False) -> Self:
        """Continue learning that a callback has stopped, or that was :meth:`restored`.

        Args:
            callback: see :meth:`learn`.
            progress_bar: see :meth:`learn`.

        Returns:
            The learner.

        Raises:
            RuntimeError: learning has not begun.
        """
        average = self._average
        if average is None:
            raise RuntimeError("learning has not begun; call learn()")
        left = self._rounds - self._done
        try:
            with progress(left, "training", progress_bar, "round") as advance:
                while self._done < self._rounds:
                    mean_return = self._train_runs()
                    average.update(self._done, self._parameters())
                    self._done += 1
                    result = None if callback is None else callback(self, mean_return)
                    if result is not None and not result:
                        break
                    advance()
        finally:
            if average.count:
                self._set(average.mean())
        return self

    def state(self) -> Checkpoint:
        """Return the state of the learner between two rounds, for a callback to save.

        A learner that was made with the same arguments and :meth:`restored` continues with
        the same numbers, bit for bit. Runs start anew in every round and are not part of
        the state.
        """
        numbers = {
            "class": type(self).__name__,
            "num_timesteps": self.num_timesteps,
            "rounds": self._rounds,
            "done": self._done,
            "snapshots": 0 if self._average is None else self._average.count,
            "rng": self.rng.bit_generator.state,
        }
        tensors = {"generator": self.generator.get_state()}
        snapshots = [] if self._average is None else self._average.content()
        moments = self.optimizer.state_dict()["state"]
        for i, p in enumerate(self._parameters()):
            tensors[f"parameters/{i}"] = p.detach()
            for j, snapshot in enumerate(snapshots):
                tensors[f"snapshots/{j}/{i}"] = snapshot[i]
            for name, value in moments.get(i, {}).items():
                tensors[f"optimizer/{i}/{name}"] = value
        return Checkpoint(
            numbers, {name: value.numpy().copy() for name, value in tensors.items()}
        )

    def restored(self, state: Checkpoint) -> Self:
        """Load the :meth:`state` of another learner; :meth:`go_on` continues from it.

        Raises:
            ValueError: the state is of another class, or its policy has another size.
        """
        self.continued(state)
        numbers, arrays = state
        self.rng.bit_generator.state = numbers["rng"]
        self.generator.set_state(torch.from_numpy(arrays["generator"]))
        self._rounds, self._done = numbers["rounds"], numbers["done"]
        self._average = TailAverage(self._rounds, running=False)
        snapshots = [
            [torch.from_numpy(arrays[f"snapshots/{j}/{i}"]) for i in self._indices()]
            for j in range(numbers["snapshots"])
        ]
        self._average.restore(len(snapshots), snapshots)
        return self

    def continued(self, state: Checkpoint) -> Self:
        """Load what another learner has learned, as a start for :meth:`learn`.

        It consists of the policy, the moments of Adam and the number of control steps.
        Tasks and noise are drawn from the seed and that number.

        Raises:
            ValueError: the state is of another class, or its policy has another size.
        """
        # 1. Check everything before anything changes
        numbers, arrays = state
        if numbers.get("class") != type(self).__name__:
            raise ValueError(
                f"the state is of {numbers.get('class')!r}, not of {type(self).__name__}"
            )
        values = [torch.from_numpy(arrays[f"parameters/{i}"]) for i in self._indices()]
        for p, value in zip(self._parameters(), values, strict=True):
            if p.shape != value.shape:
                raise ValueError(
                    f"the state is of a policy with parameters {tuple(value.shape)} where "
                    f"this one has {tuple(p.shape)}"
                )
        # 2. Parameters, moments, steps
        self._set(values)
        self.num_timesteps = numbers["num_timesteps"]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/")
                moments.setdefault(int(i), {})[name] = torch.from_numpy(array)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        # 3. New tasks and noise
        self.rng = np.random.default_rng(self.seed + self.num_timesteps)
        self.generator.manual_seed(self.seed + self.num_timesteps)
        return self

    def _indices(self) -> range:
        """Return the indices of the learned parameters."""
        return range(len(self._parameters()))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Load the average over the last rounds into the policy, within the context.

        A callback of :meth:`learn` can then write or evaluate the policy as if learning
        ended now.
        """
        before = [p.data for p in self._parameters()]
        if self._average is not None and self._average.count:
            self._set(self._average.mean())
        try:
            yield
        finally:
            self._set(before)

    def _set(self, values: Sequence[Tensor]) -> None:
        """Set all learned parameters."""
        for p, value in zip(self._parameters(), values, strict=True):
            p.data = value

    def _parameters(self) -> list[nn.Parameter]:
        """Return all learned parameters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _train_runs(self) -> float:
        """Train on new runs from beginning to end, and return their mean return.

        Each segment, over all groups, gives one step of Adam.
        """
        self._total_return = 0.0
        observations = [self._reset(group) for group in self.groups]
        for _ in range(0, self.settings.horizon, self.segment):
            self.optimizer.zero_grad()
            for i, group in enumerate(self.groups):
                observations[i] = self._learn_segment(group, observations[i])
            nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
        return self._total_return / sum(group.size for group in self.groups)

    def _reset(self, group: Group) -> Tensor:
        """Start new runs of a new structure; return their observations ``[B, F]``."""
        seeds = self.rng.integers(2**62, size=group.size)
        generators = [np.random.default_rng(int(seed)) for seed in seeds]
        structure = np.random.default_rng(int(self.rng.integers(2**62)))
        return group.reset(np.arange(group.size), generators, structure)

    def _learn_segment(self, group: Group, observation: Tensor) -> Tensor:
        """Run a segment, and add its gradient to the gradients of the parameters.

        Args:
            group: runs of one structure.
            observation: their observations ``[B, F]``.

        Returns:
            Observations after the segment, ``[B, F]``.
        """
        # 1. Run the segment, and record the graph from actions to rewards
        others = self._begin_segment(group)
        means, taken, total = [], [], torch.zeros(())
        for _ in range(min(self.segment, group.num_steps - int(group.steps[0]))):
            features = observation[:, self.policy.columns]
            means.append(self.policy.members[0](features))
            drawn = torch.randn(means[-1].shape, generator=self.generator)
            noise = drawn.to(means[-1].dtype)
            action = (means[-1].detach() + self.noise * noise).clamp(-1, 1)
            taken.append(action.requires_grad_())
            result = group.step(taken[-1], differentiable=True)
            observation, total = result.observation.detach(), total + result.reward.sum()
            self.num_timesteps += group.size
        if taken:
            # 2. Differentiate the return, and free the graph
            self._total_return += float(total.detach())
            grads = torch.autograd.grad(total, [*taken, *others], allow_unused=True)
            group.detach()
            # 3. Backpropagate the gradients of the actions into the policy
            for mean, grad in zip(means, grads[: len(taken)], strict=True):
                if grad is not None:
                    self._ascend(mean, grad, len(taken))
            self._ascend_others(grads[len(taken) :])
        return observation

    def _begin_segment(self, group: Group) -> list[Tensor]:
        """Return further tensors with respect to which the return is differentiated."""
        return []

    def _ascend_others(self, grads: Sequence[Tensor | None]) -> None:
        """Add the gradients of the tensors of :meth:`_begin_segment` to the parameters'."""

    def _ascend(self, mean: Tensor, grad: Tensor, steps: int) -> None:
        """Backpropagate the gradient of one control step's actions into the policy.

        Args:
            mean: the policy's output ``[B, 1]``, with its graph.
            grad: gradient of the segment's return with respect to the actions, ``[B, 1]``.
            steps: number of control steps in the segment.
        """
        grad = grad.nan_to_num(0.0, 0.0, 0.0).clamp(-self.clip, self.clip)
        # Outputs beyond [-1, 1], where actions are clipped, may only move inwards
        outward = (mean.detach().abs() > 1) & (grad.sign() == mean.detach().sign())
        grad = torch.where(outward, 0.0, grad)
        mean.backward(-grad / (self.clip * mean.numel() * len(self.groups) * steps))

    def save(self, path: str | Path) -> Path:
        """Write the policy file, which :class:`agents.LearnedOptimizer` reads.

        Args:
            path: see :func:`agents.export_policy`.

        Returns:
            Path of the weights.
        """
        self.policy.description["timesteps"] = self.num_timesteps
        return save_policy(self.policy, path)
