"""A training by RLlib: the counterpart of a model of Stable-Baselines3.

Ray is imported when the training begins (extra ``ray``).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import configure
from torch import Tensor, nn

from optenv import actions
from optenv.atomic import write_bytes
from optenv.checks import known

from ...policy.build import build
from ...policy.files import save_policy
from ...policy.layers import join
from ...policy.module import Policy
from ...utils.averaging import TailAverage
from ...utils.progress import echo, progress_bar
from ...utils.ray_cluster import check_ray, cluster
from ...utils.workers import stopped
from ..export import check_reward
from .arguments import translate

__all__ = ["AGENTS", "RLlibModel", "check_model_file"]

#: Classes of presets that RLlib can train, and whether they have a memory.
AGENTS = {"PPO": False, "RL2": True}

#: File in a ``model.zip`` that tells where the training was.
NOTE = "optenv.json"

#: Name that RLlib gives the one module of an algorithm.
MODULE = "default_policy"


class RLlibModel:
    """PPO or RL² of RLlib, with an environment in each of several processes.

    Args:
        name: ``"class"`` of the preset, one of :data:`AGENTS`.
        env_id: id of the environment.
        env_arguments: its arguments.
        described: ``describe()`` of it.
        num_envs: runs at once, a multiple of ``num_workers``.
        arguments: arguments of the algorithm, see
            :func:`agents.rl.rllib.arguments.translate`.
        num_workers: processes that step environments.
        address: of a running cluster; None starts one on this machine.
        seed: seed of the algorithm and of the environments.
        resume: ``model.zip`` to go on from.

    Attributes:
        num_timesteps: control steps made so far, over all runs.
        unit: control steps of a rollout, over all runs.
        described: ``describe()`` of the environment.

    Raises:
        ImportError: Ray is not installed.
        TypeError, ValueError: see :func:`agents.rl.rllib.arguments.translate`; or RLlib has
            no algorithm for the preset, its actions or the number of processes.
    """

    def __init__(
        self,
        name: str,
        env_id: str,
        env_arguments: Mapping[str, Any],
        described: Mapping[str, Any],
        *,
        num_envs: int,
        arguments: Mapping[str, Any],
        num_workers: int,
        address: str | None = None,
        seed: int = 0,
        resume: Path | None = None,
    ) -> None:
        check_ray()
        known("algorithm of RLlib", name, AGENTS)
        if num_envs % num_workers:
            raise ValueError(
                f"num_envs ({num_envs}) must be a multiple of num_workers ({num_workers}), "
                "among which runs are divided"
            )
        self._name, self._env_id, self.described = name, env_id, dict(described)
        self._env_arguments, self._num_envs = dict(env_arguments), num_envs
        self._num_workers, self._address, self._seed = num_workers, address, seed
        action = actions.make(described["action"])
        if action.not_exported:
            raise ValueError(f"{action.not_exported} (action {action.kind!r})")
        if action.per_tensor:
            raise ValueError(
                "RLlib cannot train actions on single tensors; give --engine sb3"
            )
        check_reward(self.described)
        self._arguments = translate(arguments, num_envs, recurrent=AGENTS[name])
        self.num_timesteps = 0 if resume is None else check_model_file(resume, name)
        self._resume = resume
        self.unit = self._arguments.rollout

    def learn(
        self,
        timesteps: int,
        folder: Path,
        save_every: int,
        *,
        progress: bool,
    ) -> bool:
        """Train, and write ``model.zip`` and the policy; see :func:`agents.rl.training.learn`.

        A process that dies is replaced; the rollout is completed by the others, and no
        control step of theirs is lost.

        Returns:
            True if the training went to its end, False if the user interrupted it.
        """
        finished = True
        with cluster(self._num_workers + 1, self._address), self._algorithm() as algorithm:
            recorder = _Recorder(self, algorithm, folder, timesteps, save_every)
            end = self.num_timesteps + timesteps
            with progress_bar(timesteps, "training", progress, "control step") as advance:
                try:
                    while self.num_timesteps < end:
                        recorder.before_rollout()
                        before = self.num_timesteps
                        result = algorithm.train()
                        sampled = result["env_runners"]
                        self.num_timesteps += int(sampled["num_env_steps_sampled"])
                        advance(self.num_timesteps - before)
                        recorder.after_rollout(result)
                        if stopped():
                            finished = False
                            break
                except KeyboardInterrupt:
                    finished = False
            recorder.close()
        if progress and recorder.last_return is not None:
            echo(f"training: mean return {recorder.last_return:.3g} in its last rollout")
        return finished

    @contextlib.contextmanager
    def _algorithm(self) -> Iterator[Any]:
        """Make RLlib's algorithm, or load it; end its processes after it."""
        logging.getLogger("ray.rllib").setLevel(logging.ERROR)
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        from .module import ActorCritic
        from .runner import Runner, record_end

        given = self._arguments
        config = (
            PPOConfig()
            # The prefix makes every process import optenv, which registers the id
            .environment(
                f"optenv:{self._env_id}",
                env_config=self._env_arguments,
                # As in Stable-Baselines3: draws of the normal distribution are clipped
                normalize_actions=False,
                clip_actions=True,
            )
            .env_runners(
                env_runner_cls=Runner,
                num_env_runners=self._num_workers,
                num_envs_per_env_runner=self._num_envs // self._num_workers,
                gym_env_vectorize_mode="vector_entry_point",
                rollout_fragment_length=given.fragment,
                sample_timeout_s=None,  # RLlib would drop rollouts that take a minute
            )
            .rl_module(
                rl_module_spec=RLModuleSpec(
                    module_class=ActorCritic, model_config=given.network
                )
            )
            .training(**given.training)
            .fault_tolerance(
                restart_failed_env_runners=True, delay_between_env_runner_restarts_s=1.0
            )
            .reporting(metrics_num_episodes_for_smoothing=self._num_envs)
            .callbacks(on_episode_end=record_end)
            # Other tasks than those that a resumed training began with
            .debugging(seed=self._seed + self.num_timesteps, log_level="ERROR")
        )
        algorithm = config.build_algo()
        try:
            if self._resume is not None:
                with _unpacked(self._resume) as path:
                    algorithm.restore_from_path(path / "checkpoint")
            yield algorithm
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)

    def save(self, algorithm: Any, path: Path) -> None:
        """Write ``model.zip`` in one step: RLlib's checkpoint, and where the training was."""
        note = {"engine": "rllib", "class": self._name, "num_timesteps": self.num_timesteps}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            algorithm.save_to_path(str(folder / "checkpoint"))
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(NOTE, json.dumps(note))
                for each in sorted(folder.rglob("*")):
                    archive.write(each, each.relative_to(folder))
        write_bytes(path, file.getvalue())

    def policy(self, module: Any, state: Mapping[str, Tensor]) -> Policy:
        """Return a module's policy with other parameters.

        Args:
            module: an :class:`agents.rl.rllib.module.ActorCritic`.
            state: its parameters by name.
        """
        weights = {
            name.removeprefix("actor."): value
            for name, value in state.items()
            if name.startswith("actor.")
        }
        actor = _like(module.actor, weights)
        lstm = None
        if module.memory:
            prefix = "lstms.actor."
            lstm = _like(
                module.lstms["actor"],
                {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)},
            )
        return build(
            self.described, join([actor]), lstm=lstm, algorithm=self._name,
            timesteps=self.num_timesteps, seed=self._seed,
        )  # fmt: skip


