"""Policy files: writing and reading.

A policy consists of two files: ``NAME.safetensors`` with the weights, and ``NAME.json``
with the description (feature version, features, action, update rule, horizon, layers ...;
see :class:`agents.policy.spec.PolicySpec`) and the SHA-256 of the weights. Neither can
contain code, and the training library is not needed to read them.

Two files cannot be replaced at once. Therefore a new description is first written to a
third file, ``NAME.json.new``. Then the weights are replaced, then the description, and the
third file is removed. If the process is killed in between, the weights may belong to
``NAME.json.new`` instead of ``NAME.json``: :func:`load_policy` then reads that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from optenv.atomic import write_bytes, write_text
from optenv.checks import quoted, suggestion

from ..policies import EARLIER, SHIPPED
from .module import Policy
from .spec import MAX_NESTING, PolicySpec

__all__ = ["load_policy", "name_of", "save_policy"]

#: Largest description, in bytes.
MAX_DESCRIPTION_BYTES = 2**20

#: Largest header of the weights, in bytes: names and shapes of the tensors.
MAX_HEADER_BYTES = 2**20

#: Largest absolute weight.
MAX_WEIGHT = 1e6

#: A JSON string, terminated or not, or a bracket.
_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write the two files of a policy.

    Existing files are replaced. If the process is killed meanwhile, either the old policy
    or the new one can be loaded. Only one process at a time may save under the same path.

    Args:
        policy: the policy; its weights are written in float32.
        path: path of the files, with or without the suffix ``.safetensors`` or ``.json``.
            Missing parent folders are created.

    Returns:
        Path of the weights.

    Raises:
        OSError: a file cannot be written; the old policy is as it was before.
    """
    weights_path, json_path = _paths(path)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    weights = policy.weights()
    description = {**policy.description, "sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps(description, indent=2) + "\n"
    staged = _staged(json_path)
    # If an earlier save was killed, its staged file may be the only description of the
    # weights.
    _complete(weights_path, json_path)
    write_text(staged, text)
    try:
        write_bytes(weights_path, weights)
    except OSError:  # the old weights are still there
        staged.unlink(missing_ok=True)
        raise
    try:
        write_text(json_path, text)
    except OSError:  # renaming needs no space on a full disk
        os.replace(staged, json_path)
    staged.unlink(missing_ok=True)
    return weights_path


def load_policy(path: str | Path) -> Policy:
    """Read a policy; no code in the files is run.

    Sizes are checked before memory is allocated for them.

    Args:
        path: name of a shipped policy (a string, see :data:`agents.SHIPPED`) or of one from
            an earlier version, such as ``"default@0.1"``; or path of the weights, of the
            description, of both without suffix, or of a folder of results. A file with the
            name of a shipped policy needs a ``Path``.

    Returns:
        The policy, in evaluation mode; its parameters need no gradients.

    Raises:
        FileNotFoundError: no policy has this name, or one of its two files is missing.
        TypeError: ``path`` is neither a string nor a path.
        ValueError: the files do not belong together, are damaged, or have a feature version
            that this version of the package does not know.
        OSError: a file cannot be read.

    Example:
        >>> from agents import load_policy
        >>> load_policy("default").description["algorithm"]
        'PPO'
    """
    # 1. Find the two files
    if not isinstance(path, (str, Path)):
        raise TypeError(f"policy must be a name, a path or a Policy, got {quoted(path)}")
    weights_path, json_path = _paths(
        {**SHIPPED, **EARLIER}.get(path, path) if isinstance(path, str) else path
    )
    staged = _staged(json_path)
    for file in (weights_path, json_path):
        # Unlike Path.is_file, it is False for a name that is too long
        found = os.path.isfile(file) or (file == json_path and os.path.isfile(staged))
        if not found:
            raise FileNotFoundError(_not_found(path, file))
    # 2. Read the weights with the description that belongs to them. After a killed save,
    # that is the staged one. If another process is saving, the final one is tried again.
    refused: ValueError | None = None
    for attempt in (json_path, staged, json_path):
        if attempt.is_file():
            try:
                description, weights = _read_pair(attempt, weights_path)
                break
            except ValueError as error:
                refused = refused or error
    else:
        raise ValueError(f"cannot load policy {str(path)!r}: {refused}") from refused
    # 3. Build the policy
    policy = Policy(description)
    try:
        state = load(weights)
        if "network.0.weight" in state:
            raise ValueError("it was written by an earlier version; export it again")
        for name, tensor in state.items():
            if tensor.dtype != torch.float32:
                raise ValueError(f"{quoted(name)} is of {tensor.dtype}, valid: float32")
        policy.load_state_dict(state)
    except Exception as error:
        raise ValueError(
            f"cannot load policy {str(path)!r}: {weights_path}: {error}"
        ) from error
    for name, weight in policy.named_parameters():
        if not (weight.abs() <= MAX_WEIGHT).all():
            raise ValueError(
                f"cannot load policy {str(path)!r}: {weights_path}: {name} has weights "
                f"that are not finite, or beyond {MAX_WEIGHT:g}"
            )
    policy.name = str(path)
    return policy.requires_grad_(False).eval()


def name_of(fingerprint: str) -> str | None:
    """Return the name of the package's policy with this fingerprint; None if there is none.

    Policies of earlier versions have names such as ``"default@0.1"``. Policies are loaded
    one after the other until one matches.
    """
    names = (
        name
        for name in (*SHIPPED, *EARLIER)
        if load_policy(name).fingerprint() == fingerprint
    )
    return next(names, None)


def _not_found(path: str | Path, file: Path) -> str:
    """Return the error message for a policy whose file is missing."""
    shipped, missing = list(SHIPPED), f"{quoted(str(file), 300)[1:-1]} does not exist"
    files = "a policy is two files, NAME.safetensors and NAME.json"
    if isinstance(path, str) and path and Path(path).name == path and path != ".":
        hint = suggestion(path, shipped).replace("valid:", "shipped policies:")
        return f"no policy at {quoted(path)}: {hint}; as a path: {missing}, {files}"
    return (
        f"no policy at {quoted(str(path))}: {missing}; {files}; shipped policies: "
        f"{', '.join(shipped) or 'none'}"
    )


def _read_description(file: Path) -> dict[str, Any]:
    """Read a description, whose size and nesting are limited.

    Raises:
        ValueError: it is too large, nested too deeply, or not a JSON object.
    """
    data = _read(file, MAX_DESCRIPTION_BYTES)
    if len(data) > MAX_DESCRIPTION_BYTES:
        raise ValueError(
            f"{file} is not a policy description: it has more than "
            f"{MAX_DESCRIPTION_BYTES} bytes"
        )
    try:
        text = data.decode()
        depth = _nesting(text)
        if depth > MAX_NESTING:
            raise ValueError(f"nested {depth} deep; at most {MAX_NESTING} are allowed")
        description = json.loads(text, object_pairs_hook=_without_duplicates)
        # JSON escapes can make strings that are not valid Unicode and cannot be printed
        json.dumps(description, ensure_ascii=False).encode()
    except ValueError as error:
        raise ValueError(f"{file} is not a policy description: {error}") from None
    if not isinstance(description, dict):
        raise ValueError(f"{file} is not a policy description: {quoted(description)}")
    return description


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary.

    Raises:
        ValueError: a key occurs twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {quoted(key)} is there twice")
        found[key] = value
    return found


def _nesting(text: str) -> int:
    """Return the largest nesting depth of brackets in a JSON text."""
    depth = deepest = 0
    for part in _JSON_PART.finditer(text):
        if part.group() in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif part.group() in ("]", "}"):
            depth -= 1
    return deepest


def _read_pair(json_path: Path, weights_path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a description, and the weights that it describes.

    Returns:
        The checked description, without the hash of the weights; and the weights.

    Raises:
        ValueError: an entry is not valid, or the description is of other weights.
    """
    # 1. The description
    description = _read_description(json_path)
    expected = description.pop("sha256", None)
    try:
        spec = PolicySpec.from_json(description)
    except Exception as error:
        raise ValueError(f"{json_path}: {error}") from error
    # 2. The size of the weights, before they are read
    needed, size = 4 * spec.num_weights, weights_path.stat().st_size
    most, weights = needed + MAX_HEADER_BYTES, b""
    if needed <= size <= most:
        weights = _read(weights_path, most)
    if len(weights) - int.from_bytes(weights[:8], "little") - 8 != needed:
        raise ValueError(
            f"{weights_path} has {size} bytes, but layers {spec.layers!r} of {json_path} "
            f"need {spec.num_weights} weights, which are {needed} bytes and a header of at "
            f"most {MAX_HEADER_BYTES}"
        )
    # 3. Their hash
    actual = hashlib.sha256(weights).hexdigest()
    if expected != actual:
        raise ValueError(
            f"{weights_path} has sha256 {actual}, but {json_path} describes "
            f"{quoted(expected)}"
        )
    return description, weights


def _read(file: Path, most: int) -> bytes:
    """Read a file, up to one byte more than ``most``."""
    with file.open("rb") as stream:
        return stream.read(most + 1)


def _staged(json_path: Path) -> Path:
    """Return the path of the staged description, ``NAME.json.new``."""
    return json_path.with_name(f"{json_path.name}.new")


def _paths(path: str | Path) -> tuple[Path, Path]:
    """Return the paths of weights and description; see :func:`load_policy`."""
    path = Path(path)
    if os.path.isdir(path):  # a folder of results; False for a name that is too long
        path = path / "policy"
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def _complete(weights_path: Path, json_path: Path) -> None:
    """Complete a save that was killed after it had replaced the weights.

    Only the staged description belongs to these weights then.
    """
    staged = _staged(json_path)
    try:
        expected = _read_description(staged).get("sha256")
        with weights_path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # no staged description, or not a valid one
        return
    if expected == actual:
        os.replace(staged, json_path)
