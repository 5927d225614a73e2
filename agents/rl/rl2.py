"""RL²: recurrent PPO whose memory lasts for a trial (Duan et al., 2016; Wang et al., 2016).

If an episode of Stable-Baselines3 is a trial, ``sb3_contrib.RecurrentPPO`` is RL². This
module adds a skip connection past the LSTM, a forward pass without a loop over time, and
returns that are normalised per group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor, nn

from .group_advantage import GroupNormalisedRolloutBuffer

__all__ = ["RL2", "LstmPolicy"]


class LstmPolicy(RecurrentActorCriticPolicy):
    """Actor and critic that each see the observation and the output of an LSTM.

    The observation bypasses the LSTM (skip connection), so that feed-forward behaviour is
    learned as fast as by an MLP.

    Args:
        *args: arguments of ``sb3_contrib``'s ``MlpLstmPolicy``.
        memory: number of steps over which the LSTM initially remembers, see
            :func:`chrono_initialise`; None keeps torch's initialisation, with a memory of
            about two steps.
        **kwargs: keyword arguments of ``MlpLstmPolicy``. The critic must have an LSTM, its
            own or the actor's.

    Raises:
        ValueError: the critic would have no LSTM, or ``memory`` is less than 3.
    """

    def __init__(self, *args: Any, memory: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.critic is not None:
            raise ValueError(
                "a critic without an LSTM is not supported; give enable_critic_lstm=True "
                "or shared_lstm=True"
            )
        for lstm in (self.lstm_actor, self.lstm_critic):
            if memory is not None and lstm is not None:
                chrono_initialise(lstm, memory)

    def _build_mlp_extractor(self) -> None:
        self.lstm_output_dim += self.features_dim
        super()._build_mlp_extractor()

    @staticmethod
    def _process_sequence(  # type: ignore[override]  # its annotation lacks a tensor
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: nn.LSTM,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run an LSTM over sequences, and join its outputs to the observations.

        Args:
            features: observations ``[n * T, F]``, one sequence after the other.
            lstm_states: hidden and cell state, each ``[layers, n, H]``.
            episode_starts: flags ``[n * T]``, 1 at the first step of an episode. The buffer
                splits sequences where episodes start, so that only the first entry of a
                sequence can be 1, and resetting states needs no loop over time (4 to 8
                times as fast, with the same results).
            lstm: LSTM of the actor or of the critic.

        Returns:
            Observations with the LSTM's outputs, ``[n * T, F + H]``, and its new state.
        """
        count = lstm_states[0].shape[1]
        starts = episode_starts.reshape(count, -1)[:, 0]
        keep = (1.0 - starts).view(1, count, 1)
        sequence = features.reshape(count, -1, lstm.input_size).swapaxes(0, 1)
        state = (keep * lstm_states[0], keep * lstm_states[1])
        output, state = lstm(sequence, state)
        return torch.cat([features, output.swapaxes(0, 1).flatten(0, 1)], dim=1), state


def chrono_initialise(lstm: nn.LSTM, steps: int) -> None:
    """Initialise an LSTM's gates so that its units remember for 1 to ``steps - 1`` steps.

    The biases of the forget gates are the logarithms of these times, and those of the input
    gates their negatives (chrono initialisation, Tallec & Ollivier, 2018). Times are drawn
    log-uniformly instead of uniformly, so that some units have short memories, on which
    the long ones depend.

    Args:
        lstm: unidirectional LSTM with any number of layers.
        steps: upper limit of these times plus one, about the length of an episode.

    Raises:
        ValueError: ``steps`` is not an integer, or less than 3.
    """
    if not isinstance(steps, int) or steps < 3:
        raise ValueError(f"memory must be at least 3 steps, got {steps!r}")
    gates = 2 * lstm.hidden_size  # torch's order: input, forget, cell, output
    for layer in range(lstm.num_layers):
        forget = torch.rand(lstm.hidden_size) * math.log(steps - 1)
        with torch.no_grad():
            getattr(lstm, f"bias_ih_l{layer}")[:gates] = torch.cat([-forget, forget])
            getattr(lstm, f"bias_hh_l{layer}")[:gates] = 0


class RL2(RecurrentPPO):
    """Recurrent PPO with returns that can be normalised per group.

    Args:
        *args: arguments of ``RecurrentPPO``.
        group: number of neighbouring trials that share their structure, see
            :class:`~agents.rl.group_advantage.GroupNormalisedRolloutBuffer`; None leaves
            rewards unchanged.
        **kwargs: keyword arguments of ``RecurrentPPO``.

    Example:
        ::

            env = agents.rl.factory.make_env(
                "optenv/LearningRateTrial-v0", 64, {"previous_reward": "told"}
            )
            model = RL2(LstmPolicy, env, n_steps=120)
    """

    def __init__(self, *args: Any, group: int | None = None, **kwargs: Any) -> None:
        self.group = group
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.group is None:
            return
        stock = self.rollout_buffer
        assert isinstance(stock, RecurrentRolloutBuffer)
        self.rollout_buffer = GroupNormalisedRecurrentBuffer(
            self.n_steps, self.observation_space, self.action_space,
            stock.hidden_state_shape, self.device, gamma=self.gamma,
            gae_lambda=self.gae_lambda, n_envs=self.n_envs, group=self.group,
        )  # fmt: skip


class GroupNormalisedRecurrentBuffer(GroupNormalisedRolloutBuffer, RecurrentRolloutBuffer):
    """Group-normalised rollouts of whole trials, with their initial hidden states."""
