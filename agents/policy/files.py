"""The file of a policy.

It is two files side by side: ``NAME.safetensors`` with the weights, and ``NAME.json`` with
what they mean (feature version, features, action, rule, horizon, layers). Neither can hold
code, and nothing of the training library is needed to use them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load

from ..policies import SHIPPED
from .module import Policy, count_weights
from .spec import check

__all__ = ["load_policy", "save_policy"]


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
        check(description)
        needed = count_weights(description)
        held = sum(tensor.numel() for tensor in state.values())
        if needed != held:  # before memory is taken for whatever the description says
            sizes = description["layers"]
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
