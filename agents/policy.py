"""The policy file and the bare torch module it describes.

A policy is two files side by side: ``NAME.safetensors`` with the weights, and
``NAME.json`` with what they mean (feature version, features, action, rule, horizon,
layers). Neither can hold code, and nothing of the training library is needed to use them.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from optenv import actions, clock, rules
from optenv.checks import positive_int
from optenv.telemetry import FEATURE_VERSION, FEATURES, LOSS_FEATURES

from .policies import SHIPPED

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}

#: Keys of the description that a policy cannot do without, and their types.
_REQUIRED: dict[str, type | tuple[type, ...]] = {
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


class Policy(nn.Module):
    """A deterministic policy: a small network from observation to action.

    Or several of one shape, whose outputs are averaged. The weights are zero (an action
    that moves nothing) until they are loaded.

    Args:
        description: see :func:`agents.export_policy`.

    Attributes:
        description: as given.
        action: decodes what the network says, as the environment did.
        rule: the update that the learning rate is of.
        anytime: whether it needs not know how long a run will be.
        columns: of an observation, which the network sees.
        sees_loss: whether any of them is of a loss.

    Raises:
        ValueError: the description is incomplete, of another feature version, or names
            something unknown.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        _check(description)
        self.description = description
        self.action = actions.make(description["action"])
        self.rule = rules.get(description["rule"])
        self.anytime: bool = description.get("anytime", False)
        names = list(FEATURES)
        self.columns = [names.index(name) for name in description["features"]]
        self.sees_loss = not set(LOSS_FEATURES).isdisjoint(description["features"])
        members = range(description.get("members", 1))
        self.networks = nn.ModuleList(_network(description) for _ in members)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def members(self) -> list[nn.Sequential]:
        """The networks whose outputs are averaged."""
        return [cast(nn.Sequential, network) for network in self.networks]

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[B, 1]`` (or indices ``[B]``) of observations ``[B, F]``."""
        seen = observation[:, self.columns]
        output = torch.stack([network(seen) for network in self.networks]).mean(0)
        if isinstance(self.action, actions.Discrete):
            return output.argmax(dim=-1)
        return output.clamp(-1.0, 1.0)

    def act(self, observation: Tensor) -> Tensor:
        """The same in the type of the observation, whatever the caller casts to."""
        if next(self.parameters()).dtype != observation.dtype:
            self.to(observation.dtype)
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return cast(Tensor, self(observation))
        return cast(Tensor, self(observation))

    def weights(self) -> bytes:
        """The weights in the form of a policy file, float32."""
        state = self.state_dict()
        return save(
            {name: w.detach().cpu().float().contiguous() for name, w in state.items()}
        )

    def acts(self) -> dict[str, Any]:
        """The part of the description that what it does depends on."""
        acts = {key: self.description[key] for key in _REQUIRED}
        return acts | {"anytime": self.anytime, "members": len(self.networks)}

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


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write weights and description; see :func:`agents.export_policy` for ``path``."""
    weights_path, text_path = _paths(path)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    weights = policy.weights()
    description = {**policy.description, "sha256": hashlib.sha256(weights).hexdigest()}
    weights_path.write_bytes(weights)
    text_path.write_text(json.dumps(description, indent=2) + "\n")
    return weights_path


def load_policy(path: str | Path) -> Policy:
    """Read a policy; no code in the files is ever run.

    Args:
        path: the name of a shipped policy (a string, see :data:`agents.SHIPPED`), or the
            weights, the description, their common stem, or a folder of results. For a file
            called as a shipped policy is, give a ``Path``.

    Raises:
        FileNotFoundError: there is no such name, or one of the two files is missing.
        TypeError: ``path`` is no path.
        ValueError: the files do not belong together, are damaged, or are of a feature
            version that this version of the package does not know.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"policy must be a name, a path or a Policy, got {path!r}")
    found_path = SHIPPED.get(path, path) if isinstance(path, str) else path
    weights_path, text_path = _paths(found_path)
    for file in (weights_path, text_path):
        if not file.is_file():
            raise FileNotFoundError(
                f"no policy at {str(path)!r}: {file} does not exist; "
                "a policy is two files, NAME.safetensors and NAME.json; "
                f"shipped policies: {', '.join(SHIPPED) or 'none'}"
            )
    try:
        description = json.loads(text_path.read_text())
    except ValueError as error:
        raise ValueError(f"{text_path} is not a policy description: {error}") from None
    if not isinstance(description, dict):
        raise ValueError(f"{text_path} is not a policy description: {description!r}")
    weights = weights_path.read_bytes()
    expected, found = description.pop("sha256", None), hashlib.sha256(weights).hexdigest()
    if expected != found:
        raise ValueError(
            f"{weights_path} has sha256 {found}, but {text_path} describes {expected}"
        )
    try:
        state = load(weights)
        _check(description)
        sizes = description["layers"]
        needed = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
        needed *= description.get("members", 1)
        held = sum(tensor.numel() for tensor in state.values())
        if needed != held:  # before memory is taken for whatever the description says
            raise ValueError(f"layers {sizes!r} need {needed} weights, there are {held}")
        if "network.0.weight" in state:
            raise ValueError("it was written by an earlier version; export it again")
        policy = Policy(description)
        policy.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"cannot load policy {str(path)!r}: {error}") from error
    if not all(torch.isfinite(p).all() for p in policy.parameters()):
        raise ValueError(f"policy {str(path)!r} has weights that are not finite")
    return policy.requires_grad_(False).eval()


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    if path.is_dir():  # results of a training
        path = path / "policy"
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def _check(description: dict[str, Any]) -> None:
    for key, kind in _REQUIRED.items():
        if not isinstance(description.get(key), kind) or description[key] is True:
            raise ValueError(
                f"policy description: {key!r} is {description.get(key)!r}; "
                f"required: {', '.join(_REQUIRED)}"
            )
    version = description["feature_version"]
    if version != FEATURE_VERSION:
        raise ValueError(
            f"policy of feature version {version!r}; this version of optenv has "
            f"{FEATURE_VERSION}"
        )
    rules.get(description["rule"])
    unknown = [name for name in description["features"] if name not in list(FEATURES)]
    if unknown:
        raise ValueError(f"unknown features {unknown}; valid: {', '.join(FEATURES)}")
    if description["activation"] not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {description['activation']!r}; "
            f"valid: {', '.join(ACTIVATIONS)}"
        )
    positive_int("members", description.get("members", 1))
    lengths = description["total_updates"]
    if len(lengths) != 2 or not all(type(n) is int and n > 0 for n in lengths):
        raise ValueError(f"total_updates must be two positive integers, got {lengths!r}")
    clock.boundaries(1, description["horizon"], description["spacing"])
    sizes = description["layers"]
    action = actions.make(description["action"])
    anytime = description.get("anytime", False)
    if not isinstance(anytime, bool) or (anytime and action.schedule != "constant"):
        raise ValueError(
            "anytime must be True or False, and True needs schedule 'constant', got "
            f"{anytime!r} with {action.schedule!r}"
        )
    outputs = len(action.multipliers) if isinstance(action, actions.Discrete) else 1
    ends = [len(description["features"]), outputs]
    whole = all(type(n) is int and n > 0 for n in sizes)
    if not whole or len(sizes) < 2 or [sizes[0], sizes[-1]] != ends:
        raise ValueError(
            f"layers {sizes!r} do not lead from {ends[0]} features to {ends[1]} outputs"
        )
