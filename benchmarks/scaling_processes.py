"""Several processes: RLlib against Stable-Baselines3, and the benchmark on Ray.

``python benchmarks/scaling.py --rllib`` and ``--ray`` measure with it (extra ``ray``).
"""

from __future__ import annotations

import contextlib
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from agents.evaluation.arms.select import require_packages, select_arms
from agents.evaluation.runs.jobs import Job, make_jobs
from agents.evaluation.runs.runner import run_jobs
from agents.evaluation.tasks.heldout import task_named
from agents.evaluation.tasks.suites import SUITES
from agents.rl import factory
from agents.rl.rllib.build import build_rllib
from agents.utils.job_engines import Engine
from agents.utils.ray_cluster import cluster
from optenv.tasks import MLP

__all__ = ["Arm", "engines", "measure_ray", "measure_rllib"]

#: Runs at once, and control steps of a rollout for each.
RUNS, STEPS = 256, 20
#: Updates of a control step: few, and as many as those of the preset ``default`` have on
#: average.
UPDATES = (10, 60)

#: Tasks of the benchmark that are run, and seeds.
TASKS, SEEDS = ("cancer", "diabetes", "friedman", "code-lstm"), 2


class Arm(NamedTuple):
    """Rounds of one engine.

    Attributes:
        seconds: wall-clock time of each rollout with the updates after it.
        sampling: CPU time of the processes that step environments, by control step.
        learning: CPU time of the process that learns, by control step; of
            Stable-Baselines3, everything.
        bytes: that a control step sends to the process that learns.
    """

    seconds: list[float]
    sampling: float
    learning: float
    bytes: float

    def rate(self) -> float:
        """Return control steps per second, over all runs."""
        return RUNS * STEPS / statistics.median(self.seconds)


def configuration(updates: int) -> dict[str, Any]:
    """Return PPO on runs of one structure, so that all rollouts cost the same."""
    config = factory.configuration("ppo", num_envs=RUNS, copies=1)
    task = MLP(batch_size=32, num_train=1024, inputs=64, outputs=10, width=32, depth=1)
    config["env_arguments"] |= {
        "tasks": task, "updates_per_step": updates, "horizon": STEPS, "reparametrize": 0.0,
        "rule": "adam",
    }  # fmt: skip
    config["overrides"] = {"n_steps": STEPS}
    return config


def engines(
    stack: contextlib.ExitStack, updates: int
) -> dict[str, tuple[Callable[[], Any], Any]]:
    """Start all engines; return what makes a rollout, and the algorithm of RLlib."""
    model = factory.build("ppo", configuration(updates), seed=0)
    size = RUNS * STEPS

    def rollout() -> None:
        model.learn(size, reset_num_timesteps=False)

    found: dict[str, tuple[Callable[[], Any], Any]] = {"SB3": (rollout, None)}
    for count in (1, 2):
        made = build_rllib("ppo", configuration(updates), num_workers=count)
        algorithm = stack.enter_context(made.algorithm())
        found[f"RLlib, {count}"] = (algorithm.train, algorithm)
    return found


def cpu_seconds(algorithm: Any) -> float:
    """Return the CPU time of the processes that step an algorithm's environments."""
    if algorithm is None:
        return 0.0
    group = algorithm.env_runner_group
    return sum(
        group.foreach_env_runner(lambda _: time.process_time(), local_env_runner=False)
    )


def sent_bytes(algorithm: Any) -> float:
    """Return the bytes that a control step sends to the process that learns."""
    if algorithm is None:
        return 0.0

    def size(runner: Any) -> tuple[int, int]:
        episodes = runner.sample(num_timesteps=4 * runner.num_envs)
        return len(pickle.dumps(episodes)), sum(map(len, episodes))

    sizes = algorithm.env_runner_group.foreach_env_runner(size, local_env_runner=False)
    return sum(each for each, _ in sizes) / sum(steps for _, steps in sizes)


def measure_rllib(rounds: int, updates: int) -> dict[str, Arm]:
    """Time Stable-Baselines3 and RLlib with one and two processes, in turns.

    Args:
        rounds: timed rollouts of each; one before them is not timed.
        updates: updates of a control step.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster(4))
        found = engines(stack, updates)
        seconds: dict[str, list[float]] = {name: [] for name in found}
        sampling, learning = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0.0)
        for i in range(rounds + 1):
            # Each second round the other way, so that no engine always follows another
            for name in list(found)[:: 1 if i % 2 else -1]:
                run, algorithm = found[name]
                before, begun = cpu_seconds(algorithm), time.perf_counter()
                own = time.process_time()
                run()
                if i == 0:
                    continue
                learning[name] += time.process_time() - own
                seconds[name].append(time.perf_counter() - begun)
                sampling[name] += cpu_seconds(algorithm) - before
        steps = RUNS * STEPS * rounds
        return {
            name: Arm(
                seconds[name], sampling[name] / steps, learning[name] / steps,
                sent_bytes(found[name][1]),
            )
            for name in found
        }  # fmt: skip


def jobs() -> list[Job]:
    """Return the runs of the benchmark that are timed."""
    tasks = [task_named(name, SUITES["benchmark"]) for name in TASKS]
    arms = select_arms(()).untuned
    require_packages(arms)
    return list(make_jobs(arms, tasks, range(SEEDS)))


def measure_ray(rounds: int) -> tuple[dict[str, list[float]], dict[str, float], int]:
    """Time the same runs in two processes of this machine, and in two of Ray, in turns.

    Args:
        rounds: timed rounds of each; one before them is not timed.

    Returns:
        Wall-clock seconds of each round by engine, those that starting took, and the
        number of runs of a round.
    """
    todo = jobs()
    with contextlib.ExitStack() as stack:
        pools, starts = {}, {}
        for name in ("processes", "ray"):
            begun = time.perf_counter()
            pools[name] = stack.enter_context(contextlib.closing(Engine(name).start(2)))
            run_jobs(todo[:2], pools[name], lambda job, row: None)
            starts[name] = time.perf_counter() - begun
        seconds: dict[str, list[float]] = {name: [] for name in pools}
        for i in range(rounds + 1):
            for name in list(pools)[:: 1 if i % 2 else -1]:
                begun = time.perf_counter()
                run_jobs(todo, pools[name], lambda job, row: None)
                if i:
                    seconds[name].append(time.perf_counter() - begun)
    return seconds, starts, len(todo)
