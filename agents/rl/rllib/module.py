"""Actor and critic of the presets as a module of RLlib.

The networks are the same as in Stable-Baselines3's policies (with an LSTM, as in
:class:`agents.rl.rl2.LstmPolicy`), with the same initial distribution of parameters.
Importing this module needs Ray (extra ``ray``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

__all__ = ["ActorCritic"]

#: Gains of the orthogonal initial weights: of hidden layers, of the actor's last layer, and
#: of the critic's last layer.
HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN = math.sqrt(2), 0.01, 1.0

#: Parts of a network with LSTMs, each of which has its own state.
PARTS = ("actor", "critic")


class ActorCritic(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Separate networks for the action and for the value of an observation.

    Each has hidden layers with ``tanh``. With ``lstm_hidden_size``, each sees the
    observation and the output of its own LSTM, whose state lasts for an episode. Standard
    deviations of a continuous action do not depend on the observation.

    Its ``model_config`` is ``network`` of :class:`agents.rl.rllib.arguments.Arguments`.
    """

    def setup(self) -> None:
        """Make the networks; RLlib calls this once."""
        config = self.model_config
        self.memory = config.get("lstm_hidden_size", 0)
        width = self.observation_space.shape[0]
        self.is_index = isinstance(self.action_space, spaces.Discrete)
        outputs = int(
            self.action_space.n if self.is_index else np.prod(self.action_space.shape)
        )
        if self.memory:
            self.lstms = nn.ModuleDict(
                {part: nn.LSTM(width, self.memory, batch_first=True) for part in PARTS}
            )
            if config["memory"] is not None:
                from ..rl2 import chrono_initialise

                for lstm in self.lstms.values():
                    assert isinstance(lstm, nn.LSTM)
                    chrono_initialise(lstm, config["memory"])
        widths = [width + self.memory, *config["net_arch"]]
        self.actor = _perceptron([*widths, outputs], ACTOR_GAIN)
        self.critic = _perceptron([*widths, 1], CRITIC_GAIN)
        if not self.is_index:
            self.log_std = nn.Parameter(torch.full((outputs,), config["log_std_init"]))

    def get_initial_state(self) -> dict[str, np.ndarray]:
        """Return the state at the start of an episode, empty without an LSTM."""
        if not self.memory:
            return {}
        return {
            f"{part}_{i}": np.zeros(self.memory, np.float32) for part in PARTS for i in "hc"
        }

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the parameters of the distribution of actions, and the next state."""
        features, state = self._remember(PARTS[0], batch)
        outputs: dict[str, Any] = {Columns.ACTION_DIST_INPUTS: self._distribution(features)}
        if self.memory:  # the critic's state is kept as well, for the start of a minibatch
            outputs[Columns.STATE_OUT] = {**state, **self._remember(PARTS[1], batch)[1]}
        return outputs

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        features, _state = self._remember(PARTS[0], batch)
        return {Columns.ACTION_DIST_INPUTS: self._distribution(features)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return the values of observations, without their last dimension."""
        features, _state = self._remember(PARTS[1], batch)
        return self.critic(features).squeeze(-1)

    def _distribution(self, features: Tensor) -> Tensor:
        """Return scores of discrete actions, or means and log standard deviations."""
        outputs = self.actor(features)
        if self.is_index:
            return outputs
        return torch.cat([outputs, self.log_std.expand_as(outputs)], dim=-1)

    def _remember(
        self, part: str, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the input of actor or critic, and the new state of its LSTM."""
        observations = batch[Columns.OBS]
        if not self.memory:
            return observations, {}
        given = [batch[Columns.STATE_IN][f"{part}_{i}"].unsqueeze(0) for i in "hc"]
        outputs, (h, c) = self.lstms[part](observations, (given[0], given[1]))
        state = {f"{part}_h": h.squeeze(0), f"{part}_c": c.squeeze(0)}
        return torch.cat([observations, outputs], dim=-1), state


def _perceptron(widths: list[int], gain: float) -> nn.Sequential:
    """Make layers with ``tanh`` between them, orthogonal weights and zero biases."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layer = nn.Linear(widths[i], widths[i + 1])
        is_last = i == len(widths) - 2
        nn.init.orthogonal_(layer.weight, gain if is_last else HIDDEN_GAIN)
        nn.init.zeros_(layer.bias)
        layers += [layer] if is_last else [layer, nn.Tanh()]
    return nn.Sequential(*layers)
