"""Configurations of trainings as files: what ``--config`` reads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from optenv.checks import parsed_json, quoted, suggestion

__all__ = [
    "CONFIGURATION",
    "DICTIONARIES",
    "UNUSED",
    "checksum",
    "read_config",
    "read_object",
    "take_defaults",
]

#: Entries of a configuration that are dictionaries: the first two replace the preset's, the
#: others are changes of them.
DICTIONARIES = ("env_arguments", "algorithm", "env_arg", "overrides")

#: Entries on the origin of a file, which another training does not take over.
UNUSED = ("out", "command", "versions", "commit", "checksum")

#: Entries that define a training: it can only be continued if they are unchanged.
CONFIGURATION = (
    "env_id", "timesteps", "num_envs", "copies", "candidates", "members", "base_lr",
    "env_arguments", "algorithm", "overrides",
)  # fmt: skip


def checksum(config: Mapping[str, Any]) -> str:
    """Return a hash of a training's configuration, 16 hexadecimal digits.

    Args:
        config: entries of a configuration file; only those that define the training count.
    """
    own = {name: config.get(name) for name in ("agent", "seed", *CONFIGURATION)}
    text = json.dumps(own, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file does not contain a JSON object.
        OSError: the file cannot be read.
    """
    try:
        found = parsed_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {quoted(found)}")
    return found


def read_config(path: Path, options: list[str]) -> dict[str, Any]:
    """Read the configuration of a training.

    Args:
        path: ``config.json`` of a training, or a JSON file with some of its entries.
        options: names of the options of ``train_agent.py``.

    Raises:
        ValueError: the file is not a JSON object, has an unknown entry, or one of a wrong
            type or that is infinite.
        OSError: the file cannot be read.
    """
    config = read_object(path)
    valid = list(dict.fromkeys([*options, *DICTIONARIES, *UNUSED]))
    for name, value in config.items():
        if name not in valid:
            raise ValueError(
                f"{str(path)!r} has an unknown entry {name!r}; {suggestion(name, valid)}"
            )
        if isinstance(value, float) and math.isinf(value):  # such as 1e400
            raise ValueError(f"{name} of {str(path)!r} must be finite, got {value}")
        if name in DICTIONARIES and not isinstance(value, dict):
            raise ValueError(
                f"{name} of {str(path)!r} must be an object, got {quoted(value)}"
            )
    return config


def take_defaults(
    context: click.Context, option: click.Parameter, path: Path | None
) -> dict[str, Any] | None:
    """Use the entries of a configuration as defaults of the other options.

    It is the callback of an eager option.

    Returns:
        The configuration; None without a file.

    Raises:
        click.BadParameter: the file is not valid, see :func:`read_config`.
    """
    if path is None:
        return None
    names = [str(each.name) for each in context.command.params if each is not option]
    try:
        config = read_config(path, names)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error)) from error
    left_out = (*DICTIONARIES, *UNUSED)
    defaults = {
        name: value
        for name, value in config.items()
        if name not in left_out and value is not None
    }
    context.default_map = {**(context.default_map or {}), **defaults}
    return config
