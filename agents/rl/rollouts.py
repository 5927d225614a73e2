"""Size of the rollouts in a training, of which the last one may be shorter.

An algorithm makes control steps one rollout at a time, and a whole number of rollouts may
be more than was asked for. The last rollout is therefore shortened. With on-policy
algorithms and relative rewards that is not possible, since their rollouts hold whole runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from .group_advantage import GroupNormalisedRolloutBuffer
from .rllib.model import RLlibModel
from .unrolled import UnrolledLR

__all__ = ["Rollouts", "rounded", "unit"]


def unit(model: BaseAlgorithm | UnrolledLR | RLlibModel) -> int:
    """Return the number of control steps, over all runs, of which a training is a multiple.

    It is a whole rollout for PPO and RL² with relative rewards or with RLlib, a round of
    runs for learners that unroll, and otherwise one control step of each environment.
    """
    if isinstance(model, RLlibModel):
        return model.unit
    if isinstance(model, UnrolledLR):
        return sum(group.size for group in model.groups) * model.settings.horizon
    if isinstance(model, OnPolicyAlgorithm) and isinstance(
        model.rollout_buffer, GroupNormalisedRolloutBuffer
    ):
        return model.n_steps * model.n_envs
    return model.n_envs


def rounded(model: BaseAlgorithm | UnrolledLR | RLlibModel, timesteps: int) -> int:
    """Return ``timesteps``, rounded up to a multiple of :func:`unit`."""
    size = unit(model)
    return -(-timesteps // size) * size


class Rollouts:
    """Size of a model's rollouts in a training, the last of which may be shorter.

    Args:
        model: model that is trained; its ``learn`` has begun.
        timesteps: value of ``model.num_timesteps`` at the end of the training.
    """

    def __init__(self, model: BaseAlgorithm, timesteps: int) -> None:
        self.model, self.timesteps = model, timesteps
        self._setting = _setting(model)
        self._whole = getattr(model, self._setting, None)
        self._begun: int | None = None  # control steps when the current rollout began
        self._shorten()

    def begin(self) -> None:
        """Note that a rollout begins."""
        self._begun = self.model.num_timesteps
        self._fit_buffer()

    def end(self) -> None:
        """Note that a rollout has ended, and choose the size of the next one."""
        self._begun = None
        self._shorten()  # Stable-Baselines3 reads the size before a rollout begins

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the size of whole rollouts within the context, to save the model."""
        shortened = getattr(self.model, self._setting, None)
        self._set(self._whole)
        try:
            yield
        finally:
            self._set(shortened)

    def close(self) -> None:
        """Restore the size of whole rollouts at the end of the training.

        An on-policy algorithm only learns from whole rollouts. After an interrupt, the
        control steps of an unfinished rollout are subtracted, and a resumed training
        repeats them.
        """
        self._set(self._whole)
        if isinstance(self.model, OnPolicyAlgorithm):
            self._fit_buffer()
            if self._begun is not None:
                self.model.num_timesteps = self._begun

    def _set(self, value: int | TrainFreq | None) -> None:
        if value is not None:
            setattr(self.model, self._setting, value)

    def _shorten(self) -> None:
        """Make the next rollout no longer than the control steps that are left."""
        model = self.model
        left = (self.timesteps - model.num_timesteps) // model.n_envs
        if left < 1 or unit(model) > model.n_envs:
            return
        if isinstance(self._whole, TrainFreq):
            if self._whole.unit == TrainFrequencyUnit.STEP:
                self._set(self._whole._replace(frequency=min(self._whole.frequency, left)))
        elif self._whole is not None:
            self._set(min(self._whole, left))

    def _fit_buffer(self) -> None:
        """Give an on-policy algorithm's buffer the size of the next rollout."""
        model = self.model
        if not isinstance(model, OnPolicyAlgorithm):
            return
        buffer = model.rollout_buffer
        if buffer.buffer_size != model.n_steps:
            buffer.buffer_size = model.n_steps
            shape = getattr(buffer, "hidden_state_shape", None)
            if shape is not None:  # a recurrent policy of sb3-contrib
                shape = (model.n_steps, *shape[1:])
                setattr(buffer, "hidden_state_shape", shape)  # noqa: B010
            buffer.reset()


def _setting(model: BaseAlgorithm) -> str:
    """Return the attribute that holds the size of a model's rollouts."""
    return "n_steps" if isinstance(model, OnPolicyAlgorithm) else "train_freq"
