"""``train_agent.py --resume DIR`` goes on in the folder of a training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
import zipfile

import pytest

from agents.rl import training
from agents.rl.checkpoints import MODEL, read
from agents.utils.folder_lock import exclusive
from tests.helpers.cli import SCRIPT, invoke
from tests.helpers.trainings import Killed, disturb_generators, kill_after

#: Any agent on small runs.
SMALL = [
    "--num-envs", 8, "--no-progress", "--timesteps", 240, "--save-every", 48,
    "--env-arg", "tasks=quadratic", "--env-arg", "updates_per_step=2",
    "--env-arg", "horizon=6",
]  # fmt: skip
#: PPO with rollouts of 8 × 6 control steps.
TINY = [*SMALL, "--set", "n_epochs=1", "--set", "n_steps=6"]
ALONE = [*TINY, "--no-evaluate"]
#: An evaluation of seconds.
EVALUATED = [
    *TINY, "--workers", 1, "--eval-task", "friedman", "--eval-seeds", 1,
    "--tuning-seeds", 1, "--eval-length", 0.05,
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_path(tmp_path, monkeypatch):
    """Train in a folder of one name: the policy's description holds the command."""
    monkeypatch.setattr("sys.argv", ["train_agent.py", "--some", "arguments"])
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()


def killed(monkeypatch, steps, *arguments):
    """Run a command, and kill it in a control step."""
    with monkeypatch.context() as patch:
        kill_after(patch, steps)
        # Click's runner returns exceptions, and passes on those that are not
        with pytest.raises(Killed):
            invoke(*arguments)
    disturb_generators()


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("policy.*")
        if path.is_file()
    }


