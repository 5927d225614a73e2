"""The bare torch module of a policy."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from optenv import actions, rules
from optenv.telemetry import LOSS_FEATURES

from .spec import ACTIVATIONS, REQUIRED, check, inputs

__all__ = ["Policy", "count_weights"]


class Policy(nn.Module):
    """A deterministic policy: a small network from observation to action.

    Or several of one shape, whose outputs are averaged. With a memory, each has an LSTM
    cell, whose output the network sees beside the observation. The weights are zero (an
    action that moves nothing) until they are loaded.

    Args:
        description: see :func:`agents.export_policy`.

    Attributes:
        description: as given.
        action: decodes what the network says, as the environment did.
        rule: the update that the learning rate is of.
        anytime: whether it needs not know how long a run will be.
        memory: numbers in the output of the LSTM cell; 0 of a policy without a memory.
        columns: of an observation, which the network sees.
        sees_loss: whether any of them is of a loss.

    Raises:
        ValueError: the description is incomplete, of another feature version, or names
            something unknown.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        check(description)
        self.description = description
        self.action = actions.make(description["action"])
        self.rule = rules.get(description["rule"])
        self.anytime: bool = description.get("anytime", False)
        self.memory: int = description.get("memory", 0)
        self.columns = inputs(description)
        self.sees_loss = not set(LOSS_FEATURES).isdisjoint(description["features"])
        members = range(description.get("members", 1))
        self.networks = nn.ModuleList(_network(description) for _ in members)
        self.cells = nn.ModuleList()
        if self.memory:
            # As the networks: no draw from the global generator, float32, on the CPU.
            self.cells.extend(
                skip_init(nn.LSTMCell, len(self.columns), self.memory, dtype=torch.float32)
                for _ in members
            )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def members(self) -> list[nn.Sequential]:
        """The networks whose outputs are averaged."""
        return [cast(nn.Sequential, network) for network in self.networks]

    def blank(self, count: int) -> Tensor:
        """What ``count`` trials remember at their beginning, ``[count, members, 2, H]``.

        In float64 or float32, as the weights are.
        """
        like = next(self.parameters())
        return like.new_zeros(count, len(self.networks), 2, self.memory)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[B, 1]`` (or indices ``[B]``) of observations ``[B, F]``.

        Those of a policy with a memory are as at the beginning of a trial.
        """
        return self.remember(observation, self.blank(len(observation)))[0]

    def remember(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the memory afterwards.

        Args:
            observation: ``[B, F]``; of a policy with a memory, that of a trial.
            memory: ``[B, members, 2, H]``, from :meth:`blank` or from here.
        """
        seen, after, outputs = observation[:, self.columns], [], []
        for i, network in enumerate(self.networks):
            known = seen
            if self.memory:
                hidden, cell = self.cells[i](seen, memory[:, i].unbind(1))
                after.append(torch.stack([hidden, cell], 1))
                known = torch.cat([seen, hidden], 1)
            outputs.append(network(known))
        output = torch.stack(outputs).mean(0)
        memory = torch.stack(after, 1) if after else memory
        if isinstance(self.action, actions.Discrete):
            return output.argmax(dim=-1), memory
        return output.clamp(-1.0, 1.0), memory

    def act(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`remember` in the type of the observation, whatever the caller casts to."""
        if next(self.parameters()).dtype != observation.dtype:
            self.to(observation.dtype)
        memory = memory.to(observation.dtype)
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.remember(observation, memory)
        return self.remember(observation, memory)

    def weights(self) -> bytes:
        """The weights in the form of a policy file, float32."""
        state = self.state_dict()
        return save(
            {name: w.detach().cpu().float().contiguous() for name, w in state.items()}
        )

    def acts(self) -> dict[str, Any]:
        """The part of the description that what it does depends on."""
        acts = {key: self.description[key] for key in REQUIRED}
        acts |= {"anytime": self.anytime, "members": len(self.networks)}
        return acts | ({"memory": self.memory} if self.memory else {})

    def fingerprint(self) -> str:
        """Hash that two policies share only if they act alike."""
        text = json.dumps(self.acts(), sort_keys=True).encode()
        return hashlib.sha256(text + self.weights()).hexdigest()


def _network(description: dict[str, Any]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(description["layers"]):
        # Without the usual initialisation, which would draw from the global generator, and
        # on the CPU in float32, whatever torch's defaults are.
        linear = skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float32)
        layers += [linear, ACTIVATIONS[description["activation"]]()]
    return nn.Sequential(*layers[:-1])


def count_weights(description: dict[str, Any]) -> int:
    """Weights of a policy of this description."""
    sizes, memory = description["layers"], description.get("memory", 0)
    network = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    cell = 4 * memory * (len(inputs(description)) + memory + 2)
    return description.get("members", 1) * (network + cell)
