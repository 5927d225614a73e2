"""RL²: recurrent PPO whose memory lasts for a trial (Duan et al., 2016; Wang et al., 2016).

Where the episode of Stable-Baselines3 is a trial, ``sb3_contrib.RecurrentPPO`` is RL² as it
stands. Added are a shortcut past the memory, a forward pass that is not a loop over time,
and rewards in units of the spread of each group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor, nn

from .group_advantage import GroupScaledBuffer

__all__ = ["RL2", "LstmPolicy"]


class LstmPolicy(RecurrentActorCriticPolicy):
    """Actor and critic that see the observation and the output of an LSTM each.

    With the observation beside the memory, what needs none is learned as fast as without.

    Args:
        *args, **kwargs: of ``sb3_contrib``'s ``MlpLstmPolicy``; a critic without an LSTM,
            its own or the actor's, is not supported.
        memory: steps that memories should last when learning begins, see :func:`remember`;
            None starts as torch does, from memories of about two steps.

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
                remember(lstm, memory)

    def _build_mlp_extractor(self) -> None:
        self.lstm_output_dim += self.features_dim
        super()._build_mlp_extractor()

    @staticmethod
    def _process_sequence(  # type: ignore[override]  # theirs says one tensor too few
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: nn.LSTM,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Observations with the LSTM's outputs ``[n * T, F + H]``, and its new state.

        Args:
            features: ``[n * T, F]``, one sequence after the other.
            lstm_states: ``[layers, n, H]``, twice.
            episode_starts: ``[n * T]``. The buffer cuts sequences where episodes start, so
                that only the first entry of each can be one: no loop over time is needed
                to forget there (4 to 8 times as fast, the same numbers).
            lstm: of the actor or the critic.
        """
        count = lstm_states[0].shape[1]
        starts = episode_starts.reshape(count, -1)[:, 0]
        keep = (1.0 - starts).view(1, count, 1)
        sequence = features.reshape(count, -1, lstm.input_size).swapaxes(0, 1)
        state = (keep * lstm_states[0], keep * lstm_states[1])
        output, state = lstm(sequence, state)
        return torch.cat([features, output.swapaxes(0, 1).flatten(0, 1)], dim=1), state


def remember(lstm: nn.LSTM, steps: int) -> None:
    """Give an LSTM memories that last from 1 to ``steps - 1`` steps at first.

    Biases of forget gates are the logarithms of these times, and those of input gates their
    negatives (chrono initialisation, Tallec & Ollivier, 2018), where times are log-uniform,
    instead of uniform: some memories must be short for others to know what they keep.

    Args:
        lstm: of any number of layers, in one direction.
        steps: about the length of an episode.

    Raises:
        ValueError: ``steps`` is no integer, or less than 3.
    """
    if not isinstance(steps, int) or steps < 3:
        raise ValueError(f"memory must be at least 3 steps, got {steps!r}")
    gates = 2 * lstm.hidden_size  # torch has them in the order input, forget, cell, output
    for layer in range(lstm.num_layers):
        forget = torch.rand(lstm.hidden_size) * math.log(steps - 1)
        with torch.no_grad():
            getattr(lstm, f"bias_ih_l{layer}")[:gates] = torch.cat([-forget, forget])
            getattr(lstm, f"bias_hh_l{layer}")[:gates] = 0


class RL2(RecurrentPPO):
    """``RecurrentPPO`` whose rewards can be in units of the spread of each group.

    Args:
        *args: of ``RecurrentPPO``.
        group: neighbouring trials that share their structure, see
            :class:`~agents.rl.group_advantage.GroupScaledBuffer`; None leaves rewards as
            they are.
        **kwargs: of ``RecurrentPPO``.
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
        self.rollout_buffer = GroupScaledRecurrentBuffer(
            self.n_steps, self.observation_space, self.action_space,
            stock.hidden_state_shape, self.device, gamma=self.gamma,
            gae_lambda=self.gae_lambda, n_envs=self.n_envs, group=self.group,
        )  # fmt: skip


class GroupScaledRecurrentBuffer(GroupScaledBuffer, RecurrentRolloutBuffer):
    """Rollouts of whole trials, with the hidden states that they began with."""
