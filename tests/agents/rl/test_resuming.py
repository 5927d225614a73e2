"""A training that was killed goes on bit for bit as if it had not been."""

from __future__ import annotations

import io
import json
import random
import zipfile

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.rl import checkpoints, training
from agents.rl.checkpoints import MODEL, Checkpoint, pack, read
from tests.helpers.trainings import (
    CASES,
    TOTAL,
    Killed,
    build,
    kill_after,
    note_checkpoints,
    train,
)


@pytest.fixture(scope="module", params=list(CASES))
def whole(request, tmp_path_factory):
    """Train without a break; return the case, the folder and what was written."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        written = note_checkpoints(patch)
        train(request.param, folder)
    return request.param, folder, list(written.values())


def files(folder):
    """Return the bytes of the policy's two files."""
    return [(folder / f"policy.{end}").read_bytes() for end in ("safetensors", "json")]


def test_the_same_seed_gives_the_same_files(whole, tmp_path, monkeypatch):
    case, folder, expected = whole
    written = note_checkpoints(monkeypatch)
    train(case, tmp_path)
    assert files(tmp_path) == files(folder)
    assert list(written.values()) == expected
    assert len(expected) >= 4


def test_a_killed_training_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    case, folder, expected = whole
    steps = 1 + random.Random(case).randrange(TOTAL // 16, TOTAL // 11)
    with monkeypatch.context() as patch:
        before = note_checkpoints(patch)
        kill_after(patch, steps)
        with pytest.raises(Killed):
            train(case, tmp_path)
    done = len(before)
    assert 0 < done < len(expected) - 1, "killed in between"
    after = note_checkpoints(monkeypatch)
    train(case, tmp_path, resume=True)
    assert files(tmp_path) == files(folder)
    assert [*before.values(), *after.values()] == expected
    assert read(tmp_path / MODEL).finished


@pytest.mark.parametrize("case", ["ppo", "dqn", "unrolled-lr"])
def test_more_threads_change_no_more_than_the_last_digits(case, tmp_path):
    train(case, tmp_path / "one", total=96)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(case, tmp_path / "two", total=96)
    finally:
        torch.set_num_threads(threads)
    one, two = (load_policy(tmp_path / name).state_dict() for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["ppo within episodes", "dqn", "unrolled-lr"])
def test_an_interrupted_training_goes_on_bit_for_bit(case, tmp_path, monkeypatch):
    train(case, tmp_path / "a")
    with monkeypatch.context() as patch:
        kill_after(patch, 22)
        patch.setattr("tests.helpers.trainings.Killed", KeyboardInterrupt)
        train(case, tmp_path / "b")
    checkpoint = read(tmp_path / "b" / MODEL)
    assert checkpoint.exact and not checkpoint.finished
    assert files(tmp_path / "b") != files(tmp_path / "a")
    train(case, tmp_path / "b", resume=True)
    assert files(tmp_path / "b") == files(tmp_path / "a")


@pytest.mark.parametrize("case", ["ppo", "unrolled-rule"])
def test_what_an_interrupt_leaves_before_the_first_checkpoint_is_not_exact(
    case, tmp_path, monkeypatch
):
    kill_after(monkeypatch, 9)
    monkeypatch.setattr("tests.helpers.trainings.Killed", KeyboardInterrupt)
    train(case, tmp_path, save_every=10_000)
    checkpoint = read(tmp_path / MODEL)
    assert not checkpoint.exact and not checkpoint.finished
    assert build(case, resume=tmp_path / MODEL).num_timesteps < TOTAL


@pytest.mark.parametrize("case", ["unrolled-lr", "unrolled-rule"])
def test_another_training_of_a_learner_that_unrolls_begins_with_what_it_learned(
    case, tmp_path
):
    learned = train(case, tmp_path, total=96)
    longer = build(case, resume=tmp_path / MODEL)
    assert longer.num_timesteps == learned.num_timesteps == 96
    for ours, theirs in zip(longer._parameters(), learned._parameters(), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert training.learn(longer, 96, tmp_path, progress=False)
    assert longer.num_timesteps == 192
    other = {"unrolled-lr": "unrolled-rule", "unrolled-rule": "unrolled-lr"}[case]
    with pytest.raises(ValueError, match=r"the state is of 'Unrolled.*', not of Unrolled"):
        build(other, resume=tmp_path / MODEL)


def test_runs_that_cannot_be_made_again_are_warned_of(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after(patch, 22)
        with pytest.raises(Killed):
            train("ppo within episodes", tmp_path)
    checkpoint = read(tmp_path / MODEL)
    checkpoint.arrays["model/observation"][0, 0] += 0.5
    model = build("ppo within episodes", resume=tmp_path / MODEL)
    with pytest.warns(UserWarning, match="not bit for bit as it would have"):
        training.learn(model, TOTAL, tmp_path, progress=False, resume=checkpoint)
    assert model.num_timesteps == TOTAL


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b/0": np.array(3, np.int64)}
    inner = Checkpoint({"number": 0.1, "large": 2**100}, arrays)
    whole = Checkpoint.join({"part": inner}, timesteps=7, done=3, exact=True)
    (tmp_path / MODEL).write_bytes(pack(io.BytesIO(), whole))
    found = read(tmp_path / MODEL)
    assert found.exact and not found.finished and found.numbers["timesteps"] == 7
    part = found.under("part")
    assert part.numbers == inner.numbers
    for name, array in arrays.items():
        np.testing.assert_array_equal(part.arrays[name], array, strict=True)
    assert read(tmp_path / "missing.zip") is None


def test_files_that_are_no_checkpoints_are_refused_and_run_no_code(tmp_path):
    def write(name, **members):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member.replace("__", "/").replace("_", "."), data)
        return tmp_path / name

    assert read(write("old.zip", data="{}")) is None
    with pytest.raises(ValueError, match="it is no model, or damaged"):
        read(write("member.zip", version="3"))
    later = json.dumps({"version": checkpoints.VERSION + 1})
    with pytest.raises(ValueError, match="later version"):
        read(write("later.zip", training_json=later))
    good = json.dumps({"version": 1, "finished": True, "exact": False})
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": print}], dtype=object), allow_pickle=True)
    members = {"training_json": good, "training__a_npy": pickled.getvalue()}
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read(write("pickled.zip", **members))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "later.zip").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot go on with '.*cut\.zip'"):
        read(tmp_path / "cut.zip")
