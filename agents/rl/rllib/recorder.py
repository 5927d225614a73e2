"""Logs and files of a training by RLlib, and the average of its late policies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import configure
from torch import Tensor

from ...policy.files import save_policy
from ...policy.module import Policy
from ...utils.averaging import TailAverage
from . import checkpoint

__all__ = ["Recorder", "module_of"]

#: Name that RLlib gives the one module of an algorithm.
MODULE = "default_policy"


def module_of(algorithm: Any) -> Any:
    """Return the module that an algorithm's learner trains, in this process."""
    return algorithm.learner_group._learner.module[MODULE].unwrapped()


class Recorder:
    """Log the rollouts, save the model at intervals, and average the late policies.

    Args:
        algorithm: algorithm of RLlib.
        folder: folder of model, policy and logs.
        name: ``"class"`` of the preset.
        start: number of control steps that the model has made before.
        timesteps: number of control steps of the training, over all runs.
        save_every: number of control steps from one saving to the next.
        make_policy: function of parameters by name and the number of control steps that
            returns the policy.

    Attributes:
        last_return: mean return of the runs that ended in the last rollout; None if none
            has.
    """

    def __init__(
        self,
        algorithm: Any,
        folder: Path,
        *,
        name: str,
        start: int,
        timesteps: int,
        save_every: int,
        make_policy: Callable[[Mapping[str, Tensor], int], Policy],
    ) -> None:
        self._algorithm, self._folder, self._name = algorithm, folder, name
        self._start, self._steps, self._save_every = start, start, save_every
        self._make_policy = make_policy
        self._next_save, self._begun = start + save_every, time.monotonic()
        self._average = TailAverage(timesteps, start, running=True)
        self._logger = configure(str(folder / "tensorboard"), ["tensorboard"])
        self.last_return: float | None = None

    def before_rollout(self) -> None:
        """Add the policy to the average, and write the files if they are due."""
        state = module_of(self._algorithm).state_dict()
        self._average.update(self._steps, state.values())
        if self._steps >= self._next_save:
            self._next_save = self._steps + self._save_every
            self._write()

    def after_rollout(self, num_timesteps: int, result: Mapping[str, Any]) -> None:
        """Log the results of a rollout and of the updates after it.

        Args:
            num_timesteps: number of control steps that the model has made.
            result: results of RLlib's iteration.
        """
        self._steps, sampled = num_timesteps, result["env_runners"]
        seconds = time.monotonic() - self._begun
        logged: dict[str, float] = {
            "time/fps": (num_timesteps - self._start) / seconds,
            "time/workers": self._algorithm.env_runner_group.num_healthy_remote_workers(),
        }
        logged |= {
            f"train/{name}": float(value)
            for name, value in result.get("learners", {}).get(MODULE, {}).items()
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
        for name, value in logged.items():
            self._logger.record(name, value)
        self._logger.dump(num_timesteps)

    def close(self) -> None:
        """Load the average of the late policies into the model, and write the files."""
        if self._average.count:
            module_of(self._algorithm).load_state_dict(self._averaged())
            self._algorithm.env_runner_group.sync_weights(
                from_worker_or_learner_group=self._algorithm.learner_group,
                inference_only=True,
            )
        self._write()
        self._logger.close()

    def _averaged(self) -> dict[str, Tensor]:
        """Return the parameters that the model would have if the training ended now."""
        state = module_of(self._algorithm).state_dict()
        if not self._average.count:
            return dict(state)
        return dict(zip(state, self._average.mean(), strict=True))

    def _write(self) -> None:
        """Write the model as it is, and the policy as if the training ended now."""
        checkpoint.save(
            self._algorithm, self._folder / "model.zip", name=self._name,
            num_timesteps=self._steps,
        )  # fmt: skip
        policy = self._make_policy(self._averaged(), self._steps)
        save_policy(policy, self._folder / "policy")
