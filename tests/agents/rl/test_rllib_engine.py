"""RLlib trains in several processes, survives the death of one, and exports its policy."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.policy.spec import observation_width
from agents.rl import factory
from agents.rl.rllib import checkpoint
from agents.rl.rllib.build import build_rllib
from agents.rl.rllib.model import RLlibModel
from agents.rl.rllib.recorder import Recorder, module_of
from agents.utils.ray_cluster import cluster
from tests.agents.rl.test_learning import SETTINGS, TEST, best_constant, returns

pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]

#: Runs of 4 control steps.
TINY = {
    "tasks": "quadratic", "horizon": 4, "updates_per_step": 2.0, "on_divergence": "absorb",
}  # fmt: skip
TRAIN = [name.removesuffix("/test") for name in TEST]


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    """Start one cluster for all tests of this file."""
    with cluster(3):
        yield


def tiny(agent: str, *, num_workers: int = 2, **changes: Any) -> RLlibModel:
    """Return a model whose rollouts are 8 runs."""
    steps = 12 if agent == "rl2" else 4
    changes = {"num_envs": 8, "seed": 0, "resume": None, **changes}
    config = factory.configuration(agent)
    overrides = {"n_steps": steps, "batch_size": 2 * steps, "n_epochs": 1}
    config |= {"num_envs": changes.pop("num_envs"), "copies": 1, "overrides": overrides}
    config["env_arguments"] = {**config["env_arguments"], **TINY}
    return build_rllib(agent, config, num_workers=num_workers, **changes)


@contextlib.contextmanager
def saved_module(path: Path) -> Iterator[Any]:
    """Load the module in a ``model.zip``."""
    with checkpoint._unpacked(path) as folder:
        inner = "learner_group/learner/rl_module/default_policy"
        yield RLModule.from_checkpoint(folder / checkpoint.CHECKPOINT / inner)


@pytest.mark.parametrize("agent", ["ppo", "ppo-rules", "rl2"])
def test_the_exported_policy_acts_as_the_module(agent: str, tmp_path: Path) -> None:
    model = tiny(agent, num_workers=1)
    assert model.learn(3 * model.unit, tmp_path, model.unit, progress=False)
    policy = load_policy(tmp_path / "policy")
    assert policy.description["timesteps"] == model.num_timesteps == 3 * model.unit
    width = observation_width(
        policy.description["features"], policy.action, policy.on_trials
    )
    memory, rng = policy.blank(5), np.random.default_rng(0)
    with saved_module(tmp_path / "model.zip") as module:
        state = {
            name: torch.zeros(5, len(value))
            for name, value in module.get_initial_state().items()
        }
        for _ in range(3):  # the memory is carried over
            seen = np.zeros((5, width), np.float32)
            seen[:, policy.columns] = rng.standard_normal((5, len(policy.columns)))
            given = torch.from_numpy(seen)
            rows = given.unsqueeze(1) if state else given  # with a time dimension
            out = module.forward_inference({Columns.OBS: rows, Columns.STATE_IN: state})
            logits, state = out[Columns.ACTION_DIST_INPUTS], out.get(Columns.STATE_OUT, {})
            logits = logits.reshape(5, -1)
            acted, memory = policy.remember(given, memory)
            if policy.action.is_index:
                assert torch.equal(acted, logits.argmax(1))
            else:
                means = logits[:, : acted.shape[1]].clip(-1, 1)
                torch.testing.assert_close(acted, means, rtol=0, atol=1e-6)


def test_processes_train_on_tasks_of_their_own_by_actions_as_drawn() -> None:
    with tiny("ppo").algorithm() as algorithm:
        group = algorithm.env_runner_group
        losses = group.foreach_env_runner(_first_losses, local_env_runner=False)
        found = group.foreach_env_runner(_drawn_and_sent, local_env_runner=False)
    assert len({loss for each in losses for loss in each}) == 8
    for drawn, sent in found:  # the environment gets clipped ones
        assert np.abs(drawn).max() > 1
        np.testing.assert_array_equal(drawn.clip(-1, 1), sent)


def _first_losses(runner: Any) -> list[float]:
    """Return the loss after the first control step of each run, in a process."""
    episodes = runner.sample(num_timesteps=runner.num_envs)
    return [float(episode.get_infos(1)["loss"]) for episode in episodes]


def _drawn_and_sent(runner: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the actions of episodes, and those that the environment got, in a process."""
    runner.module.log_std.data.fill_(1.0)
    sent, step = [], runner.env.step

    def noted(actions: np.ndarray) -> Any:
        sent.append(np.array(actions))
        return step(actions)

    runner.env.step = noted
    # A second sample would begin with the rows of resets, which have no actions
    episodes = runner.sample(num_timesteps=2 * runner.num_envs, force_reset=True)
    drawn = np.stack([episode.get_actions() for episode in episodes])
    return drawn, np.stack(sent, axis=1)


