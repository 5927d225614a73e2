"""Recorders: one row for each control step, in every mode, and data sets made of them."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import optenv
from optenv import recording
from optenv.recording import Recorder, VectorRecorder
from optenv.recording.columns import observation_names
from optenv.recording.parquet import ParquetFile, array

SMALL = {"tasks": "logistic", "horizon": 3, "updates_per_step": 2}
MODES = list(AutoresetMode)


def run(env, actions, mode=None):
    """Step a batch with given actions, resetting what DISABLED leaves to the caller."""
    env.reset(seed=5)
    for action in actions:
        ended = env.step(action)[2]
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})


def record(path, env_id="optenv/LearningRate-v0", num_envs=3, steps=8, **arguments):
    """Record a batch with random actions; return its table as columns of lists."""
    batch = gym.make_vec(env_id, num_envs, **{**SMALL, **arguments})
    env = VectorRecorder(batch, path)
    env.action_space.seed(1)
    mode = batch.metadata["autoreset_mode"]
    run(env, [env.action_space.sample() for _ in range(steps)], mode)
    env.close()
    return recording.read(path).to_pydict()


# Rows


@pytest.mark.parametrize("vectorization", ["vector_entry_point", "sync"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_each_control_step_has_one_row_in_every_autoreset_mode(
    mode, vectorization, tmp_path
):
    given = {"autoreset_mode": mode}
    if vectorization == "sync":
        given = {"vector_kwargs": given}
    rows = record(
        tmp_path / "r.parquet", vectorization_mode=vectorization, steps=8, **given
    )
    # Runs of 3 steps: in NEXT_STEP mode, steps 4 and 8 only reset.
    steps = 6 if mode is AutoresetMode.NEXT_STEP else 8
    assert len(rows["step"]) == 3 * steps
    expected = [i % 3 for i in range(steps) for _ in range(3)]
    assert rows["step"] == expected and set(rows["steps"]) == {3}
    assert rows["env"] == [0, 1, 2] * steps
    assert rows["episode"] == [3 * (i // 3) + e for i in range(steps) for e in range(3)]
    assert rows["seed"] == [5, 6, 7] * steps
    assert rows["resets"] == [i // 3 for i in range(steps) for _ in range(3)]
    ends = [step == 2 for step in expected]
    assert rows["terminated"] == rows["run_ended"] == ends
    for name in ("validation_loss", "work", "final_observation"):
        assert [value is not None for value in rows[name]] == ends, name
    assert None not in rows["loss"] and None not in rows["initial_loss"]
    assert min(rows["agent_seconds"]) > 0 and min(rows["env_seconds"]) > 0


def test_all_ways_to_record_the_same_runs_give_the_same_rows(tmp_path):
    kept = ("reward", "loss", "lr", "step", "initial_loss", "structure", "validation_loss")
    fixed = {**SMALL, "tasks": optenv.tasks.MLP(), "dtype": "float64"}

    def first_episodes(rows):
        index = [i for i, episode in enumerate(rows["episode"]) if episode < 3]
        names = [*kept, *(n for n in rows if n.startswith(("action.", "observation.")))]
        found = {name: [rows[name][i] for i in index] for name in names}
        finals = [rows["final_observation"][i] for i in index]
        return found | {"final": [row for row in finals if row is not None]}

    tables = [
        first_episodes(
            record(tmp_path / f"{mode.name}.parquet", autoreset_mode=mode, **fixed)
        )
        for mode in MODES
    ]
    assert tables[0] == tables[1] == tables[2]
    # Each run alone, with its column of the actions
    actions = np.array(tables[0]["action.learning_rate"], float).reshape(3, 3)
    for i in range(3):
        path = tmp_path / f"single{i}.parquet"
        with Recorder(gym.make("optenv/LearningRate-v0", **fixed), path) as env:
            env.reset(seed=5 + i)
            for action in actions[:, i]:
                env.step(np.array([action]))
        alone = first_episodes(recording.read(path).to_pydict())
        for name in alone.keys() - {"structure"}:  # equal but for rounding
            expected = np.array(tables[0][name][i::3], float)
            np.testing.assert_allclose(np.array(alone[name], float), expected, atol=1e-6)
        assert alone["structure"] == tables[0]["structure"][i::3]


def test_recorded_values_are_those_that_pass_the_wrapper(tmp_path):
    env = Recorder(gym.make("optenv/Hyperparameters-v0", **SMALL), tmp_path / "r.parquet")
    observation, first = env.reset(seed=0)
    seen, acted, said = [observation], [], []
    for _ in range(3):
        acted.append(env.action_space.sample())
        observation, *_, info = env.step(acted[-1])
        seen.append(observation)
        said.append(info)
    env.close()
    table = recording.read(tmp_path / "r.parquet")
    names = [n for n in table.column_names if n.startswith("observation.")]
    found = np.stack([table[name].to_numpy() for name in names], 1)
    np.testing.assert_array_equal(found, np.stack(seen[:-1]))
    assert names[:2] == ["observation.progress", "observation.elapsed"]
    assert names[-1] == "observation.last.average"
    np.testing.assert_array_equal(table["action.beta2"], [a[2] for a in acted])
    assert table["loss"].to_pylist() == [info["loss"] for info in said]
    assert table["structure"].to_pylist() == [first["structure"]] * 3
    np.testing.assert_array_equal(table["final_observation"][2].as_py(), seen[-1])
    described = recording.describe(tmp_path / "r.parquet")
    assert described["id"] == "optenv/Hyperparameters-v0" and described["label"] == "r"
    expected = json.loads(json.dumps(env.unwrapped.describe()))
    assert described["description"] == expected


def test_runs_of_a_trial_are_told_apart(tmp_path):
    env_id = "optenv/DiscreteLearningRateTrial-v0"
    rows = record(tmp_path / "r.parquet", env_id, num_envs=2, steps=6, runs=2)
    assert rows["run"] == [0] * 6 + [1] * 6
    assert rows["step"] == [0, 0, 1, 1, 2, 2] * 2 and set(rows["steps"]) == {3}
    assert rows["run_ended"] == [step == 2 for step in rows["step"]]
    assert rows["terminated"] == [False] * 10 + [True] * 2
    # The info of the reset is about the first run; that of later ones comes at their ends.
    known = [value is not None for value in rows["initial_loss"]]
    assert known == [True] * 6 + [False] * 4 + [True] * 2
    assert rows["initial_loss"][0] != rows["initial_loss"][-2]
    assert rows["family"] == ["logistic"] * 12
    assert "observation.previous_reward" in rows and set(rows["action.index"]) <= {
        *range(7)
    }


def test_every_environment_has_names_for_all_columns():
    for env_id in [*optenv.ENVIRONMENTS, *optenv.TRIALS]:
        batch = gym.make_vec(env_id, 1, **SMALL)
        width = batch.single_observation_space.shape[0]
        names = observation_names(batch.describe(), width)
        assert len(set(names)) == width, env_id
        assert not [name for name in names if name.startswith("entry_")], env_id


# Files


def test_the_file_appears_as_a_whole_and_replaces_none(tmp_path):
    path = tmp_path / "r.parquet"
    env = Recorder(gym.make("optenv/LearningRate-v0", **SMALL), path)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    assert not path.exists()
    env.close()
    env.close()
    assert [each.name for each in tmp_path.iterdir()] == ["r.parquet"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        Recorder(gym.make("optenv/LearningRate-v0", **SMALL), path)
    Recorder(gym.make("optenv/LearningRate-v0", **SMALL), path, overwrite=True).close()
    assert recording.read(path).num_rows == 0 and list(recording.episodes(path)) == []


def test_rows_are_flushed_in_groups_which_may_bring_new_columns(tmp_path):
    file = ParquetFile(tmp_path / "r.parquet", {}, overwrite=False)
    file.write({"a": array(np.arange(2))})
    file.write({"a": array(np.arange(2) / 2), "b": array(np.array(["x", None], object))})
    file.write({"b": array(np.array([{}, 3], object))})
    file.close()
    assert recording.read(tmp_path / "r.parquet").to_pydict() == {
        "a": [0.0, 1.0, 0.0, 0.5, None, None],
        "b": [None, None, "x", None, "{}", "3"],
    }
    assert len(list(tmp_path.iterdir())) == 1


def test_long_recordings_are_written_before_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr("optenv.recording.tape.GROUP_ROWS", (4, 4))
    rows = record(tmp_path / "r.parquet", steps=8)
    import pyarrow.parquet

    assert pyarrow.parquet.ParquetFile(tmp_path / "r.parquet").num_row_groups == 3
    monkeypatch.undo()
    whole = record(tmp_path / "whole.parquet", steps=8)
    times = ("agent_seconds", "env_seconds")
    assert rows.keys() == whole.keys()
    assert all(rows[name] == whole[name] for name in rows if name not in times)


# Refusals


def test_what_cannot_be_recorded_is_refused(tmp_path):
    path = tmp_path / "r.parquet"
    single = gym.make("optenv/LearningRate-v0", **SMALL)
    batch = gym.make_vec("optenv/LearningRate-v0", 2, **SMALL)
    with pytest.raises(TypeError, match="VectorRecorder records a batch"):
        Recorder(batch, path)
    with pytest.raises(TypeError, match="needs a batch of make_vec"):
        VectorRecorder(single, path)
    with pytest.raises(TypeError, match="needs an environment of optenv"):
        Recorder(gym.make("CartPole-v1"), path)
    with pytest.raises(TypeError, match="environments of optenv"):
        VectorRecorder(gym.make_vec("CartPole-v1", 2), path)
    stacked = gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(single, 2))
    with pytest.raises(ValueError, match="other wrappers around the recorder"):
        Recorder(stacked, path)
    layers = {"kind": "layerwise", "tensors": 4}
    tensors = gym.make_vec("optenv/LayerwiseLearningRate-v0", 2, **SMALL, action=layers)
    with pytest.raises(ValueError, match="put it around"):
        VectorRecorder(optenv.PerTensor(tensors), path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        Recorder(single, tmp_path / "missing" / "r.parquet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(ValueError, match="is no Parquet file"):
        recording.read(tmp_path / "text")
    record(path)
    with pytest.raises(ValueError, match="no column 'rewards'; did you mean 'reward'"):
        recording.read(path, ["rewards"])
    assert recording.read(path, ["reward", "action.learning_rate"]).num_columns == 2


# Stable-Baselines3


def test_a_recorded_batch_trains_and_exports_under_stable_baselines3(tmp_path):
    from stable_baselines3 import PPO

    from agents import export_policy
    from optenv.sb3 import SB3VecEnv

    batch = gym.make_vec(
        "optenv/LearningRate-v0", 4, autoreset_mode=AutoresetMode.DISABLED, **SMALL
    )
    env = VectorRecorder(batch, tmp_path / "r.parquet", label="PPO")
    model = PPO("MlpPolicy", SB3VecEnv(env), n_steps=6, batch_size=24, n_epochs=1)
    model.learn(24)
    export_policy(model, tmp_path / "policy")
    env.close()
    rows = recording.read(tmp_path / "r.parquet").to_pydict()
    assert rows["step"] == [i % 3 for i in range(6) for _ in range(4)]


# Data sets


def test_episodes_end_with_their_final_observation_and_cut_ones_lose_a_step(tmp_path):
    rows = record(tmp_path / "r.parquet", num_envs=2, steps=6)  # 3 steps, a reset, 2 steps
    episodes = list(recording.episodes(tmp_path / "r.parquet"))
    assert [len(each.rewards) for each in episodes] == [3, 3, 1, 1]
    assert [each.seed for each in episodes] == [5, 6, None, None]
    for i, each in enumerate(episodes):
        assert len(each.observations) == len(each.rewards) + 1
        index = [j for j, episode in enumerate(rows["episode"]) if episode == i]
        assert each.observations[1][0] == rows["observation.progress"][index[1]]
        assert (
            each.rewards.tolist() == [rows["reward"][j] for j in index][: len(each.rewards)]
        )
        ended = i < 2
        assert (each.terminated[-1], each.truncated[-1]) == (ended, not ended)
        if ended:
            final = rows["final_observation"][index[-1]]
            assert each.observations[-1].tolist() == final


@pytest.mark.parametrize("env_id", ["optenv/LearningRate-v0", "optenv/UpdateRule-v0"])
def test_a_recording_becomes_a_data_set_of_minari(env_id, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    record(tmp_path / "a.parquet", env_id, steps=3)
    record(tmp_path / "b.parquet", env_id, steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # minari's, on authors that are not named
        made = recording.to_minari(
            [tmp_path / "a.parquet", tmp_path / "b.parquet"], "optenv/test-v0"
        )
        import minari

        loaded = minari.load_dataset("optenv/test-v0")
        env = loaded.recover_environment()
    assert made.total_episodes == loaded.total_episodes == 6 and loaded.total_steps == 18
    expected = list(recording.episodes(tmp_path / "a.parquet"))
    for ours, theirs in zip(expected, loaded.iterate_episodes(), strict=False):
        np.testing.assert_array_equal(ours.observations, theirs.observations)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_allclose(ours.rewards, theirs.rewards)
    env.reset(seed=0)
    assert env.unwrapped.num_steps == 3
    assert env.observation_space == loaded.observation_space
    assert env.action_space == loaded.action_space


def test_a_data_set_needs_recordings_of_one_environment(tmp_path):
    record(tmp_path / "a.parquet", steps=1)
    record(tmp_path / "b.parquet", "optenv/UpdateRule-v0", steps=3)
    with pytest.raises(ValueError, match="has id 'optenv/UpdateRule-v0', and"):
        recording.to_minari([tmp_path / "a.parquet", tmp_path / "b.parquet"], "x-v0")
    with pytest.raises(ValueError, match="no episode of two or more steps"):
        recording.to_minari(tmp_path / "a.parquet", "x-v0")
    with pytest.raises(ValueError, match="at least one recording"):
        recording.to_minari([], "x-v0")


def test_a_recorded_environment_keeps_a_spec_that_is_json(tmp_path):
    env = Recorder(gym.make("optenv/LearningRate-v0", **SMALL), tmp_path / "r.parquet")
    wrappers = json.loads(env.spec.to_json())["additional_wrappers"]
    assert wrappers[-1]["name"] == "Recorder"
    env.close()
