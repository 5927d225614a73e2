"""``train_agent.py``: its messages, its files, resuming and interrupts."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from agents import load_policy
from agents.evaluation.tasks.heldout import task_named
from agents.policy.files import save_policy
from agents.rl.cli import _merged
from tests.helpers.cli import SCRIPT, invoke
from tests.helpers.markers import slow
from tests.helpers.policies import random_policy

SMALL = ["--num-envs", "8", "--no-progress"]
#: Train on few updates of the cheapest task, and do not evaluate.
TRAINING_ONLY = [
    *SMALL, "--no-evaluate",
    "--env-arg", "tasks=logistic", "--env-arg", "updates_per_step=2",
]  # fmt: skip
#: Learn soon and seldom: these tests need a model, not a good one.
FAST_DQN = ["--set", "learning_starts=100", "--set", "gradient_steps=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tmesteps", "5"], "'--timesteps'?"),
        (["--agent", "ppoo"], "'ppoo' is not one of 'ppo', 'default', 'gradient-only'"),
        (
            ["--env", "optenv/Magic-v0"],
            "unknown environment 'optenv/Magic-v0'; valid: optenv/",
        ),
        (["--env-arg", "task=digits"], "did you mean 'tasks'?"),
        (["--env-arg", "tasks=digit"], "unknown task 'digit'; valid: train, test"),
        (["--env-arg", "horizon"], "'horizon' is not of the form NAME=VALUE"),
        (["--set", "learnin_rate=1"], "did you mean 'learning_rate'?"),
        (
            ["--agent", "dqn", "--env", "optenv/LearningRate-v0"],
            "needs a discrete or batch-size action",
        ),
        (
            ["--agent", "rl2", "--env", "optenv/LearningRate-v0"],
            "agent 'rl2' is for trials; use env optenv/LearningRateTrial-v0",
        ),
        (
            ["--env", "optenv/LearningRateTrial-v0"],
            "agent 'ppo' is not for trials; use env optenv/LearningRate-v0",
        ),
        (
            ["--agent", "rl2", "--env-arg", "previous_reward=given"],
            "give it previous_reward='told'",
        ),
        (["--agent", "rl2", "--set", "n_stps=3"], "did you mean 'n_steps'?"),
        (["--agent", "rl2", "--set", "n_steps=9"], "n_steps must be 24, the control steps"),
        (["--agent", "rl2", "--candidates", "2"], "give --candidates 1 for agent 'rl2'"),
        (
            ["--env", "optenv/UpdateRule-v0", "--env-arg", "rule=sgd"],
            "needs rule 'switching', got rule 'sgd'",
        ),
        (
            ["--env", "optenv/Update-v0"],
            "this PPO model could not be exported: its action is the update",
        ),
        (["--eval-task", "mnist"], "unknown held-out task 'mnist'; valid tasks: photo-cnn"),
        (["--agent", "dqn", "--timesteps", "9"], "must exceed learning_starts (20,480)"),
        (["--set", "learning_rate=abc"], "learning_rate must be a number, got 'abc'"),
        (["--set", "policy_kwargs=3"], "policy_kwargs must be a dict, got 3"),
        (["--policy", "default", "--no-evaluate"], "which --no-evaluate leaves out"),
        (["--policy", "default", "--save-every", 9], "trains none; leave out --save-every"),
        (
            ["--policy", "default", "--set", "gamma=1", "--copies", 2],
            "leave out --copies, --set",
        ),
        (["--policy", "defualt"], "did you mean 'default'? shipped policies: adam"),
        (["--policy", "default", "--resume", SCRIPT], "give one of them"),
        (["--eval-seeds", "1001"], "1001 is not in the range 1<=x<=1000"),
        (["--env-arg", "num_envs=4"], "use --num-envs"),
        (["--resume", SCRIPT], "cannot go on with"),
        (["--policy", "nowhere"], "no policy at 'nowhere'"),
        (["--timesteps", "0"], "0 is not in the range 1<=x<=9223372036854775807"),
    ],
)
def test_an_invalid_argument_is_quoted_with_valid_ones(arguments, message, tmp_path):
    result = invoke(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists(), "nothing may be written before the check"


def test_a_nested_argument_changes_only_the_entries_it_names():
    preset = {
        "action": {"start": -2.0, "bound": 8.0},
        "rule": {"name": "sgd"},
        "horizon": 8,
    }
    given = {"action": {"bound": 3.0}, "rule": {"name": "adam", "beta1": 0.8}, "new": {}}
    merged = _merged(preset, given)
    assert merged == {**given, "action": {"start": -2.0, "bound": 3.0}}
    assert given["action"] == {"bound": 3.0}
    other = {"action": {"kind": "continuous", "step": 2.0}}
    assert _merged(preset, other) == other


def test_results_are_never_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("earlier")
    result = invoke("--out", tmp_path)
    assert result.exit_code == 2
    assert "already holds results" in result.output
    assert (tmp_path / "config.json").read_text() == "earlier"


@pytest.mark.parametrize("agent", ["ppo", slow("dqn"), slow("rl2")])
def test_a_short_run_writes_a_policy_and_can_be_resumed(agent, tmp_path):
    first = ["--agent", agent, *TRAINING_ONLY]
    if agent == "dqn":
        first += [*FAST_DQN, "--candidates", 1, "--members", 1]
    result = invoke(
        *first, "--timesteps", 400, "--out", tmp_path / "a", "--env-arg", "rule=momentum"
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["env_arguments"]["rule"] == "momentum"
    assert config["num_envs"] == 8
    assert config["versions"]["torch"]
    policy = load_policy(tmp_path / "a" / "policy")
    assert policy.description["rule"] == "momentum"
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    resume = ["--out", tmp_path / "b", "--resume", tmp_path / "a" / "model.zip"]
    done = invoke(*first, *resume, "--timesteps", 100)
    assert done.exit_code == 2 and "none of 100 are left" in " ".join(done.output.split())
    alone = invoke(*first, *resume, "--timesteps", 800, "--copies", 1)
    assert alone.exit_code == 2
    assert "relative to copies; give at least 2" in " ".join(alone.output.split())
    more = invoke(*first, *resume, "--timesteps", 800)
    assert more.exit_code == 0, more.output
    steps = load_policy(tmp_path / "b" / "policy").description["timesteps"]
    assert policy.description["timesteps"] < 800 <= steps < 1200


def test_a_configuration_given_back_trains_the_same_policy(tmp_path):
    first = ["--env-arg", "action={'step': 0.5}", "--set", "learning_rate=1e-3"]
    first += ["--copies", 1, "--timesteps", 160, "--seed", 7]
    done = invoke(*TRAINING_ONLY, *first, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    given = ["--config", tmp_path / "a" / "config.json"]
    again = invoke(*given, "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output
    changed = [*given, "--seed", 8, "--set", "gamma=0.9", "--env-arg", "horizon=20"]
    other = invoke(*changed, "--out", tmp_path / "c")
    assert other.exit_code == 0, other.output

    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in "abc"]
    for config in configs:
        del config["out"], config["command"]
    assert configs[0] == configs[1]
    assert configs[0]["overrides"] == {"learning_rate": 1e-3}
    assert configs[2]["overrides"] == {"learning_rate": 1e-3, "gamma": 0.9}
    expected = {**configs[0]["env_arguments"], "horizon": 20}
    assert configs[2]["env_arguments"] == expected and configs[2]["seed"] == 8
    a, b, c = (load_policy(tmp_path / name / "policy").weights() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        ({"agnt": "ppo"}, [], "unknown entry 'agnt'; did you mean 'agent'? valid: agent,"),
        ({"algorithm": 3}, [], "algorithm of"),
        ([], [], "must hold a JSON object, got []"),
        ({"seed": "x"}, [], "'x' is not a valid integer"),
        ({"algorithm": {"gama": 1}}, [], "did you mean 'gamma'?"),
        ({"agent": "dqn"}, ["--agent", "ppo"], "is of agent 'dqn'; give --agent dqn"),
        ({"seed": 1}, ["--policy", "default"], "trains none; leave out --config"),
    ],
)
def test_an_invalid_configuration_is_refused(config, flags, message, tmp_path):
    (tmp_path / "given.json").write_text(json.dumps(config))
    flags = [*flags, "--config", tmp_path / "given.json", "--out", tmp_path / "run"]
    result = invoke(*flags)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_resuming_uses_the_environment_of_the_saved_model(tmp_path):
    first = ["--agent", "dqn", "--candidates", 1, "--members", 1, *TRAINING_ONLY]
    first += [*FAST_DQN, "--env-arg", "rule=momentum"]
    done = invoke(*first, "--timesteps", 300, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    resume = ["--resume", tmp_path / "a" / "model.zip", "--out", tmp_path / "b"]
    plain = ["--timesteps", 600, "--no-evaluate", "--no-progress", *resume]
    alone = tmp_path / "alone" / "model.zip"
    alone.parent.mkdir()
    alone.write_bytes((tmp_path / "a" / "model.zip").read_bytes())
    unknown = invoke("--agent", "dqn", *plain, "--resume", alone)
    assert unknown.exit_code == 2 and not (tmp_path / "b").exists()
    assert "config.json is missing, which says what environment" in " ".join(
        unknown.output.split()
    )
    other = invoke("--agent", "ppo", *plain)
    assert other.exit_code == 2 and "is of agent 'dqn'" in " ".join(other.output.split())
    more = invoke("--agent", "dqn", *plain)
    assert more.exit_code == 0, more.output
    before, after = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in "ab"
    )
    assert after["env_arguments"] == before["env_arguments"]
    assert after["num_envs"] == before["num_envs"] == 8
    assert load_policy(tmp_path / "b" / "policy").description["rule"] == "momentum"


def test_ppo_can_learn_with_discrete_actions(tmp_path):
    other = ["--env", "optenv/DiscreteLearningRate-v0", "--out", tmp_path / "a"]
    result = invoke(*other, "--timesteps", 300, *TRAINING_ONLY)
    assert result.exit_code == 0, result.output
    action = load_policy(tmp_path / "a" / "policy").description["action"]
    assert action["kind"] == "discrete" and action["start"] == -2.0


def test_the_default_folder_is_new_in_every_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert invoke("--timesteps", 300, *TRAINING_ONLY).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "ppo_seed0", "ppo_seed0-2"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_saved_policy_can_be_evaluated_again(tmp_path):
    save_policy(random_policy(), tmp_path / "mine")
    result = invoke(
        "--policy", tmp_path / "mine", "--out", tmp_path / "run", "--no-progress",
        "--eval-task", "friedman", "--eval-seeds", "2", "--tuning-seeds", "1",
        "--eval-length", "0.2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "policy (ours) minus the baseline" in result.output
    with (tmp_path / "run" / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    fifth = task_named("friedman").updates // 5
    assert {int(row["updates"]) for row in rows} == {fifth}


@pytest.mark.slow
def test_training_and_evaluation_end_with_the_table(tmp_path):
    command = [
        sys.executable, str(SCRIPT), "--timesteps", "640", *SMALL,
        "--out", str(tmp_path / "run"),
        "--eval-task", "friedman", "--eval-seeds", "2", "--tuning-seeds", "1",
        "--eval-length", "0.2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    table = done.stdout[done.stdout.index("Validation loss") :]
    for arm in ("AdamW default", "Schedule-Free AdamW", "Prodigy", "AdamW tuned", "PPO"):
        assert arm in table
    with (tmp_path / "run" / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"friedman"}
    assert len([row for row in rows if row["arm"].startswith("PPO")]) == 2
    picture = (tmp_path / "run" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_interrupt_leaves_a_policy_and_a_model(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--num-envs", "16", "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        # Background jobs of a shell ignore interrupts, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        tensorboard = out / "tensorboard"
        deadline = time.monotonic() + 120
        while not (tensorboard.exists() and list(tensorboard.iterdir())):
            assert time.monotonic() < deadline, "training did not begin"
            time.sleep(0.2)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert load_policy(out / "policy").description["algorithm"] == "PPO"
    assert (out / "model.zip").is_file()
