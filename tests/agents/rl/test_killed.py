"""A training that is killed, or fills the disk, leaves a model to resume and a policy."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from agents import load_policy
from agents.rl import factory, rollouts, training
from agents.rl.presets import PRESETS
from optenv import atomic
from tests.helpers.cli import SCRIPT, invoke
from tests.helpers.damage import full_at

RUNS = {"tasks": "quadratic", "updates_per_step": 2, "horizon": 6}
TINY = [
    "--num-envs", "8", "--no-evaluate", "--no-progress", "--set", "n_epochs=1",
    "--set", "n_steps=6",
    *(word for name, value in RUNS.items() for word in ("--env-arg", f"{name}={value}")),
]  # fmt: skip
ROLLOUT = 8 * 6


def model_of(agent, copies, **overrides):
    arguments = {**PRESETS[agent]["env"], **RUNS}
    config = factory.configuration(
        agent, env_arguments=arguments, num_envs=8, copies=copies, overrides=overrides
    )
    return factory.build(agent, config, seed=0)


def attributes(folder):
    return load_from_zip_file(folder / "model.zip")[0]


FAST_DQN = {"learning_starts": 8, "gradient_steps": 1, "buffer_size": 1000}
SHORT_PPO = {"n_steps": 20, "n_epochs": 1}


@pytest.mark.parametrize(
    ("agent", "copies", "overrides", "total"),
    [
        ("ppo", 1, SHORT_PPO, 200),
        ("ppo", 1, SHORT_PPO, 16),
        ("ppo", 4, {"n_steps": 6, "n_epochs": 1}, 5 * ROLLOUT),
        ("rl2", 1, SHORT_PPO, 200),
        ("dqn", 4, {**FAST_DQN, "train_freq": 3}, 200),
        ("dqn", 1, {**FAST_DQN, "train_freq": 3}, 200),
    ],
)
def test_a_training_ends_at_the_control_steps_asked_for(
    agent, copies, overrides, total, tmp_path
):
    model = model_of(agent, copies, **overrides)
    settings = model.__dict__.get("n_steps"), model.__dict__.get("train_freq")
    assert training.learn(model, total, tmp_path, progress=False, save_every=50)
    assert model.num_timesteps == total
    assert (model.__dict__.get("n_steps"), model.__dict__.get("train_freq")) == settings
    saved = attributes(tmp_path)
    assert (saved.get("n_steps"), saved.get("train_freq")) == settings
    assert load_policy(tmp_path / "policy").description["timesteps"] == total


def test_whole_runs_are_rounded_up_to_and_single_runs_are_not():
    whole = model_of("ppo", 4, n_steps=6)
    assert rollouts.rounded(whole, ROLLOUT) == ROLLOUT
    assert rollouts.rounded(whole, ROLLOUT + 1) == 2 * ROLLOUT
    single = model_of("ppo", 1, n_steps=6)
    assert rollouts.rounded(single, ROLLOUT + 1) == ROLLOUT + 8


def test_a_rounded_number_of_control_steps_is_said_before_the_training(tmp_path):
    done = invoke(*TINY, "--timesteps", 50, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert "it makes 48 control steps at a time, and so ends at 96" in done.output
    assert attributes(tmp_path / "a")["num_timesteps"] == 96


def test_an_interrupt_within_a_rollout_takes_back_the_steps_not_learned_from(
    tmp_path, monkeypatch
):
    step = training._Recorder._on_step

    def interrupt(recorder):
        if recorder.num_timesteps == 2 * ROLLOUT + 16:
            raise KeyboardInterrupt
        return step(recorder)

    monkeypatch.setattr(training._Recorder, "_on_step", interrupt)
    model = model_of("ppo", 4, n_steps=6, n_epochs=1)
    assert not training.learn(model, 5 * ROLLOUT, tmp_path, progress=False)
    assert attributes(tmp_path)["num_timesteps"] == 2 * ROLLOUT


def test_checkpoints_do_not_change_the_training(tmp_path):
    policies = []
    for i, save_every in enumerate((1, 10_000)):
        model = model_of("ppo", 4, n_steps=6, n_epochs=1)
        folder = tmp_path / str(i)
        folder.mkdir()
        training.learn(model, 4 * ROLLOUT, folder, progress=False, save_every=save_every)
        policies.append(load_policy(folder / "policy"))
    assert policies[0].fingerprint() == policies[1].fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "dqn", "unrolled-lr"])
def test_a_checkpointed_policy_is_that_of_a_training_ending_there(
    agent, tmp_path, monkeypatch
):
    overrides = {
        "ppo": {"n_steps": 6, "n_epochs": 1},
        "dqn": {**FAST_DQN, "train_freq": 6},
        "unrolled-lr": {},
    }[agent]
    exported, model_class = training.export_policy, training.UnrolledLR
    saved, written, at = model_class.save, [], 9 * ROLLOUT

    def noting(write, interrupts):
        def write_and_note(model, path):
            write(model, path)
            if model.num_timesteps == at:
                written.append(load_policy(path).fingerprint())
                if interrupts and len(written) == 2:
                    raise KeyboardInterrupt

        return write_and_note

    for interrupts in (False, True):
        monkeypatch.setattr(training, "export_policy", noting(exported, interrupts))
        monkeypatch.setattr(model_class, "save", noting(saved, interrupts))
        model = model_of(agent, 4, **overrides)
        folder = tmp_path / str(interrupts)
        folder.mkdir()
        ended = training.learn(model, 10 * ROLLOUT, folder, progress=False, save_every=1)
        assert ended != interrupts
    # The checkpoint, the same one again, and the end of the training interrupted there
    assert len(written) == 3 and len(set(written)) == 1


@pytest.mark.parametrize("unit", [(1, "episode"), TrainFreq(2, TrainFrequencyUnit.EPISODE)])
def test_rollouts_counted_in_episodes_are_refused(unit):
    with pytest.raises(ValueError, match="train_freq must be a number of control steps"):
        model_of("dqn", 1, **{**FAST_DQN, "train_freq": unit})
    assert model_of("dqn", 1, **{**FAST_DQN, "train_freq": (3, "step")}) is not None


def test_a_full_disk_is_one_line_and_leaves_the_last_good_files(tmp_path, monkeypatch):
    write, writes = atomic.write_bytes, []

    def fills_up(path, data):
        writes.append(path)
        if len(writes) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    monkeypatch.setattr(training, "write_bytes", fills_up)
    out = tmp_path / "a"
    done = invoke(*TINY, "--timesteps", 10 * ROLLOUT, "--save-every", ROLLOUT, "--out", out)
    assert done.exit_code == 1
    last = done.output.strip().splitlines()[-1]
    assert f"Error: {out / 'model.zip'} cannot be written: No space left" in last
    assert attributes(out)["num_timesteps"] == 2 * ROLLOUT
    assert load_policy(out / "policy").description["timesteps"] == 2 * ROLLOUT
    assert not list(out.glob(".*")) and f"--resume {out} goes on" in last
    # Once there is space, it ends as if there always had been
    monkeypatch.undo()
    assert invoke("--resume", out).exit_code == 0
    whole = tmp_path / "whole"
    invoke(*TINY, "--timesteps", 10 * ROLLOUT, "--save-every", ROLLOUT, "--out", whole)
    found, expected = ((each / "policy.safetensors").read_bytes() for each in (out, whole))
    assert found == expected


@pytest.mark.parametrize(
    ("full", "size"), [("config.json", 300), ("policy.safetensors", 5000)]
)
def test_the_first_file_that_is_too_large_for_the_disk_is_named(full, size, tmp_path):
    out = tmp_path / "a"
    with full_at(size):
        done = invoke(*TINY, "--timesteps", ROLLOUT, "--out", out)
    assert done.exit_code == 1
    assert f"Error: {out / full} cannot be written: File too large" in done.output
    assert not (out / full).exists() and not list(out.glob(".*"))


@pytest.mark.slow
def test_a_full_disk_of_candidates_is_one_line_and_leaves_no_half_file(tmp_path):
    out = tmp_path / "a"
    arguments = [
        *TINY, "--timesteps", 4 * ROLLOUT, "--save-every", ROLLOUT, "--candidates", 2,
        "--members", 1, "--workers", 2, "--out", out,
    ]  # fmt: skip
    with full_at(50_000):  # of their processes as well
        done = invoke(*arguments)
    assert done.exit_code == 1, done.output
    last = done.output.strip().splitlines()[-1]
    assert "Error: " in last and "model.zip cannot be written: File too large" in last
    assert "candidate-" in last and f"--resume {out} goes on" in last
    assert not list(out.rglob(".*"))


def begin(out):
    """Start a training that lasts until it is killed, and wait for its first checkpoint."""
    process = subprocess.Popen(
        [
            sys.executable, str(SCRIPT), *TINY, "--timesteps", str(10_000_000),
            "--save-every", str(ROLLOUT), "--out", str(out),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "policy.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no checkpoint: {process.communicate()[0]}")
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("seed", range(5))
def test_a_killed_training_leaves_a_model_to_resume_and_a_policy(seed, tmp_path):
    out = tmp_path / "a"
    process = begin(out)
    time.sleep(random.Random(seed).uniform(0.0, 1.5))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    made = attributes(out)["num_timesteps"]
    assert made >= ROLLOUT and made % ROLLOUT == 0
    assert load_policy(out / "policy").description["timesteps"] % ROLLOUT == 0
    total = made + 2 * ROLLOUT
    resumed = invoke(
        "--resume", out / "model.zip", "--timesteps", total, "--no-evaluate",
        "--no-progress", "--set", "n_epochs=1", "--out", tmp_path / "b",
    )  # fmt: skip
    assert resumed.exit_code == 0, resumed.output
    assert attributes(tmp_path / "b")["num_timesteps"] == total


@pytest.mark.slow
@pytest.mark.training
def test_a_terminated_training_ends_as_an_interrupted_one(tmp_path):
    out = tmp_path / "a"
    process = begin(out)
    time.sleep(0.3)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"interrupted; what was learned so far is in {out}" in output
    assert "Traceback" not in output
    made = attributes(out)["num_timesteps"]
    assert made % ROLLOUT == 0
    assert load_policy(out / "policy").description["timesteps"] == made


@pytest.mark.training
def test_a_continuation_begins_anew_with_the_model_that_it_began_with(
    tmp_path, monkeypatch
):
    """Whatever has become of that file, and from whatever folder."""
    monkeypatch.chdir(tmp_path)
    invoke(*TINY, "--timesteps", ROLLOUT, "--out", "a")
    more = ("--timesteps", 3 * ROLLOUT, "--no-evaluate", "--no-progress")
    begun = invoke("--resume", "a/model.zip", *more, "--out", "b")
    assert begun.exit_code == 0, begun.output
    policy = tmp_path / "b" / "policy.safetensors"
    expected = policy.read_bytes()
    # What a kill before the first checkpoint leaves
    for path in (policy, policy.with_suffix(".json"), tmp_path / "b" / "model.zip"):
        path.unlink()
    (tmp_path / "a" / "model.zip").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = invoke("--resume", tmp_path / "b", "--no-evaluate", "--no-progress")
    assert again.exit_code == 0, again.output
    assert policy.read_bytes() == expected
    (tmp_path / "b" / "model.zip").unlink()
    (tmp_path / "b" / "begun_with.zip").unlink()
    lost = invoke("--resume", tmp_path / "b", "--no-evaluate")
    assert lost.exit_code == 2
    assert "has to begin anew, and the copy of the model" in " ".join(lost.output.split())
