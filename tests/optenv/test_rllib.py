"""RLlib's new API stack samples batches without losing or repeating transitions."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import optenv
from tests.helpers.example_process import ROOT, check_trained, output
from tests.helpers.small_runs import ENV_IDS, MLP, assert_same

pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import unsquash_action

pytestmark = pytest.mark.frameworks
HORIZON, RUNS, SEED = 4, 5, 7
# float64: a batch and single environments round differently. Some runs diverge, and so
# end early: episodes of the same batch begin at different times.
SHORT = {
    "tasks": MLP, "base_lr": (1e-2, 1e3),
    "horizon": HORIZON, "updates_per_step": 3, "dtype": "float64",
}  # fmt: skip
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}


def make_runner(
    env_id: str, **arguments: Any
) -> tuple[SingleAgentEnvRunner, dict[str, int]]:
    """Make a runner in this process, and a map from its episodes to runs of the batch."""
    rows: dict[str, int] = {}

    def created(*, episode: SingleAgentEpisode, env_index: int, **_: Any) -> None:
        rows[episode.id_] = env_index

    config = (
        PPOConfig()
        .environment(f"optenv:{env_id}", env_config={**SHORT, **arguments})
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=RUNS,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .callbacks(on_episode_created=created)
        .debugging(seed=SEED)
    )
    return SingleAgentEnvRunner(config=config), rows


def replayed(chunks: list[SingleAgentEpisode], env: gym.Env, seed: int) -> list[float]:
    """Step ``env`` by hand with the actions of episodes, some of which are cut.

    Asserts that observations, rewards and ends are equal. Returns the returns of the whole
    episodes.
    """
    observation, _ = env.reset(seed=seed)
    total, returns = 0.0, []
    for chunk in chunks:
        seen = chunk.get_observations()
        assert_same(seen[0], observation, **TOLERANCE)
        for after, action, reward in zip(
            seen[1:], chunk.get_actions(), chunk.get_rewards(), strict=True
        ):
            # Stored are the policy's draws, before RLlib rounds them to the space.
            sent = unsquash_action(action, env.action_space)
            if isinstance(env.action_space, gym.spaces.Box):
                np.testing.assert_allclose(sent, action.clip(-1, 1), atol=1e-6)
            observation, expected, ended, _, _ = env.step(sent)
            total += expected
            assert_same(after, observation, **TOLERANCE)
            assert reward == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert chunk.is_terminated == ended
        if ended:
            observation, _ = env.reset()
            returns.append(total)
            total = 0.0
    return returns


@pytest.mark.parametrize("random_actions", [True, False], ids=["random", "of the policy"])
@pytest.mark.parametrize("env_id", [*ENV_IDS, *optenv.TRIALS])
def test_episodes_equal_those_of_environments_stepped_by_hand(
    env_id: str, random_actions: bool
) -> None:
    runner, rows = make_runner(env_id)
    chunks = [
        chunk
        for _ in range(3)  # a cut episode continues in the next sample
        for chunk in runner.sample(num_timesteps=66, random_actions=random_actions)
    ]
    returns: list[float] = []
    for row in range(RUNS):
        own = [chunk for chunk in chunks if rows[chunk.id_] == row]
        returns += replayed(own, gym.make(env_id, **SHORT), SEED + row)
    metrics = runner.get_metrics()
    assert metrics["num_episodes"].peek() == len(returns) >= 2 * RUNS
    mean = np.mean(returns)
    assert metrics["episode_return_mean"].peek() == pytest.approx(mean, rel=1e-6)
    assert metrics["episode_len_max"].peek() > metrics["episode_len_min"].peek()


def test_absorbed_runs_are_whole_episodes() -> None:
    runner, _ = make_runner(ENV_IDS[0], on_divergence="absorb")
    episodes = runner.sample(num_episodes=3 * RUNS, random_actions=True)
    assert [len(episode) for episode in episodes] == [HORIZON] * 3 * RUNS
    assert all(episode.is_terminated for episode in episodes)


def processes(variable: str) -> list[str]:
    """Return the commands of processes that have ``variable`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_text(errors="replace").split("\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or must not be read
            continue
    return found


@pytest.mark.slow
def test_the_example_learns_and_leaves_no_process(tmp_path: Path) -> None:
    home = str(tmp_path)  # where Ray leaves folders
    printed = output(ROOT / "examples" / "with_rllib.py", tmp_path, HOME=home)
    lines = re.findall(r"iteration \d+: (\d+) episodes, mean return (-?[\d.]+)\n", printed)
    episodes, returns = np.array(lines, float).T
    assert (episodes == 64).all() and len(returns) == 10
    assert returns[-3:].mean() > returns[0] + 0.8
    check_trained(printed, tmp_path)
    deadline = time.monotonic() + 10
    while (left := processes(f"HOME={home}")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
