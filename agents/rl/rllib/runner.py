"""Processes that step the environments, each with different seeds.

Importing this module needs Ray (extra ``ray``).
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import ray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.debug import update_global_seed_if_necessary

__all__ = ["ENDS", "Runner", "record_end"]

#: Entries of a run's last ``info`` that are logged.
ENDS = ("diverged", "validation_loss")


class Runner(SingleAgentEnvRunner):  # type: ignore[misc]
    """Env runner with different tasks than the other runners.

    RLlib gives runner ``i`` the seed ``seed + i``, and a batch of environments uses that
    seed and the following ones. Two successive runners would therefore share all tasks
    except one. Here, the seeds of a runner are drawn from the seed and the runner's number.
    A runner that replaces one that died draws new seeds.
    """

    def make_env(self) -> None:
        """Make the environments; the first reset takes the seed that is set here."""
        entropy = [self.config.seed or 0, self.worker_index or 0]
        if self.worker_index and _is_replacement():
            entropy.append(os.getpid())
        self._seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31)
        update_global_seed_if_necessary(self.config.framework_str, self._seed)
        super().make_env()


def _is_replacement() -> bool:
    """Return whether this actor was started because its process died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray calls a deprecated function of its own
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def record_end(*, episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Log divergence and validation loss of an ended run; a callback of RLlib."""
    info = episode.get_infos(-1)
    for name in ENDS:
        metrics_logger.log_value(name, float(info[name]), reduce="item_series")
