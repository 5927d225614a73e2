"""Training of a model, with averaging and export of its policy, and checkpoints."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from optenv.atomic import unfinished, write_bytes, write_text

from ..policy.files import load_policy, save_policy
from ..utils.averaging import TailAverage
from ..utils.progress import echo, progress_bar
from ..utils.workers import stopped
from . import model_state
from .checkpoints import MODEL, Checkpoint, pack
from .config_file import checksum
from .export import check_export, export_policy
from .rllib.model import RLlibModel
from .rollouts import Rollouts, rounded
from .unrolled import UnrolledLR

__all__ = ["learn", "new_folder", "sign", "write_config"]


def new_folder(path: Path, *, numbered: bool = False, kept: Collection[str] = ()) -> Path:
    """Make a folder for results.

    Args:
        path: path of the folder; the folders above it are made as well.
        numbered: if the path is taken, use the first free one of ``path-2``, ``path-3`` ...
        kept: names of files that ``path`` may already contain, to continue with them.

    Returns:
        Path of the new folder.

    Raises:
        ValueError: ``path`` is a file or a folder with other files, and ``numbered`` is
            False.
    """
    candidates = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    folder = path
    while folder.exists() and (not folder.is_dir() or _has_results(folder, kept)):
        if not numbered:
            raise ValueError(
                f"{str(path)!r} already holds results; give another --out, or remove it"
                if path.is_dir()
                else f"{str(path)!r} is a file; results need a folder"
            )
        folder = next(candidates)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _has_results(folder: Path, kept: Collection[str]) -> bool:
    """Return whether a folder has files that are neither in ``kept`` nor unfinished."""
    return bool(
        {*folder.iterdir()} - {*unfinished(folder)} - {folder / name for name in kept}
    )


#: Default number of times that the files are written during a training.
CHECKPOINTS = 50


def learn(
    model: BaseAlgorithm | UnrolledLR | RLlibModel,
    timesteps: int,
    folder: Path,
    *,
    progress: bool,
    save_every: int | None = None,
    resume: Checkpoint | None = None,
) -> bool:
    """Train a model, and write ``model.zip`` and the exported policy.

    At the end, both contain the average of the policies in the last part of the training,
    see :class:`~agents.utils.averaging.TailAverage`. During the training they are written
    at intervals, so that it can be resumed after a kill: the policy as if the training
    ended there, and the model with everything that is needed to continue exactly
    (:mod:`agents.rl.checkpoints`). After an interrupt, the last of these models remains.

    Args:
        model: see :func:`agents.rl.factory.build` and
            :func:`agents.rl.rllib.build.build_rllib`.
        timesteps: number of control steps to make, over all runs; it is rounded up to whole
            units of the algorithm, see :func:`agents.rl.rollouts.rounded`.
        folder: folder of the files.
        progress: show a progress bar, and print a summary at the end.
        save_every: number of control steps between two writings of the files, which happen
            at the end of a rollout; by default ``timesteps`` divided by
            :data:`CHECKPOINTS`.
        resume: checkpoint in the file that the model was loaded from: its training
            continues as if it had not stopped, with the ``timesteps`` that it began with.

    Returns:
        True if the training is complete, False if the user interrupted it.

    Raises:
        ValueError: the model could not be exported after the training; or the checkpoint
            belongs to another training.
        OSError: a file cannot be written; the old file remains.
    """
    if resume is None:
        timesteps = rounded(model, timesteps)
    else:
        timesteps = resume.numbers["timesteps"]
    save_every = save_every or max(1, timesteps // CHECKPOINTS)
    if isinstance(model, RLlibModel):
        return model.learn(timesteps, folder, save_every, progress=progress)
    if isinstance(model, UnrolledLR):
        return _learn_unrolled(
            model, timesteps, folder, save_every, progress=progress, resume=resume
        )
    check_export(model)
    finished = True
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    recorder = _Recorder(folder, timesteps, save_every, resume)
    if resume is not None:
        model_state.restore(model, resume.under("model"))
    begun_at = model.num_timesteps if resume is None else recorder.started
    left = begun_at + timesteps - model.num_timesteps
    with progress_bar(left, "training", progress, "control step") as advance:
        recorder.advance = advance
        try:
            model.learn(left, callback=recorder, reset_num_timesteps=False)
        except KeyboardInterrupt:
            finished = False
    finished = finished and not stopped()
    recorder.close()
    export_policy(model, folder / "policy")
    # The model that is marked as finished is written last, after its policy
    if finished or not recorder.has_saved:
        end = Checkpoint.join(
            {}, timesteps=timesteps, done=model.num_timesteps, finished=finished
        )
        _save_model(folder, end, model)
    if progress and recorder.late_ends:
        echo(f"training: {recorder.summary()}")
    return finished


def _save_model(
    folder: Path, checkpoint: Checkpoint, model: BaseAlgorithm | None = None
) -> None:
    """Write ``model.zip``."""
    file = io.BytesIO()
    if model is not None:
        model.save(file)
    write_bytes(folder / MODEL, pack(file, checkpoint))


class _Recorder(BaseCallback):
    """Log ended runs, save the model at intervals, and average the late policies.

    Args:
        folder: folder of the model and the policy.
        timesteps: number of control steps of the training, over all runs.
        save_every: number of control steps from one saving to the next.
        resume: checkpoint of the training to continue, if any.
    """

    def __init__(
        self,
        folder: Path,
        timesteps: int,
        save_every: int,
        resume: Checkpoint | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.timesteps, self.save_every = folder, timesteps, save_every
        self.average: TailAverage | None = None  # until the training starts
        self.rollouts: Rollouts | None = None  # likewise
        self.advance: Callable[[int], object] = lambda count: None
        self.advanced = self.started = 0
        #: Return, divergence and validation loss of each run that ended in the last tenth
        #: of the training.
        self.late_ends: list[tuple[float, bool, float]] = []
        self.has_saved = resume is not None
        self.resume = resume
        if resume is not None:
            numbers, arrays = resume.under("recorder")
            self.started = numbers["started"]
            self.late_ends = [
                (float(a), bool(b), float(c)) for a, b, c in arrays["late_ends"]
            ]

    def _on_training_start(self) -> None:
        self.advanced = self.num_timesteps
        if self.resume is None:
            self.started = self.num_timesteps
        self.next_save = self.num_timesteps + self.save_every
        self.average = TailAverage(self.timesteps, self.started, running=True)
        self.rollouts = Rollouts(self.model, self.started + self.timesteps)
        if self.resume is not None:
            numbers, arrays = self.resume.under("recorder")
            means = [arrays[f"mean/{i}"] for i in range(numbers["means"])]
            content = [[torch.from_numpy(array) for array in means]] if means else []
            self.average.restore(numbers["count"], content)

    def checkpoint(self) -> Checkpoint:
        """Return all that is needed to continue the training from the next rollout."""
        assert self.average is not None
        model = model_state.take(self.model)
        if model is None:
            return Checkpoint.join({}, timesteps=self.timesteps, done=self.num_timesteps)
        means = [tensor.numpy() for part in self.average.content() for tensor in part]
        numbers = {
            "started": self.started,
            "count": self.average.count,
            "means": len(means),
        }
        late = np.array(self.late_ends, np.float64).reshape(-1, 3)
        arrays = {"late_ends": late, **{f"mean/{i}": m for i, m in enumerate(means)}}
        own = Checkpoint(numbers, arrays)
        parts = {"model": model, "recorder": own}
        return Checkpoint.join(
            parts, timesteps=self.timesteps, done=self.num_timesteps, exact=True
        )

    def _on_rollout_start(self) -> None:
        assert self.average is not None and self.rollouts is not None
        if self.resume is not None:  # this state is already in the average and the file
            model_state.restore_generators(self.model, self.resume.under("model"))
            self.resume = None
            self.rollouts.begin()
            return
        state = self.model.policy.state_dict()
        self.average.update(self.num_timesteps, state.values())
        if self.num_timesteps >= self.next_save:
            # Before a rollout, the model has learned from all its steps
            self.next_save = self.num_timesteps + self.save_every
            checkpoint = self.checkpoint()
            with self.rollouts.restored():
                _save_model(self.folder, checkpoint, self.model)
                self.has_saved = True
                with self._averaged():
                    export_policy(self.model, self.folder / "policy")
        self.rollouts.begin()

    def _on_rollout_end(self) -> None:
        assert self.rollouts is not None
        self.rollouts.end()

    def summary(self) -> str:
        """Describe the runs that ended in the last tenth of the training."""
        returns, diverged, losses = (
            np.array(part) for part in zip(*self.late_ends, strict=True)
        )
        log_losses = np.log(np.maximum(losses, 1e-12))
        return (
            f"{len(losses):,} runs ended in its last tenth, mean return "
            f"{returns.mean():.3g}, {diverged.mean():.1%} diverged, median log validation "
            f"loss {np.median(log_losses):.3g}"
        )

    def close(self) -> None:
        """Restore the model's settings and load the average, at the end of the training."""
        if self.rollouts is not None:
            self.rollouts.close()
        self.load_average()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Load the average of the late policies into the model, within the context."""
        policy = self.model.policy
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        self.load_average()
        try:
            yield
        finally:
            policy.load_state_dict(before)

    def load_average(self) -> None:
        """Load the average of the late policies into the model, if there is one."""
        if self.average is not None and self.average.count:
            policy = self.model.policy
            means = zip(policy.state_dict(), self.average.mean(), strict=True)
            policy.load_state_dict(dict(means))

    def _on_step(self) -> bool:
        ended = [
            info
            for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True)
            if done
        ]
        if ended and self.num_timesteps >= self.started + 0.9 * self.timesteps:
            self.late_ends += [
                (info["episode"]["r"], info["diverged"], info["validation_loss"])
                for info in ended
            ]
        if ended:
            share = np.mean([info["diverged"] for info in ended])
            self.logger.record("optenv/diverged", float(share))
            losses = [np.log(max(info["validation_loss"], 1e-12)) for info in ended]
            self.logger.record("optenv/log_validation_loss", float(np.median(losses)))
        self.advance(self.num_timesteps - self.advanced)
        self.advanced = self.num_timesteps
        return not stopped()


def _learn_unrolled(
    model: UnrolledLR,
    timesteps: int,
    folder: Path,
    save_every: int,
    *,
    progress: bool,
    resume: Checkpoint | None,
) -> bool:
    """Train a learner that unrolls; see :func:`learn`."""
    finished, has_saved = True, resume is not None
    if resume is not None:
        model.restored(resume.under("learner"))
    saved_at = model.num_timesteps
    last_return: float | None = None

    def checkpoint(**states: bool) -> Checkpoint:
        parts, done = {"learner": model.state()}, model.num_timesteps
        return Checkpoint.join(parts, timesteps=timesteps, done=done, **states)

    def callback(learner: UnrolledLR, mean_return: float) -> bool:
        nonlocal saved_at, last_return, has_saved
        last_return = mean_return
        if learner.num_timesteps - saved_at >= save_every:
            saved_at, has_saved = learner.num_timesteps, True
            _save_model(folder, checkpoint(exact=True))
            with learner.averaged():
                learner.save(folder / "policy")
        return not stopped()

    try:
        if resume is None:
            model.learn(timesteps, callback, progress)
        else:
            model.go_on(callback, progress)
    except KeyboardInterrupt:
        finished = False
    finished = finished and not stopped()
    model.save(folder / "policy")
    if finished or not has_saved:
        _save_model(folder, checkpoint(finished=finished))
    if progress and last_return is not None:
        echo(f"training: mean return {last_return:.3g} in its last round")
    return finished


def sign(path: Path, command: str, base_lr: float | None) -> None:
    """Add a policy's base learning rate and the command that made it to its description."""
    policy = load_policy(path)
    policy.description["command"] = command
    if base_lr is not None:
        policy.description["base_lr"] = base_lr
    save_policy(policy, path)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write configuration, command, versions and commit of a training.

    Args:
        path: path of a JSON file.
        config: configuration; values that are not JSON are written as text.
    """
    packages = ("optenv", "torch", "gymnasium", "stable-baselines3", "ray", "numpy")
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
            "checksum": checksum(config),
        },
        indent=2,
        default=str,
    )
    write_text(path, text + "\n")


def _commit() -> str | None:
    """Return the commit of the git checkout; None if the code is not in one."""
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
