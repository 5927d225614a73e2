"""A training by RLlib: the counterpart of a model of Stable-Baselines3.

Ray is imported when the training begins (extra ``ray``).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from optenv import actions
from optenv.checks import known

from ...policy.build import build
from ...policy.layers import join
from ...policy.module import Policy
from ...utils.progress import echo, progress_bar
from ...utils.ray_cluster import check_ray, cluster
from ...utils.workers import stopped
from ..export import check_reward
from . import checkpoint
from .arguments import translate
from .recorder import Recorder, module_of

__all__ = ["AGENTS", "RLlibModel"]

#: Classes of presets that RLlib can train; True if they have a memory.
AGENTS = {"PPO": False, "RL2": True}


class RLlibModel:
    """PPO or RL² of RLlib, with environments in several processes.

    Args:
        name: ``"class"`` of the preset, one of :data:`AGENTS`.
        env_id: id of the environment.
        env_arguments: arguments of the environment.
        described: ``describe()`` of the environment.
        num_envs: number of runs at once, a multiple of ``num_workers``.
        arguments: arguments of the algorithm, see
            :func:`agents.rl.rllib.arguments.translate`.
        num_workers: number of processes that step environments.
        address: address of a running Ray cluster; None starts one on this machine.
        seed: seed of the algorithm and of the environments.
        resume: ``model.zip`` to continue from.

    Attributes:
        num_timesteps: number of control steps made so far, over all runs.
        unit: number of control steps in a rollout, over all runs.
        described: ``describe()`` of the environment.

    Raises:
        ImportError: Ray is not installed.
        TypeError, ValueError: see :func:`agents.rl.rllib.arguments.translate`; or RLlib
            does not support the preset, its actions or the number of processes.
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
        action = actions.make(described["action"])
        if action.not_exported:
            raise ValueError(f"{action.not_exported} (action {action.kind!r})")
        if action.per_tensor:
            raise ValueError(
                f"RLlib cannot train action {action.kind!r}, which is on single tensors; "
                "give --engine sb3"
            )
        check_reward(described)
        self._name, self._env_id, self.described = name, env_id, dict(described)
        self._env_arguments, self._num_envs = dict(env_arguments), num_envs
        self._num_workers, self._address, self._seed = num_workers, address, seed
        self._arguments = translate(arguments, num_envs, recurrent=AGENTS[name])
        self._resume = resume
        self.num_timesteps = 0 if resume is None else checkpoint.steps_of(resume, name)
        self.unit = self._arguments.rollout

    def learn(
        self, timesteps: int, folder: Path, save_every: int, *, progress: bool
    ) -> bool:
        """Train, and write model and policy; see :func:`agents.rl.training.learn`.

        If a process dies, it is replaced, and the others complete its rollout.

        Returns:
            True if the training is complete, False if the user interrupted it.
        """
        end, finished = self.num_timesteps + timesteps, False
        with cluster(self._num_workers + 1, self._address), self.algorithm() as algorithm:
            recorder = Recorder(
                algorithm, folder, name=self._name, start=self.num_timesteps,
                timesteps=timesteps, save_every=save_every,
                make_policy=lambda state, steps: self._policy(algorithm, state, steps),
            )  # fmt: skip
            with (
                progress_bar(timesteps, "training", progress, "control step") as advance,
                contextlib.suppress(KeyboardInterrupt),
            ):
                while self.num_timesteps < end and not stopped():
                    recorder.before_rollout()
                    result = algorithm.train()
                    made = int(result["env_runners"]["num_env_steps_sampled"])
                    self.num_timesteps += made
                    advance(made)
                    recorder.after_rollout(self.num_timesteps, result)
                finished = self.num_timesteps >= end
            recorder.close()
        if progress and recorder.last_return is not None:
            echo(f"training: mean return {recorder.last_return:.3g} in its last rollouts")
        return finished

    @contextlib.contextmanager
    def algorithm(self) -> Iterator[Any]:
        """Make or load RLlib's algorithm; its processes end with the context."""
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
                checkpoint.restore(algorithm, self._resume)
            yield algorithm
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # it is empty

    def _policy(self, algorithm: Any, state: Mapping[str, Tensor], steps: int) -> Policy:
        """Return the policy of the algorithm's module with other parameters.

        Args:
            algorithm: algorithm of RLlib.
            state: parameters of the module, by name.
            steps: number of control steps of the training so far.
        """
        module = copy.deepcopy(module_of(algorithm))
        module.load_state_dict(dict(state))
        lstm: nn.LSTM | None = module.lstms["actor"] if module.memory else None
        return build(
            self.described, join([module.actor]), lstm=lstm, algorithm=self._name,
            timesteps=steps, seed=self._seed,
        )  # fmt: skip