def _like(module: nn.Module, state: Mapping[str, Tensor]) -> Any:
    """Return a copy of a module with other parameters."""
    copied = copy.deepcopy(module)
    copied.load_state_dict(dict(state))
    return copied


class _Recorder:
    """Log the rollouts, save the model now and then, and average the late policies."""

    def __init__(
        self, model: RLlibModel, algorithm: Any, folder: Path, timesteps: int, save_every: int
    ) -> None:
        self._model, self._algorithm, self._folder = model, algorithm, folder
        self._save_every, self._begun = save_every, time.monotonic()
        self._started = model.num_timesteps
        self._next_save = model.num_timesteps + save_every
        self._average = TailAverage(timesteps, model.num_timesteps, running=True)
        self._logger = configure(str(folder / "tensorboard"), ["tensorboard"])
        self.last_return: float | None = None

    @property
    def _module(self) -> Any:
        return self._algorithm.learner_group._learner.module[MODULE].unwrapped()

    def before_rollout(self) -> None:
        """Take the policy into the average, and save it if it is time to."""
        model = self._model
        self._average.update(model.num_timesteps, self._module.state_dict().values())
        if model.num_timesteps >= self._next_save:
            self._next_save = model.num_timesteps + self._save_every
            model.save(self._algorithm, self._folder / "model.zip")
            self._export()

    def after_rollout(self, result: Mapping[str, Any]) -> None:
        """Log what RLlib reports of a rollout and of the updates after it."""
        model, sampled = self._model, result["env_runners"]
        seconds = time.monotonic() - self._begun
        logged = {"time/fps": (model.num_timesteps - self._started) / seconds}
        learned = result.get("learners", {}).get(MODULE, {})
        logged |= {
            f"train/{name}": float(value)
            for name, value in learned.items()
            if isinstance(value, int | float | np.number)
        }
        if sampled.get("num_episodes"):
            self.last_return = float(sampled["episode_return_mean"])
            losses = np.maximum(np.array(sampled["validation_loss"], float), 1e-12)
            logged |= {
                "rollout/ep_rew_mean": self.last_return,
                "rollout/ep_len_mean": float(sampled["episode_len_mean"]),
                "optenv/diverged": float(np.mean(sampled["diverged"])),
                "optenv/log_validation_loss": float(np.median(np.log(losses))),
            }
        logged["rollout/workers"] = self._algorithm.env_runner_group.num_healthy_remote_workers()
        for name, value in logged.items():
            self._logger.record(name, value)
        self._logger.dump(model.num_timesteps)

    def close(self) -> None:
        """Give the model the average of its late policies, and write model and policy."""
        if self._average.count:
            self._module.load_state_dict(self._averaged())
            self._algorithm.env_runner_group.sync_weights(
                from_worker_or_learner_group=self._algorithm.learner_group,
                inference_only=True,
            )
        self._model.save(self._algorithm, self._folder / "model.zip")
        self._export()
        self._logger.close()

    def _averaged(self) -> dict[str, Tensor]:
        """Return the parameters that the model would have if the training ended now."""
        state = self._module.state_dict()
        if not self._average.count:
            return dict(state)
        return dict(zip(state, self._average.mean(), strict=True))

    def _export(self) -> None:
        policy = self._model.policy(self._module, self._averaged())
        save_policy(policy, self._folder / "policy")


def check_model_file(path: Path, name: str) -> int:
    """Return the number of control steps after which a ``model.zip`` was written.

    Args:
        path: path of the file.
        name: ``"class"`` of the preset that is to go on.

    Raises:
        ValueError: the file is not a model of RLlib, or one of another class.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            note = json.loads(archive.read(NOTE))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"cannot go on with {str(path)!r}: it is no model of the engine rllib"
        ) from error
    if note["class"] != name:
        raise ValueError(
            f"cannot go on with {str(path)!r}: it is a model of {note['class']}, not {name}"
        )
    return int(note["num_timesteps"])


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Unpack an archive for the time within."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        yield Path(folder)
