"""Learn, keep what is learned, and say how it came about."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch import Tensor

from ..policy.files import load_policy, save_policy
from ..utils.workers import stopped
from .export import export_policy
from .unrolled import UnrolledLR
from .unrolling import learn_unrolled

#: Last share of the training over which policies are averaged (Izmailov et al., 2018).
AVERAGED = 0.4


def new_folder(path: Path, *, numbered: bool = False) -> Path:
    """Make a folder for results.

    Args:
        path: where; the folders above are made as well.
        numbered: if there is one already, take the first free of ``path-2``, ``path-3``...

    Raises:
        ValueError: there is one already, with something in it.
    """
    candidates = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    wanted = path
    while wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        if not numbered:
            raise ValueError(
                f"{str(path)!r} already holds results; give another --out, or remove it"
                if path.is_dir()
                else f"{str(path)!r} is a file; results need a folder"
            )
        wanted = next(candidates)
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted


def learn(
    model: BaseAlgorithm | UnrolledLR, timesteps: int, folder: Path, *, progress: bool
) -> bool:
    """Learn, and leave ``model.zip`` and the exported policy in ``folder``.

    Of a learner that unrolls, there is the policy alone. Each is the average of those of
    the last part of the training, in which the noise of the single ones cancels.

    Args:
        model: see :func:`make_model`.
        timesteps: control steps over all runs.
        folder: gets the files; the policy is also renewed every tenth of the way, so that
            even a killed process leaves one.
        progress: show a progress bar.

    Returns:
        Whether learning went to its end; False if the user interrupted it.
    """
    if isinstance(model, UnrolledLR):
        return learn_unrolled(model, timesteps, folder, progress=progress)
    finished = True
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    keeper = _Keeper(folder, timesteps)
    try:
        model.learn(
            timesteps, callback=keeper, progress_bar=progress, reset_num_timesteps=False
        )
    except KeyboardInterrupt:
        finished = False
    keeper.load_average()
    model.save(folder / "model.zip")
    export_policy(model, folder / "policy")
    return finished


class _Keeper(BaseCallback):
    """Log how runs end, export the policy now and then, average the late ones."""

    def __init__(self, folder: Path, timesteps: int) -> None:
        super().__init__()
        self.folder, self.timesteps = folder, timesteps
        self.average: dict[str, Tensor] = {}
        self.averaged = 0

    def _on_training_start(self) -> None:
        self.every = max(1, self.timesteps // 10)
        self.next = self.num_timesteps + self.every
        self.average_from = self.num_timesteps + (1 - AVERAGED) * self.timesteps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self.average_from:
            return
        self.averaged += 1
        for name, value in self.model.policy.state_dict().items():
            mean = self.average.get(name, torch.zeros_like(value))
            self.average[name] = torch.lerp(mean, value, 1 / self.averaged)

    def load_average(self) -> None:
        """Give the model the average of its late policies, if it got that far."""
        if self.averaged:
            self.model.policy.load_state_dict(self.average)

    def _on_step(self) -> bool:
        ended = [
            i
            for i, done in zip(self.locals["infos"], self.locals["dones"], strict=True)
            if done
        ]
        if ended:
            share = np.mean([info["diverged"] for info in ended])
            self.logger.record("optenv/diverged", float(share))
            final = [np.log(max(i["validation_loss"], 1e-12)) for i in ended]
            self.logger.record("optenv/log_validation_loss", float(np.median(final)))
        if self.num_timesteps >= self.next:
            self.next += self.every
            export_policy(self.model, self.folder / "policy")
        return not stopped()


def sign(path: Path, command: str) -> None:
    """Note in a policy's description which command made it."""
    policy = load_policy(path)
    policy.description["command"] = command
    save_policy(policy, path)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write what a run was made with: configuration, command, versions, commit."""
    packages = ("optenv", "torch", "gymnasium", "stable-baselines3", "numpy")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    text = json.dumps(
        {
            **config,
            "command": sys.argv,
            "versions": versions,
            "commit": _commit(),
        },
        indent=2,
        default=str,
    )
    path.write_text(text + "\n")


def _commit() -> str | None:
    """Commit of the checkout, if the code runs from one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
