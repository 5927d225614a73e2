"""Policies as torch modules, independent of the library that trained them."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from optenv.telemetry import loss_features_of, observes_validation, registered_among

from .spec import ACTIVATIONS, PolicySpec, observed_by

__all__ = ["Policy"]


class Policy(nn.Module):
    """Deterministic policy: a small network from observations to actions.

    A policy has one or several networks (members) of the same shape, whose outputs are
    averaged. A policy with a memory also has an LSTM for each network; the network sees the
    observation and the LSTM's output. Inputs may be normalised. A continuous action is the
    output, clipped or squashed to [-1, 1]. Until a state dictionary is loaded, all weights
    are zero, so that the learning rate is left unchanged.

    Args:
        description: entries by name, see :class:`~agents.policy.spec.PolicySpec`, or such
            a spec.

    Attributes:
        description: the entries, as given. They can be changed as long as the shape of
            the networks stays the same; :attr:`spec` reflects the changes.
        action: action that decodes the network's output, as in the environment.
        rule: update rule whose learning rate is controlled.
        anytime: True if the policy does not need the length of a run.
        memory: number of units of the LSTM; 0 for a policy without a memory.
        on_trials: True if the policy sees observations of trials.
        columns: columns of an observation that the networks see.
        sees_loss: True if one of these columns depends on the loss.
        needs_positive_losses: True if one of them is computed from the logarithm of a loss.
        observed: names of the features in an observation, seen by the policy or not.
        name: name or path that the policy was loaded from; None for one made in code.

    Raises:
        ValueError: the description is incomplete, has another feature version, or an entry
            that is not valid or not registered.

    Example:
        >>> import torch
        >>> from agents import load_policy
        >>> policy = load_policy("default")
        >>> policy(torch.zeros(5, 25)).shape
        torch.Size([5, 1])
    """

    name: str | None = None

    def __init__(self, description: dict[str, Any] | PolicySpec) -> None:
        super().__init__()
        if isinstance(description, PolicySpec):
            description = description.to_json()
        spec = PolicySpec.from_json(description)
        self.description = description
        self.action = spec.parsed_action
        self.rule = spec.parsed_rule
        given = spec.base_lr
        self.base_lr: float = self.rule.default_lr if given is None else given
        self.anytime: bool = spec.anytime
        self.memory: int = spec.memory
        self.memory_layers: int = spec.memory_layers
        self.on_trials: bool = spec.on_trials
        self.normalisation = spec.parsed_normalisation
        self.output: str = spec.output
        self.output_bound: float | None = spec.output_bound
        self.columns = spec.columns
        self.sees_loss = spec.sees_loss
        self.needs_positive_losses = spec.needs_positive_losses
        self.observed = observed_by(spec.features)
        self.networks = nn.ModuleList(_network(spec) for _ in range(spec.members))
        self.cells = nn.ModuleList()
        if self.memory:
            # As in _network: no draw from the global generator, float32, on the CPU
            seen = [len(self.columns), *[self.memory] * (self.memory_layers - 1)]
            self.cells.extend(
                skip_init(nn.LSTMCell, width, self.memory, dtype=torch.float32)
                for _ in range(spec.members)
                for width in seen
            )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def __repr__(self) -> str:
        spec, name = self.spec, "" if self.name is None else f" {self.name!r}"
        learned = self.description.get("algorithm", "unknown")
        length = "anytime" if spec.anytime else f"horizon: {spec.horizon} decisions"
        numbers = sum(p.numel() for p in self.parameters())
        return (
            f"{type(self).__name__}{name} (algorithm: {learned}, rule: {self.rule.name}, "
            f"action: {self.action.kind}, schedule: {self.action.schedule},\n"
            f"  {length}, parameters: {numbers:,}, fingerprint: {self.fingerprint()[:12]})"
        )

    @property
    def spec(self) -> PolicySpec:
        """The checked description, including changes of :attr:`description`."""
        return PolicySpec.from_json(self.description)

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the registered features in an observation, which are its last ones."""
        return registered_among(self.observed)

    @property
    def sees_validation(self) -> bool:
        """True if features of the validation loss are in an observation."""
        return observes_validation(self.observed)

    @property
    def environment(self) -> dict[str, Any]:
        """Arguments of an environment in which the policy acts as in its training.

        They set update rule, action, control steps and observation; tasks, lengths and
        learning rates are left open. If losses were hidden in training and the policy
        observes registered features, which could depend on losses, losses are hidden. For a
        policy for trials, these are arguments of an environment of trials.

        Example:
            >>> import gymnasium as gym
            >>> import torch
            >>> from agents import load_policy
            >>> policy = load_policy("anytime")
            >>> env = gym.make_vec("optenv/LearningRate-v0", 3, **policy.environment)
            >>> observation, _ = env.reset(seed=0)
            >>> policy(torch.from_numpy(observation)).shape
            torch.Size([3, 1])
        """
        spec = self.spec
        arguments = {
            "rule": self.description["rule"],
            "action": self.description["action"],
            "horizon": spec.horizon,
            "spacing": spec.spacing,
            "anytime": spec.anytime,
            "loss_features": loss_features_of(spec.features),
        }
        if self.sees_validation:
            arguments["observe_validation"] = True
        if spec.registered:
            arguments["features"] = spec.registered
            if not spec.sees_loss:
                arguments["loss_dropout"] = 1.0
        if spec.on_trials:
            arguments |= {"runs": spec.runs, "previous_reward": spec.previous_reward}
        return {name: value for name, value in arguments.items() if value is not None}

    @property
    def members(self) -> list[nn.Sequential]:
        """Networks whose outputs are averaged."""
        return [cast(nn.Sequential, network) for network in self.networks]

    def blank(self, count: int) -> Tensor:
        """Return the memory at the beginning of a trial.

        Args:
            count: number of trials ``B``.

        Returns:
            Zeros ``[B, members, 2 * L, H]``: hidden and cell state of each of the ``L``
            layers of each LSTM with ``H`` units, in the data type of the weights (float32
            or float64).
        """
        like, states = next(self.parameters()), 2 * self.memory_layers
        return like.new_zeros(count, len(self.networks), states, self.memory)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the actions for a batch of observations.

        Policies with a memory start from :meth:`blank`.

        Args:
            observation: observations ``[B, F]``.

        Returns:
            Continuous actions ``[B, n]`` in [-1, 1], or indices of discrete ones ``[B]``.
        """
        return self.remember(observation, self.blank(len(observation)))[0]

    def remember(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions for a batch of observations, and the memory after them.

        Args:
            observation: observations ``[B, F]``.
            memory: memory ``[B, members, 2 * L, H]`` from :meth:`blank` or the previous
                call.

        Returns:
            Actions, see :meth:`forward`, and the new memory ``[B, members, 2 * L, H]``.
        """
        features, states, outputs = observation[:, self.columns], [], []
        if self.normalisation is not None:
            features = self.normalisation.apply(features)
        for i, network in enumerate(self.networks):
            inputs = features
            if self.memory:
                state = self._recall(i, features, memory[:, i])
                states.append(state)
                inputs = torch.cat([features, state[:, -2]], 1)
            outputs.append(network(inputs))
        output = torch.stack(outputs).mean(0)
        memory = torch.stack(states, 1) if states else memory
        if self.action.is_index:
            return output.argmax(dim=-1), memory
        if self.output == "tanh":
            bound = self.output_bound
            output = output if bound is None else output.clamp(-bound, bound)
            return output.tanh(), memory
        return output.clamp(-1.0, 1.0), memory

    def _recall(self, member: int, features: Tensor, memory: Tensor) -> Tensor:
        """Return the memory ``[B, 2 * L, H]`` of one LSTM after an observation.

        Args:
            member: index of the network that the LSTM belongs to.
            features: inputs of the LSTM, ``[B, F]``.
            memory: previous memory ``[B, 2 * L, H]``: hidden and cell state, layer by
                layer.
        """
        inputs, states = features, []
        for layer in range(self.memory_layers):
            cell = self.cells[member * self.memory_layers + layer]
            before = memory[:, 2 * layer], memory[:, 2 * layer + 1]
            inputs, kept = cell(inputs, before)
            states += [inputs, kept]
        return torch.stack(states, 1)

    def act(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Call :meth:`remember` in the observation's data type, outside of autocast.

        The weights are cast to that type, and remain so.

        Args:
            observation: see :meth:`remember`.
            memory: see :meth:`remember`.
        """
        if next(self.parameters()).dtype != observation.dtype:
            self.to(observation.dtype)
        memory = memory.to(observation.dtype)
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.remember(observation, memory)
        return self.remember(observation, memory)

    def weights(self) -> bytes:
        """Return the weights in the format of a policy file: float32 safetensors."""
        state = self.state_dict()
        return save(
            {name: w.detach().cpu().float().contiguous() for name, w in state.items()}
        )

    def fingerprint(self) -> str:
        """Return a hash that two policies share only if they act in the same way.

        It is the SHA-256, in hexadecimal digits, of the weights and of the entries of the
        description that decide how a policy acts.
        """
        text = json.dumps(self.spec.behaviour(), sort_keys=True).encode()
        return hashlib.sha256(text + self.weights()).hexdigest()


def _network(spec: PolicySpec) -> nn.Sequential:
    """Return a network of a policy, with weights that are not initialised."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(spec.layers):
        # skip_init, since torch's initialisation would draw from the global generator.
        # Always float32 on the CPU, even if torch has other defaults.
        linear = skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float32)
        layers += [linear, ACTIVATIONS[spec.activation]()]
    return nn.Sequential(*layers[:-1])
