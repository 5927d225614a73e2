"""Policy files: writing and reading.

A policy is two files side by side: ``NAME.safetensors`` with the weights, and
``NAME.json`` with the description (feature version, features, action, update rule,
horizon, layers ...; see :class:`agents.policy.spec.PolicySpec`) and the SHA-256 of the
weights. Neither can hold code, and the training library is not needed to read them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load

from ..policies import SHIPPED
from .module import Policy
from .spec import PolicySpec

__all__ = ["load_policy", "save_policy"]


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write the two files of a policy.

    Args:
        policy: the policy; its weights are written in float32.
        path: path of the files; ``.safetensors`` and ``.json`` replace such a suffix.
            Folders above it are made.

    Returns:
        Path of the weights.
    """
    weights_path, json_path = _paths(path)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    weights = policy.weights()
    description = {**policy.description, "sha256": hashlib.sha256(weights).hexdigest()}
    weights_path.write_bytes(weights)
    json_path.write_text(json.dumps(description, indent=2) + "\n")
    return weights_path


def load_policy(path: str | Path) -> Policy:
    """Read a policy; code in the files is never run.

    Args:
        path: name of a shipped policy (a string, see :data:`agents.SHIPPED`); or path of
            the weights, of the description, of their common stem, or of a folder of
            results. For a file with the name of a shipped policy, give a ``Path``.

    Returns:
        The policy, in evaluation mode; its parameters need no gradients.

    Raises:
        FileNotFoundError: no policy has this name, or one of its two files is missing.
        TypeError: ``path`` is neither a string nor a path.
        ValueError: the files do not belong together, are damaged, or are of a feature
            version that this version of the package does not know.

    Example:
        >>> from agents import load_policy
        >>> load_policy("default").description["algorithm"]
        'PPO'
    """
    # 1. Find the two files
    if not isinstance(path, (str, Path)):
        raise TypeError(f"policy must be a name, a path or a Policy, got {path!r}")
    weights_path, json_path = _paths(
        SHIPPED.get(path, path) if isinstance(path, str) else path
    )
    for file in (weights_path, json_path):
        if not file.is_file():
            raise FileNotFoundError(
                f"no policy at {str(path)!r}: {file} does not exist; "
                "a policy is two files, NAME.safetensors and NAME.json; "
                f"shipped policies: {', '.join(SHIPPED) or 'none'}"
            )
    # 2. Read the description
    try:
        description = json.loads(json_path.read_text())
    except ValueError as error:
        raise ValueError(f"{json_path} is not a policy description: {error}") from None
    if not isinstance(description, dict):
        raise ValueError(f"{json_path} is not a policy description: {description!r}")
    # 3. Check that it describes these weights
    weights = weights_path.read_bytes()
    expected = description.pop("sha256", None)
    actual = hashlib.sha256(weights).hexdigest()
    if expected != actual:
        raise ValueError(
            f"{weights_path} has sha256 {actual}, but {json_path} describes {expected}"
        )
    # 4. Build the policy
    try:
        state = load(weights)
        spec = PolicySpec.from_json(description)
        num_given = sum(tensor.numel() for tensor in state.values())
        if spec.num_weights != num_given:  # before memory of any described size is taken
            raise ValueError(
                f"layers {spec.layers!r} need {spec.num_weights} weights, there are "
                f"{num_given}"
            )
        if "network.0.weight" in state:
            raise ValueError("it was written by an earlier version; export it again")
        policy = Policy(description)
        policy.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"cannot load policy {str(path)!r}: {error}") from error
    if not all(torch.isfinite(p).all() for p in policy.parameters()):
        raise ValueError(f"policy {str(path)!r} has weights that are not finite")
    policy.name = str(path)
    return policy.requires_grad_(False).eval()


def _paths(path: str | Path) -> tuple[Path, Path]:
    """Return the paths of weights and description."""
    path = Path(path)
    if path.is_dir():  # a folder of results
        path = path / "policy"
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")