@pytest.mark.parametrize("steps", [2, 15, 26])
def test_a_killed_training_goes_on_in_its_folder(steps, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    assert invoke(*ALONE, "--out", whole).exit_code == 0
    killed(monkeypatch, steps, *ALONE, "--out", broken)
    before = (broken / "config.json").read_bytes()
    (broken / ".model-0123abcd.part.zip").write_bytes(b"unfinished")
    monkeypatch.setattr("sys.argv", ["train_agent.py", "--resume", "killed"])
    done = invoke("--resume", broken)
    assert done.exit_code == 0, done.output
    assert ("goes on after" in done.output) == (steps > 7)
    assert contents(broken) == contents(whole)
    assert (broken / "config.json").read_bytes() == before
    assert not list(broken.glob(".*"))
    again = invoke("--resume", broken, "--agent", "ppo", "--timesteps", 240)
    assert again.exit_code == 0 and "it has come to its end already" in again.output
    assert contents(broken) == contents(whole)


def test_a_missing_policy_of_a_finished_training_is_exported_again(tmp_path):
    folder = tmp_path / "whole"
    assert invoke(*ALONE, "--out", folder).exit_code == 0
    before = contents(folder)
    assert len(before) == 2
    for path in before:
        (folder / path).unlink()
    done = invoke("--resume", folder)
    assert done.exit_code == 0, done.output
    assert "come to its end already" in done.output
    assert contents(folder) == before


def test_a_training_that_is_running_is_not_gone_on_with(tmp_path):
    folder = tmp_path / "whole"
    assert invoke(*ALONE, "--out", folder).exit_code == 0
    unfinished = folder / ".model-0123abcd.part.zip"
    unfinished.write_bytes(b"being written")
    with exclusive(folder, "training"):
        done = invoke("--resume", folder)
    assert done.exit_code == 2
    assert "another training is running in" in " ".join(done.output.split())
    assert unfinished.exists(), "the other process is still writing it"
    assert invoke("--resume", folder).exit_code == 0


def test_what_would_change_a_training_that_goes_on_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    killed(monkeypatch, 10, *ALONE, "--out", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for given, message in [
        (["--timesteps", 480], "leave out --timesteps 480 (it is 240)"),
        (["--seed", 1, "--num-envs", 4], "--num-envs 4 (it is 8), --seed 1 (it is 0)"),
        (["--set", "gamma=0.9", "--out", "elsewhere"], "leave out --set, --out"),
        (["--set", "gamma=0.9"], "model.zip begins another training with its model"),
        (["--policy", "default"], "leave out --policy"),
        (["--agent", "dqn"], "is of agent 'ppo'; give --agent ppo, or leave it out"),
    ]:
        done = invoke("--resume", folder, *given)
        assert done.exit_code == 2 and message in " ".join(done.output.split()), given
    assert before == {path: path.read_bytes() for path in before}
    empty = invoke("--resume", tmp_path / "whole")
    assert empty.exit_code == 2
    assert "has no config.json, and so no training" in " ".join(empty.output.split())


def test_an_edited_configuration_is_refused_where_it_would_change_the_training(tmp_path):
    folder = tmp_path / "whole"
    assert invoke(*ALONE, "--out", folder).exit_code == 0
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for changed in (
        {"timesteps": 480},
        {"seed": 1},
        {"agent": "dqn"},
        {"env_arguments": {**config["env_arguments"], "horizon": 12}},
        {"algorithm": {**config["algorithm"], "gamma": 0.5}},
    ):
        path.write_text(json.dumps({**config, **changed}))
        done = invoke("--resume", folder)
        assert done.exit_code == 2, changed
        assert "has been edited since the training began" in " ".join(done.output.split())
    path.write_text(json.dumps({**config, "save_every": 96, "command": ["other"]}))
    assert invoke("--resume", folder).exit_code == 0
    # Another training may begin with an edited file.
    path.write_text(json.dumps({**config, "timesteps": 96}))
    other = invoke("--config", path, "--out", tmp_path / "killed", "--no-evaluate")
    assert other.exit_code == 0, other.output
    assert json.loads((tmp_path / "killed" / "config.json").read_text())["timesteps"] == 96


def test_a_damaged_model_is_refused_and_left(tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    killed(monkeypatch, 10, *ALONE, "--out", folder)
    whole = (folder / MODEL).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for data in (whole[:-100], whole[: len(whole) // 2], b"", bytes(damaged)):
        (folder / MODEL).write_bytes(data)
        done = invoke("--resume", folder)
        assert done.exit_code == 2
        assert "cannot go on with" in " ".join(done.output.split())
        assert (folder / MODEL).read_bytes() == data


def test_a_model_of_an_earlier_version_is_not_trained_over(tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    killed(monkeypatch, 2, *ALONE, "--out", folder)
    with zipfile.ZipFile(folder / MODEL, "w") as archive:
        archive.writestr("data", "{}")
    done = invoke("--resume", folder)
    assert done.exit_code == 2
    assert "which an earlier version of optenv wrote" in " ".join(done.output.split())


def test_a_finished_training_is_extended_into_a_new_folder(tmp_path):
    assert invoke(*ALONE, "--out", tmp_path / "whole").exit_code == 0
    longer = invoke(
        "--resume", tmp_path / "whole" / MODEL, "--timesteps", 480, "--no-evaluate",
        "--no-progress", "--set", "n_epochs=1", "--out", tmp_path / "longer",
    )  # fmt: skip
    assert longer.exit_code == 0, longer.output
    assert read(tmp_path / "longer" / MODEL).numbers["done"] == 480


def test_an_extended_training_goes_on_as_well(tmp_path, monkeypatch):
    first, whole, broken = (tmp_path / name for name in ("first", "whole", "killed"))
    assert invoke(*ALONE, "--out", first).exit_code == 0
    longer = [
        "--resume", first / MODEL, "--timesteps", 480, "--no-evaluate", "--no-progress",
        "--save-every", 48, "--set", "n_epochs=1",
    ]  # fmt: skip
    assert invoke(*longer, "--out", whole).exit_code == 0
    for steps in (2, 15):
        folder = broken / str(steps)
        killed(monkeypatch, steps, *longer, "--out", folder)
        assert invoke("--resume", folder).exit_code == 0
        assert contents(folder) == contents(whole)


def test_a_folder_with_nothing_but_an_unfinished_file_is_empty(tmp_path):
    folder = tmp_path / "whole"
    (folder / ".config-0123abcd.part.json").write_text("{")
    assert training.new_folder(folder) == folder
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds results"):
        training.new_folder(folder)


def start(hash_seed, *arguments):
    """Start a process whose sets have an order of their own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_other_processes_give_the_same_weights_also_after_a_kill(agent, tmp_path):
    of_dqn = ["learning_starts=48", "gradient_steps=2", "batch_size=32"]
    own = [word for text in of_dqn for word in ("--set", text)]
    own += ["--candidates", 1, "--members", 1]
    arguments = {"ppo": ALONE, "dqn": ["--agent", "dqn", *own, *SMALL, "--no-evaluate"]}[
        agent
    ]
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    output, _ = start("1", *arguments, "--out", whole).communicate()
    assert (whole / "policy.json").exists(), output
    process = start("2", *arguments, "--out", broken)
    while process.poll() is None and not (broken / "policy.json").exists():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    output, _ = start("3", "--resume", broken).communicate()
    assert "goes on after" in output
    one, two = ((each / "policy.safetensors").read_bytes() for each in (whole, broken))
    assert one == two


@pytest.mark.slow
def test_a_killed_evaluation_is_made_again_with_the_same_results(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    assert invoke(*EVALUATED, "--out", whole).exit_code == 0

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "sign", die)
        with pytest.raises(Killed):
            invoke(*EVALUATED, "--out", broken)
    assert read(broken / MODEL).finished
    done = invoke("--resume", broken)
    assert done.exit_code == 0, done.output
    assert contents(broken) == contents(whole)
    assert rows(broken) == rows(whole)
    assert len(rows(whole)) > 2


def rows(folder):
    """Return the rows of an evaluation without the CPU times, which no two runs share."""
    with (folder / "eval.csv").open() as file:
        found = list(csv.DictReader(file))
    for row in found:
        for name in [name for name in row if name.endswith("_seconds")]:
            del row[name]
    return found