def test_one_seed_gives_one_policy(tmp_path: Path) -> None:
    found = []
    for name in "ab":
        model, folder = tiny("ppo"), tmp_path / name
        folder.mkdir()
        model.learn(2 * model.unit, folder, model.unit, progress=False)
        found.append(load_policy(folder / "policy").state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_training_is_resumed(tmp_path: Path) -> None:
    model = tiny("ppo", num_workers=1)
    path, folder = tmp_path / "model.zip", tmp_path / "resumed"
    model.learn(2 * model.unit, tmp_path, model.unit, progress=False)
    with saved_module(path) as module:
        before = {name: value.clone() for name, value in module.state_dict().items()}
    resumed = tiny("ppo", num_workers=1, resume=path)
    assert resumed.num_timesteps == 2 * resumed.unit
    with resumed.algorithm() as algorithm:
        loaded = module_of(algorithm).state_dict()
        assert all(torch.equal(loaded[name], before[name]) for name in before)
        _check_written_whole(algorithm, path)
    folder.mkdir()
    assert resumed.learn(resumed.unit, folder, resumed.unit, progress=False)
    assert load_policy(folder / "policy").description["timesteps"] == 3 * resumed.unit
    with pytest.raises(ValueError, match="it is a model of PPO, not RL2"):
        tiny("rl2", resume=path)


def _check_written_whole(algorithm: Any, path: Path) -> None:
    """Check that a checkpoint which is broken off leaves the former one."""
    before = path.read_bytes()
    names = {each.name for each in path.parent.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", _break_off)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(algorithm, path, name="PPO", num_timesteps=8)
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} == names
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _break_off(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_process_is_replaced_and_nothing_else_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("ppo", num_envs=64)
    sampled: list[int] = []
    workers: list[int] = []
    killed: list[int] = []
    before, after = Recorder.before_rollout, Recorder.after_rollout

    def pids(recorder: Recorder) -> list[int]:
        group = recorder._algorithm.env_runner_group
        return group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)

    def kill(recorder: Recorder) -> None:
        before(recorder)
        if len(sampled) == 2:
            killed.append(pids(recorder)[0])
            # While it samples
            threading.Timer(0.01, os.kill, (killed[0], signal.SIGKILL)).start()

    def note(recorder: Recorder, steps: int, result: Any) -> None:
        after(recorder, steps, result)
        sampled.append(int(result["env_runners"]["num_env_steps_sampled"]))
        group = recorder._algorithm.env_runner_group
        workers.append(group.num_healthy_remote_workers())
        if killed and workers[-1] == 2 and min(workers) == 1:
            living = pids(recorder)
            if len(living) == 2 and killed[0] not in living:
                raise KeyboardInterrupt  # all is seen

    monkeypatch.setattr(Recorder, "before_rollout", kill)
    monkeypatch.setattr(Recorder, "after_rollout", note)
    deadline = time.monotonic() + 120
    monkeypatch.setattr(
        "agents.rl.rllib.model.stopped", lambda: time.monotonic() > deadline
    )
    model.learn(10**9, tmp_path, 10**8, progress=False)
    assert time.monotonic() < deadline, (workers, sampled)
    assert min(workers) == 1 and workers[-1] == 2
    assert all(steps >= model.unit for steps in sampled)  # rollouts are complete
    assert model.num_timesteps == sum(sampled)
    assert load_policy(tmp_path / "policy").description["timesteps"] == sum(sampled)


@pytest.mark.training
def test_two_processes_learn_to_beat_the_best_constant_action(tmp_path: Path) -> None:
    env_id, base_lr = "optenv/DiscreteLearningRate-v0", (1e-4, 1e-1)
    config = factory.configuration("ppo-discrete")
    config |= {"num_envs": 128, "copies": 1}
    config["overrides"] = {"n_steps": 20, "batch_size": 512}
    config["env_arguments"] = {
        "tasks": TRAIN, "groups": 8, "base_lr": base_lr, **SETTINGS
    }  # fmt: skip
    model = build_rllib("ppo-discrete", config, num_workers=2)
    model.learn(40_960, tmp_path, 10_240, progress=False)
    policy = load_policy(tmp_path / "policy")
    learned = returns(env_id, base_lr, lambda o: policy(torch.from_numpy(o)).numpy())
    constant_returns = best_constant(env_id, base_lr)
    gain = learned - constant_returns
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    print(f"{learned.mean():.3f} against {constant_returns.mean():.3f}")
    assert gain.mean() - 1.96 * error > 0
