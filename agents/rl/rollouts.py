"""Rollouts of a training: their size, and a last one that ends with the control steps.

An algorithm makes control steps one rollout at a time, and a whole number of rollouts may
be more than it was asked for. Rollouts of single runs are cut short at the end. Those of
on-policy algorithms with relative rewards cannot be: they hold whole runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from .group_advantage import GroupNormalisedRolloutBuffer
from .unrolled import UnrolledLR

__all__ = ["Rollouts", "rounded", "unit"]


def unit(model: BaseAlgorithm | UnrolledLR) -> int:
    """Return the control steps, over all runs, that a training is a multiple of.

    They are a whole rollout for PPO and RL² with relative rewards, a round of runs for
    learners that unroll, and else a control step of each environment.
    """
    if isinstance(model, UnrolledLR):
        return sum(group.size for group in model.groups) * model.settings.horizon
    if isinstance(model, OnPolicyAlgorithm) and isinstance(
        model.rollout_buffer, GroupNormalisedRolloutBuffer
    ):
        return model.n_steps * model.n_envs
    return model.n_envs


def rounded(model: BaseAlgorithm | UnrolledLR, timesteps: int) -> int:
    """Return ``timesteps`` more control steps, rounded up to what the model can make."""
    size = unit(model)
    return -(-timesteps // size) * size


class Rollouts:
    """Size of a model's next rollout, and control steps that it has learned from.

    Args:
        model: model that is trained; its settings are back after :meth:`restored`.
        timesteps: number of control steps at the end of the training, in all.
    """

    def __init__(self, model: BaseAlgorithm, timesteps: int) -> None:
        self.model, self.timesteps = model, timesteps
        self._unfinished: int | None = None  # control steps when the rollout began
        if isinstance(model, OnPolicyAlgorithm):
            self._whole: int | TrainFreq = model.n_steps
        elif isinstance(model, OffPolicyAlgorithm):
            assert isinstance(model.train_freq, TrainFreq)  # from its learn() on
            self._whole = model.train_freq

    def begin(self) -> None:
        """Note that a rollout begins, and give its buffer the rollout's size."""
        self._unfinished, model = self.model.num_timesteps, self.model
        if not isinstance(model, OnPolicyAlgorithm):
            return
        buffer = model.rollout_buffer
        if buffer.buffer_size != model.n_steps:
            buffer.buffer_size = model.n_steps
            shape = getattr(buffer, "hidden_state_shape", None)
            if shape is not None:  # of a recurrent policy
                buffer.hidden_state_shape = (model.n_steps, *shape[1:])
            buffer.reset()

    def end(self) -> None:
        """Note that a rollout has ended; its steps are learned from next."""
        self._unfinished = None

    def shorten(self) -> None:
        """Make the next rollout no longer than the control steps that are left.

        Stable-Baselines3 reads a rollout's size before it begins.
        """
        model = self.model
        left = (self.timesteps - model.num_timesteps) // model.n_envs
        if left < 1:
            return
        if isinstance(model, OnPolicyAlgorithm):
            if unit(model) == model.n_envs:
                model.n_steps = min(model.n_steps, left)
        elif isinstance(model, OffPolicyAlgorithm):
            assert isinstance(model.train_freq, TrainFreq)
            if model.train_freq.unit == TrainFrequencyUnit.STEP:
                frequency = min(model.train_freq.frequency, left)
                model.train_freq = TrainFreq(frequency, TrainFrequencyUnit.STEP)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Give the model its own settings within, for its file.

        On-policy algorithms also take back the control steps of an unfinished rollout,
        which they have not learned from, so that a resumed training makes them anew.
        """
        model = self.model
        steps = model.num_timesteps
        if isinstance(model, OnPolicyAlgorithm):
            shortened: int | TrainFreq = model.n_steps
            model.n_steps = self._whole  # type: ignore[assignment]
            if self._unfinished is not None:
                model.num_timesteps = self._unfinished
        elif isinstance(model, OffPolicyAlgorithm):
            shortened = model.train_freq  # type: ignore[assignment]
            model.train_freq = self._whole  # type: ignore[assignment]
        try:
            yield
        finally:
            model.num_timesteps = steps
            if isinstance(model, OnPolicyAlgorithm):
                model.n_steps = shortened  # type: ignore[assignment]
            elif isinstance(model, OffPolicyAlgorithm):
                model.train_freq = shortened  # type: ignore[assignment]
