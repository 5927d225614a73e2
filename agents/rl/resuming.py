"""Trainings that continue in their folder, exactly as if they had not stopped.

``train_agent.py --resume DIR`` reads all it needs from the folder: the configuration from
``config.json``, and the state of the training from the checkpoint in ``model.zip``. A
training that was killed before its first checkpoint restarts, with the same seed and so the
same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from optenv.atomic import remove_unfinished, write_bytes

from . import checkpoints
from .checkpoints import MODEL, Checkpoint
from .config_file import CONFIGURATION, DICTIONARIES, UNUSED, checksum, read_config

__all__ = ["Resumed", "checkpoint_in", "keep_beginning", "resumed", "take_folder"]

#: File in a training's folder with a copy of the model that it began with. If the training
#: has to restart, the original file may have been replaced.
BEGINNING = "begun_with.zip"

#: Options that may be given to a resumed training if they have the original values.
KEPT = (
    "env_id", "timesteps", "num_envs", "copies", "candidates", "members", "base_lr", "seed"
)  # fmt: skip

#: Options that would make it another training, and are refused.
REFUSED = ("env_arg", "overrides", "out", "config", "policy")


class Resumed(NamedTuple):
    """Training that is resumed.

    Attributes:
        folder: folder of the training.
        config: its configuration, see :func:`agents.rl.factory.build`; with
            ``timesteps``, ``candidates`` and ``members``.
        command: command line that began it, a list of arguments.
        checkpoint: checkpoint to continue from; None if the training restarts.
        model: file to load its model from; None for a new model.
    """

    folder: Path
    config: dict[str, Any]
    command: list[str]
    checkpoint: Checkpoint | None
    model: Path | None

    @property
    def finished(self) -> bool:
        """True if the training is complete."""
        return self.checkpoint is not None and self.checkpoint.finished


def checkpoint_in(folder: Path) -> Checkpoint | None:
    """Return the checkpoint from which a training in a folder can continue exactly.

    Returns:
        The checkpoint, which may be that of a finished training; None if the training was
        stopped before its first one.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    checkpoint = checkpoints.read(folder / MODEL)
    if checkpoint is None and (folder / MODEL).exists():
        raise ValueError(
            f"cannot go on exactly with {str(folder / MODEL)!r}, which an earlier version "
            f"of optenv wrote; --resume {folder / MODEL} begins another training with it"
        )
    usable = checkpoint is not None and (checkpoint.finished or checkpoint.exact)
    return checkpoint if usable else None


def take_folder(
    context: click.Context, option: click.Parameter, path: Path | None
) -> Path | None:
    """Use the options of the training in a folder as defaults.

    It is the callback of the eager option ``--resume``.

    Returns:
        The path.

    Raises:
        click.BadParameter: the folder has no ``config.json``, or one that is not valid.
    """
    if path is None or not path.is_dir():
        return path
    names = [str(each.name) for each in context.command.params]
    try:
        config = read_config(path / "config.json", names)
    except FileNotFoundError:
        raise click.BadParameter(
            f"{str(path)!r} has no config.json, and so no training to go on with; give "
            "its folder, or a model.zip"
        ) from None
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error)) from error
    left_out = (*DICTIONARIES, *UNUSED, "resume", "agent")
    context.default_map = {
        **(context.default_map or {}),
        **{k: v for k, v in config.items() if k not in left_out and v is not None},
        "agent": config.get("agent", "ppo"),
    }
    return path


def resumed(options: Mapping[str, Any]) -> Resumed | None:
    """Read the training in the folder that ``--resume`` names.

    Args:
        options: values of all options of ``train_agent.py``, by name.

    Returns:
        The training; None unless ``--resume`` names a folder.

    Raises:
        ValueError: other options would change the training, or its files are not valid.
        OSError: a file cannot be read.
    """
    folder = options["resume"]
    if folder is None or not folder.is_dir():
        return None
    # 1. Its configuration
    context = click.get_current_context()
    saved = read_config(folder / "config.json", list(options))
    config = {name: saved[name] for name in CONFIGURATION if name in saved}
    missing = [name for name in CONFIGURATION if name not in saved]
    if missing:
        raise ValueError(f"{str(folder / 'config.json')!r} has no {', '.join(missing)}")
    if saved.get("checksum", checksum(saved)) != checksum(saved):
        raise ValueError(
            f"{str(folder / 'config.json')!r} has been edited since the training began, "
            "which goes on as it is: undo that; or begin another training by --config "
            f"{folder / 'config.json'} --out ..."
        )
    _check_options(context, options, {**saved, **config})
    # 2. Its checkpoint, after removing incomplete files
    remove_unfinished(folder)
    checkpoint = checkpoint_in(folder) if config["candidates"] == 1 else None
    model = None if checkpoint is None else folder / MODEL
    if checkpoint is None and saved.get("resume") is not None:
        model = folder / BEGINNING
        if not model.is_file():
            raise ValueError(
                f"the training in {str(folder)!r} has to begin anew, and the copy of the "
                f"model that it began with is missing: {str(model)!r}"
            )
    return Resumed(folder, config, list(saved.get("command", [])), checkpoint, model)


def keep_beginning(model: Path, folder: Path) -> None:
    """Copy the model that a training begins with into its folder.

    Args:
        model: file of the model that ``--resume`` names.
        folder: folder of the new training.

    Raises:
        OSError: the file cannot be read or written.
    """
    write_bytes(folder / BEGINNING, model.read_bytes())


def _check_options(
    context: click.Context, options: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    """Refuse options that would make it another training."""

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    folder = options["resume"]
    if options["agent"] != saved.get("agent"):
        raise ValueError(
            f"the training in {str(folder)!r} is of agent {saved.get('agent')!r}; give "
            f"--agent {saved.get('agent')}, or leave it out"
        )
    flags = {each.name: each.opts[0] for each in context.command.params}
    changed = [
        f"{flags[name]} {options[name]} (it is {saved.get(name)})"
        for name in KEPT
        if is_given(name) and options[name] != saved.get(name)
    ]
    changed += [flags[name] for name in REFUSED if is_given(name)]
    if changed:
        raise ValueError(
            f"--resume {folder} goes on with the training as it is: leave out "
            f"{', '.join(changed)}; --resume {folder / MODEL} begins another training with "
            "its model"
        )
