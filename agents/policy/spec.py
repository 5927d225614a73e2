"""Format of a policy's description: its entries, their checks, and the network's inputs.

A description is the JSON file of a policy. :class:`PolicySpec` is the only place that
defines its entries; all code that reads, writes or changes a description uses it. Unknown
entries are kept.

All numbers are bounded, far beyond the range of useful policies, so that loading an
untrusted description takes neither much memory nor much time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

from torch import nn

from optenv import actions, rules, windows
from optenv.checks import MAX_INTEGER, is_number, quoted
from optenv.telemetry import (
    FEATURE_VERSION,
    LOSS_FEATURE_SETS,
    POSITIVE_LOSS_FEATURES,
    check_known_features,
    own_features,
    registered_among,
)
from optenv.trials import EXTRA, PREVIOUS_REWARDS

from .normalisation import Normalisation

__all__ = [
    "ACTIVATIONS",
    "OUTPUTS",
    "REQUIRED",
    "PolicySpec",
    "input_columns",
    "observation_width",
    "observed_by",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
}

#: Functions that turn a network's output into a continuous action in [-1, 1].
OUTPUTS = ("clip", "tanh")

#: Entries that every description must have, and their types.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "feature_version": int,
    "features": list,
    "action": dict,
    "rule": (str, dict),
    "horizon": int,
    "spacing": (int, float),
    "total_updates": list,
    "layers": list,
    "activation": str,
}


#: Largest horizon; a run's trace has a row for each control step.
MAX_HORIZON = 10_000

#: Largest bound of the log-multiplier, and its largest change by one action, in nats.
MAX_BOUND, MAX_SHIFT = 20.0, 40.0

#: Largest number of an LSTM's units, of its layers, of networks, of a network's layers, and
#: of a layer's units.
MAX_MEMORY, MAX_MEMORY_LAYERS, MAX_MEMBERS, MAX_DEPTH, MAX_WIDTH = 4096, 8, 100, 32, 2**14

#: Largest number of weights of all networks together (64 MiB).
MAX_WEIGHTS = 2**24

#: Largest length of a list: the weights of a rule ``network`` with 1,000 units.
MAX_LENGTH = 10_002

#: Largest number in the action or the rule.
MAX_NUMBER = 1e6

#: Smallest ``eps`` of a rule: float32 can still divide by it.
MIN_EPS = 1e-30

#: Largest number of updates of a run.
MAX_UPDATES = 10**12

#: Deepest nesting of lists and dictionaries in a description.
MAX_NESTING = 8


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Description of a policy, with every entry checked.

    Args:
        feature_version: version of the features, see
            :data:`optenv.telemetry.FEATURE_VERSION`.
        features: names of the features that the network sees, from
            :data:`optenv.telemetry.ALL_FEATURES` or registered with
            :func:`optenv.telemetry.register_feature`.
        action: dictionary of an action, see :func:`optenv.actions.make`.
        rule: update rule whose learning rate is controlled, see :func:`optenv.rules.get`.
        horizon: number of control steps in a run.
        spacing: spacing of the control steps, see :func:`optenv.windows.boundaries`.
        anytime: True if the policy does not need the length of a run.
        total_updates: lengths of the shortest and the longest run in training, in updates.
        trials: True if the policy sees observations of trials (:class:`optenv.TrialEnv`),
            False for observations of single runs; by default True if it has a memory.
        runs: number of runs in a trial in training; only for policies for trials.
        previous_reward: kind of previous reward that was observed in trials.
        memory: number of units of the LSTM; 0 for a policy without one.
        memory_layers: number of layers of the LSTM, each with ``memory`` units.
        normalisation: normalisation of the networks' inputs, with one mean and one standard
            deviation for each of :attr:`columns`, see
            :meth:`~agents.policy.normalisation.Normalisation.to_json`; None for none.
        activation: activation function, a key of :data:`ACTIVATIONS`.
        output: function from the output to a continuous action, one of :data:`OUTPUTS`.
        output_bound: largest absolute output before ``"tanh"``; None for no bound.
        layers: widths of the network's layers, from input to output.
        members: number of networks whose outputs are averaged.
        base_lr: default base learning rate of the policy's optimizers; None for the usual
            one of the rule.
        algorithm: name of the class that trained the policy.
        timesteps: number of control steps of the training.
        seed: seed of the training.
        seeds: seeds of the trainings, for an average of several policies.
        command: command line that made the policy.
        source: description that this one was read from. It fixes the order of the entries,
            and contains those that this class does not know.

    Raises:
        ValueError: an entry is missing or not valid, has another feature version, or names
            a feature, an action or a rule that is not registered. The message quotes it.
        TypeError: the action has a field that its kind does not have.

    Example:
        >>> from agents import load_policy
        >>> spec = load_policy("anytime").spec
        >>> spec.anytime, spec.layers
        (True, [25, 64, 64, 1])
    """

    feature_version: int
    features: list[str]
    action: dict[str, Any]
    rule: str | dict[str, Any]
    horizon: int
    spacing: float
    anytime: bool = False
    total_updates: list[int]
    trials: bool | None = None
    runs: int | None = None
    previous_reward: str | None = None
    memory: int = 0
    memory_layers: int = 1
    normalisation: dict[str, Any] | None = None
    activation: str
    output: str = "clip"
    output_bound: float | None = None
    algorithm: str | None = None
    timesteps: int | None = None
    seed: int | None = None
    layers: list[int]
    members: int = 1
    base_lr: float | None = None
    seeds: list[int | None] | None = None
    command: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        # 1. The required entries and their types
        for key, kind in REQUIRED.items():
            value = getattr(self, key)
            if not isinstance(value, kind) or value is True:
                raise ValueError(
                    f"policy description: {key!r} is {quoted(value)}; "
                    f"required: {', '.join(REQUIRED)}"
                )
        if self.feature_version != FEATURE_VERSION:
            raise ValueError(
                f"policy of feature version {quoted(self.feature_version)}; this version "
                f"of optenv has {FEATURE_VERSION}"
            )
        # 2. Numbers and lengths, before they are used
        self._check_numbers()
        # 3. Names: action, rule, features, activation
        rule, action = self.parsed_rule, self.parsed_action
        actions.check_rule(action, rule)
        if (filled := action.for_rule(rule)) != action:
            raise ValueError(
                "the action of a policy must leave nothing to its rule, got "
                f"{quoted(self.action)}; for rule {rule.name!r}, that is {filled.to_dict()}"
            )
        if action.not_exported:
            raise ValueError(
                f"action {action.kind!r} is not for policy files: {action.not_exported}"
            )
        check_known_features(self.features)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {quoted(self.activation)}; valid: "
                f"{', '.join(ACTIVATIONS)}"
            )
        schedule = self.parsed_action.schedule
        if not isinstance(self.anytime, bool) or (self.anytime and schedule != "constant"):
            raise ValueError(
                "anytime must be True or False, and True needs schedule 'constant', got "
                f"{quoted(self.anytime)} with {schedule!r}"
            )
        # 4. Normalisation of inputs, and bounds of outputs
        self._check_ends()
        # 5. The network, from the observation to the action
        ends = [len(self.columns) + self.memory, self.parsed_action.outputs]
        if [self.layers[0], self.layers[-1]] != ends:
            raise ValueError(
                f"layers {self.layers!r} do not lead from {ends[0]} inputs to {ends[1]} "
                "outputs"
            )
        if self.num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"layers {self.layers!r}, memory {self.memory} and members {self.members} "
                f"make {self.num_weights} weights; at most {MAX_WEIGHTS} are allowed"
            )

    def _check_ends(self) -> None:
        """Check the normalisation of the inputs and the bounds of the outputs.

        Raises:
            ValueError: an entry is not valid.
        """
        if self.trials is not None and not isinstance(self.trials, bool):
            raise ValueError(f"trials must be True or False, got {quoted(self.trials)}")
        normalisation = self.parsed_normalisation
        if normalisation is not None and len(normalisation.mean) != len(self.columns):
            raise ValueError(
                f"normalisation has {len(normalisation.mean)} means, but the networks see "
                f"{len(self.columns)} columns of an observation"
            )
        if self.output not in OUTPUTS:
            raise ValueError(
                f"unknown output {quoted(self.output)}; valid: {', '.join(OUTPUTS)}"
            )
        if self.output != "clip" and self.parsed_action.is_index:
            raise ValueError(
                f"a discrete action is the index of the largest output, got output "
                f"{self.output!r}; valid: clip"
            )
        bound = self.output_bound
        if bound is not None and (
            self.output != "tanh" or not is_number(bound) or not 0 < bound <= MAX_NUMBER
        ):
            raise ValueError(
                f"output_bound must be in (0, {MAX_NUMBER:g}], and needs output 'tanh', "
                f"got {quoted(bound)} with {self.output!r}"
            )

    def _check_numbers(self) -> None:
        """Refuse numbers out of their range, and lists that are too long.

        Raises:
            ValueError: there is such an entry.
        """
        # 1. Single numbers, each with its own range
        for name, least, most in (
            ("members", 1, MAX_MEMBERS),
            ("memory", 0, MAX_MEMORY),
            ("memory_layers", 1, MAX_MEMORY_LAYERS),
            ("horizon", 1, MAX_HORIZON),
        ):
            _check_integer(name, getattr(self, name), least, most)
        windows.check_spacing(self.spacing)
        rate = self.base_lr
        if rate is not None and not (is_number(rate) and 0 < rate <= MAX_NUMBER):
            raise ValueError(f"base_lr must be in (0, {MAX_NUMBER:g}], got {quoted(rate)}")
        lengths = self.total_updates
        if len(lengths) != 2 or not all(type(n) is int and n > 0 for n in lengths):
            raise ValueError(
                f"total_updates must be two positive integers, got {quoted(lengths)}"
            )
        if not lengths[0] <= lengths[1] <= MAX_UPDATES:
            raise ValueError(
                "total_updates must be the shortest and the longest run, of at most "
                f"{MAX_UPDATES} updates, got {quoted(lengths)}"
            )
        # 2. Layers
        if not 2 <= len(self.layers) <= MAX_DEPTH:
            raise ValueError(
                f"layers must be 2 to {MAX_DEPTH} widths, got {quoted(self.layers)}"
            )
        if not all(type(n) is int and 1 <= n <= MAX_WIDTH for n in self.layers):
            raise ValueError(
                f"layers must be integers in [1, {MAX_WIDTH}], got {quoted(self.layers)}"
            )
        # 3. All numbers in action and rule, some of them with closer bounds
        _check_values("action", self.action, MAX_NUMBER)
        _check_values("rule", self.rule, MAX_NUMBER)
        self._check_range("action", "bound", 0.0, MAX_BOUND)
        self._check_range("action", "step", 0.0, MAX_SHIFT)
        self._check_range("rule", "eps", MIN_EPS, MAX_NUMBER)
        multipliers = self.action.get("multipliers")
        if isinstance(multipliers, (list, tuple)):
            for value in multipliers:
                if is_number(value) and value < 1 / MAX_NUMBER:
                    raise ValueError(
                        "action: multipliers must be positive, in "
                        f"[{1 / MAX_NUMBER:g}, {MAX_NUMBER:g}], got {quoted(value)}"
                    )
        # 4. Provenance, and unknown entries
        self._check_provenance()
        for name, value in self.source.items():
            if name not in _DEFAULTS:
                _check_values(name, value, MAX_INTEGER)

    def _check_provenance(self) -> None:
        """Refuse entries on the training that are not valid.

        Raises:
            ValueError: there is such an entry.
        """
        for name in ("algorithm", "command"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                raise ValueError(f"{name} must be a string, got {quoted(value)}")
        for name, least in (("timesteps", 0), ("runs", 1), ("seed", -MAX_INTEGER)):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), least, MAX_INTEGER)
        if self.previous_reward not in (None, *PREVIOUS_REWARDS):
            raise ValueError(
                f"unknown previous_reward {quoted(self.previous_reward)}; valid: "
                f"{', '.join(PREVIOUS_REWARDS)}"
            )
        seeds = self.seeds
        if seeds is not None:
            if not isinstance(seeds, list) or len(seeds) > MAX_MEMBERS:
                raise ValueError(
                    f"seeds must be a list of at most {MAX_MEMBERS}, got {quoted(seeds)}"
                )
            for seed in seeds:
                if seed is not None:
                    _check_integer("seeds", seed, -MAX_INTEGER, MAX_INTEGER)

    def _check_range(self, entry: str, name: str, least: float, most: float) -> None:
        """Refuse a number in an entry that is a dictionary, if it is out of its range.

        Args:
            entry: name of the entry.
            name: key of the number, which may be missing.
            least: lower bound.
            most: upper bound.

        Raises:
            ValueError: the number is out of its range.
        """
        values = getattr(self, entry)
        value: Any = values.get(name) if isinstance(values, dict) else None
        if is_number(value) and not least <= value <= most:
            raise ValueError(
                f"{entry}: {name} must be finite, in [{least:g}, {most:g}], got "
                f"{quoted(value)}"
            )

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        """Read and check a description.

        Args:
            description: entries by name, as in a policy file without its ``sha256``.

        Raises:
            ValueError, TypeError: see :class:`PolicySpec`.
        """
        values = {name: description[name] for name in _DEFAULTS if name in description}
        missing = dict.fromkeys(REQUIRED)
        return cls(**{**missing, **values}, source=dict(description))

    @classmethod
    def from_environment(
        cls,
        described: Mapping[str, Any],
        *,
        hidden: Sequence[int],
        activation: str = "tanh",
        memory: int = 0,
        trials: bool | None = None,
        **entries: Any,
    ) -> Self:
        """Describe a policy that was trained on an environment.

        Args:
            described: ``describe()`` of the environment, see
                :meth:`optenv.settings.Settings.describe`.
            hidden: widths of the network's hidden layers.
            activation: a key of :data:`ACTIVATIONS`.
            memory: number of units of the LSTM; 0 for none.
            trials: whether it is an environment of trials; by default, whether there is a
                memory.
            **entries: further entries, such as ``output``, and ``algorithm``,
                ``timesteps`` and ``seed`` of the training.

        Raises:
            ValueError, TypeError: see :class:`PolicySpec`.
        """
        action = actions.make(described["action"])
        on_trials = bool(memory) if trials is None else trials
        inputs = len(input_columns(described["features"], action, on_trials)) + memory
        return cls.from_json(
            {
                **described,
                **({"trials": trials} if on_trials != bool(memory) else {}),
                **({"memory": memory} if memory else {}),
                "activation": activation,
                **entries,
                "layers": [inputs, *hidden, action.outputs],
            }
        )

    @classmethod
    def merge(cls, specs: Sequence[PolicySpec]) -> Self:
        """Describe the average of several policies.

        Args:
            specs: descriptions, at least one. The entries of the first one are used, except
                its seed and command; ``members`` and ``seeds`` cover all of them.

        Raises:
            ValueError: two specs differ in an entry that decides how a policy acts.
        """
        first = specs[0].behaviour()
        for spec in specs[1:]:
            other = spec.behaviour()
            for key in {**first, **other}:
                value = first.get(key, 0)
                if key != "members" and other.get(key, 0) != value:
                    raise ValueError(
                        f"policies of different {key} cannot be averaged: {quoted(value)} "
                        f"and {quoted(other.get(key, 0))}"
                    )
        entries = specs[0].to_json()
        return cls.from_json(
            {
                **{k: v for k, v in entries.items() if k not in ("seed", "command")},
                "members": sum(spec.members for spec in specs),
                "seeds": [seed for spec in specs for seed in spec.seeds or [spec.seed]],
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the description as a dictionary of JSON values.

        Entries of the description that this one was read from are kept, in their order.
        Other optional entries are left out if they have their default.
        """
        values = {name: getattr(self, name) for name in _DEFAULTS}
        return {
            **self.source,
            **{
                name: value
                for name, value in values.items()
                if name in self.source or name in REQUIRED or value != _DEFAULTS[name]
            },
        }

    def behaviour(self) -> dict[str, Any]:
        """Return the entries that, with the weights, decide how the policy acts."""
        entries = {name: getattr(self, name) for name in REQUIRED}
        entries |= {"anytime": self.anytime, "members": self.members}
        # Entries of later versions are only included if they have an effect, so that the
        # fingerprints of older policies do not change
        for name in ("memory_layers", "normalisation", "output", "output_bound"):
            if (value := getattr(self, name)) != _DEFAULTS[name]:
                entries[name] = value
        if self.on_trials != bool(self.memory):
            entries["trials"] = self.on_trials
        return entries | ({"memory": self.memory} if self.memory else {})

    @cached_property
    def parsed_action(self) -> actions.Action:
        """Action that decodes the network's output."""
        return actions.make(self.action)

    @cached_property
    def parsed_rule(self) -> rules.Rule:
        """Update rule whose learning rate is controlled."""
        return rules.get(self.rule)

    @cached_property
    def parsed_normalisation(self) -> Normalisation | None:
        """Normalisation of the networks' inputs; None for none."""
        if self.normalisation is None:
            return None
        return Normalisation.from_json(self.normalisation)

    @property
    def on_trials(self) -> bool:
        """True if the policy sees observations of trials."""
        return bool(self.memory) if self.trials is None else self.trials

    @cached_property
    def columns(self) -> list[int]:
        """Columns of an observation that the networks see."""
        return input_columns(self.features, self.parsed_action, self.on_trials)

    @property
    def registered(self) -> tuple[str, ...]:
        """Registered features, in the order in which they are observed."""
        return registered_among(self.features)

    @property
    def sees_loss(self) -> bool:
        """True if one of the package's features that depend on the loss is observed.

        Otherwise, losses were hidden in training, also from registered features.
        """
        return not set(LOSS_FEATURE_SETS["both"]).isdisjoint(self.features)

    @property
    def needs_positive_losses(self) -> bool:
        """True if one of the features is computed from the logarithm of a loss."""
        return not set(POSITIVE_LOSS_FEATURES).isdisjoint(self.features)

    @property
    def num_weights(self) -> int:
        """Number of weights and biases of all networks and LSTM cells."""
        network = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(self.layers))
        cells = len(self.columns) + self.memory + 2
        cells += (self.memory_layers - 1) * 2 * (self.memory + 1)
        return self.members * (network + 4 * self.memory * cells)


#: Defaults of a description's entries, in the order in which they are written.
_DEFAULTS: dict[str, Any] = {
    entry.name: entry.default
    for entry in dataclasses.fields(PolicySpec)
    if entry.name != "source"
}


def observed_by(features: Sequence[str]) -> tuple[str, ...]:
    """Return the features in the observation of a policy's environment, in order.

    Registered features come after those of the package.

    Args:
        features: names of the features that the policy's networks see.
    """
    return (*own_features(features), *registered_among(features))


def observation_width(features: Sequence[str], action: actions.Action, trials: bool) -> int:
    """Return the width of an environment's observation.

    If actions are on single tensors, it is the width of one tensor's observation.

    Args:
        features: names of the features that a policy sees in it.
        action: the environment's action.
        trials: whether its episodes are trials.
    """
    width = len(observed_by(features)) + action.observed
    return width + action.outputs + len(EXTRA) if trials else width


def input_columns(
    features: Sequence[str], action: actions.Action, trials: bool
) -> list[int]:
    """Return the columns of an observation that a policy's networks see.

    Args:
        features: names of the features that they see.
        action: the policy's action. The observed part of the previous action comes after
            the features.
        trials: whether the policy sees observations of trials (:class:`optenv.TrialEnv`),
            which end with the encoding of the previous action, the previous reward, and a
            flag that is 1 at the first step of a run.
    """
    names = observed_by(features)
    columns = [names.index(name) for name in features]
    return [*columns, *range(len(names), observation_width(features, action, trials))]


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    """Refuse a value that is not an integer in a range.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"{name} must be an integer, at least {least}, at most {most}, got "
            f"{quoted(value)}"
        )


def _check_values(name: str, value: Any, most: float, depth: int = 1) -> None:
    """Refuse a value that contains too large numbers, too long lists, or too deep nesting.

    Args:
        name: name of the entry, for the message.
        value: number, string, list or dictionary.
        most: largest absolute value of a number; numbers must be finite.
        depth: nesting depth of the value.

    Raises:
        ValueError: a limit is exceeded.
    """
    if is_number(value):
        if not abs(value) <= most:
            raise ValueError(
                f"{name} must be finite, and at most {most:g} in size, got {quoted(value)}"
            )
    elif isinstance(value, (list, tuple, dict)):
        if len(value) > MAX_LENGTH or depth > MAX_NESTING:
            raise ValueError(
                f"{name} must be nested at most {MAX_NESTING} deep, with at most "
                f"{MAX_LENGTH} values, got {quoted(value)}"
            )
        parts = value.items() if isinstance(value, dict) else ((name, v) for v in value)
        for key, part in parts:
            within = f"{name}: {quoted(key)[1:-1]}" if isinstance(value, dict) else name
            _check_values(within, part, most, depth + 1)
