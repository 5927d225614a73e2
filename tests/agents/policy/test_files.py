"""Policy files from elsewhere: sizes, depths, numbers, killed saves, and random damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
from contextlib import nullcontext

import pytest
import torch

from agents import load_policy
from agents.policy import files
from agents.policy.files import save_policy
from agents.policy.spec import MAX_HORIZON
from tests.helpers.damage import ODD_VALUES, damaged, full_at, measured
from tests.helpers.policies import random_policy, train_briefly

NETWORK = {"name": "network", "weights": [0.1] * 22}

#: Normalisation of all features.
NORMAL = {"mean": [0.1] * 25, "std": [0.5] * 25, "clip": 10.0}

#: Policies with the entries that are optional.
WITH_OPTIONS = (
    {"normalisation": NORMAL, "output": "tanh", "output_bound": 2.0},
    {"memory": 3, "memory_layers": 2, "trials": False},
)


@pytest.fixture
def stem(tmp_path):
    save_policy(random_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def described(stem):
    return json.loads(stem.with_suffix(".json").read_text())


def write(stem, description):
    stem.with_suffix(".json").write_text(json.dumps(description))


# Bounds.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"horizon": 10**400}, r"horizon must be .*at most 10000, got 1000.*characters"),
        ({"horizon": 10_000_000}, "horizon must be .*at most 10000, got 10000000"),
        ({"total_updates": [1, 10**400]}, "total_updates must be the shortest"),
        ({"total_updates": [9, 8]}, r"total_updates must be the shortest.*\[9, 8\]"),
        ({"members": 10**9}, "members must be an integer.*at most 100, got 1000000000"),
        ({"memory": 10**9}, "memory must be .*at most 4096"),
        ({"layers": [25] * 10_000}, "layers must be 2 to 32 widths"),
        ({"layers": [25, 16384, 16384, 1]}, "268.* weights; at most 16777216"),
        ({"action": {"kind": "continuous", "bound": 1e9}}, "action: bound must be finite"),
        ({"action": {"kind": "continuous", "bound": 30}}, r"bound .*\[0, 20\], got 30"),
        (
            {"action": {"kind": "discrete", "multipliers": [1e-9, 1.0]}},
            "multipliers must be positive, in .*got 1e-09",
        ),
        ({"rule": {"name": "adam", "eps": 1e-300}}, "rule: eps must be .*got 1e-300"),
        (
            {"rule": {**NETWORK, "weights": [1e30] * 22}},
            "rule: weights must be finite, and at most 1e.06 in size, got 1e.30",
        ),
        ({"rule": {**NETWORK, "weights": [0.1] * 20_002}}, "at most 10002 values"),
        ({"memory_layers": 10**6}, "memory_layers must be .*at most 8, got 1000000"),
        ({"trials": 1}, "trials must be True or False, got 1"),
        ({"output": "softmax"}, "unknown output 'softmax'; valid: clip, tanh"),
        ({"base_lr": 0.0}, r"base_lr must be in \(0, 1e\+06\], got 0.0"),
        ({"base_lr": "high"}, r"base_lr must be in \(0, 1e\+06\], got 'high'"),
        ({"output_bound": 2.0}, "needs output 'tanh', got 2.0 with 'clip'"),
        ({"output": "tanh", "output_bound": -1.0}, r"output_bound must be in \(0.*-1.0"),
        ({"normalisation": [1.0]}, r"must have the keys mean, std, clip, got \[1.0\]"),
        ({"normalisation": NORMAL | {"mean": [0.0] * 23}}, "as many means .* 23 and 25"),
        ({"normalisation": {"mean": [0], "std": [1], "clip": 1}}, "1 means, but .* see 25"),
        ({"normalisation": NORMAL | {"mean": [1e9] * 25}}, "mean must be finite, within"),
        ({"normalisation": NORMAL | {"std": [0.0] * 25}}, "std must lie in .*got"),
        ({"normalisation": NORMAL | {"std": [10**400] * 25}}, "std must be numbers"),
        ({"normalisation": NORMAL | {"clip": float("inf")}}, "clip must be in .* inf"),
        ({"normalisation": NORMAL | {"mean": ["a"] * 25}}, "mean must be numbers"),
        ({"seed": 10**100}, "seed must be an integer, .* got 1000"),
        ({"note": float("inf")}, "note must be finite"),
        ({"note": {"by": 10**30}}, "note: by must be finite"),
    ],
)
def test_a_number_beyond_its_bound_is_quoted_with_the_bound(stem, changes, says):
    write(stem, described(stem) | changes)
    with pytest.raises(ValueError, match=says) as caught:
        load_policy(stem)
    assert str(stem.with_suffix(".json")) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_horizon_at_its_bound_loads(stem):
    write(stem, described(stem) | {"horizon": MAX_HORIZON})
    assert load_policy(stem).spec.horizon == MAX_HORIZON


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_nesting_is_refused_before_it_is_parsed(stem, brackets, monkeypatch):
    opening = "[" if brackets == "[]" else '{"a":'
    closing = brackets[1]
    text = f'{{"note": {opening * 100_000}1{closing * 100_000}}}'
    stem.with_suffix(".json").write_text(text)
    monkeypatch.setattr(files.json, "loads", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match=r"policy\.json is not .*nested 100001 deep"):
        load_policy(stem)


def test_brackets_in_strings_do_not_nest(stem):
    note = '[{"\\' * 100
    write(stem, described(stem) | {"note": note})
    assert load_policy(stem).description["note"] == note


@pytest.mark.parametrize("filling", ['"', "\\", '"\\', '\\"', "[", " "])
def test_a_large_description_is_refused_without_reading_it_all(stem, filling):
    text = '{"note": "' + filling * (4 * 2**20 // len(filling))
    stem.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"policy\.json .* more than 1048576 bytes"):
        load_policy(stem)
    stem.with_suffix(".json").write_text(text[: 2**20])
    with pytest.raises(ValueError, match="not a policy description"):
        load_policy(stem)


def test_weights_of_another_size_are_refused_before_they_are_read(stem):
    with stem.with_suffix(".safetensors").open("ab") as file:
        file.truncate(3 * 2**30)  # sparse: it takes no room
    with measured(seconds=1.0, mebibytes=64):
        with pytest.raises(ValueError, match=r"3221225472 bytes, but layers .*433 weights"):
            load_policy(stem)


@pytest.mark.parametrize("value", [1e7, float("inf"), float("nan")])
def test_weights_beyond_their_bound_are_refused(tmp_path, value):
    policy = random_policy()
    with torch.no_grad():
        next(policy.parameters())[0, 0] = value
    save_policy(policy, tmp_path / "policy")
    with pytest.raises(
        ValueError, match=r"networks\.0\.0\.weight .* not finite, or beyond"
    ):
        load_policy(tmp_path / "policy")


def test_a_misspelt_name_is_answered_with_the_nearest_shipped_one():
    says = r"no policy at 'defualt': did you mean 'default'\? shipped policies: adam, any"
    with pytest.raises(FileNotFoundError, match=says):
        load_policy("defualt")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'default'\?"):
        load_policy("DEFAULT")


# Killed saves.


def pair(folder, seed):
    """Write a policy of this seed, with weights of its own."""
    policy = random_policy(seed=seed)
    with torch.no_grad():
        next(policy.parameters()).add_(seed)
    save_policy(policy, folder / "policy")


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("replaces", [False, True])
def test_a_save_that_ends_anywhere_leaves_the_old_policy_or_the_new(
    tmp_path, monkeypatch, writes, replaces
):
    """``writes`` of the three files are written, and the last step is a removal."""
    if replaces:
        pair(tmp_path, 1)
    left = [writes]

    def limited(write):
        def call(*arguments):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(*arguments)

        return call

    for name in ("write_bytes", "write_text"):
        monkeypatch.setattr(files, name, limited(getattr(files, name)))
    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)
    if writes < 3:
        with pytest.raises(KeyboardInterrupt):
            pair(tmp_path, 2)
    else:
        pair(tmp_path, 2)
    monkeypatch.undo()
    if writes < 2 and not replaces:
        with pytest.raises(FileNotFoundError):
            load_policy(tmp_path / "policy")
    else:
        expected = 1 if writes < 2 else 2
        assert load_policy(tmp_path / "policy").description["seed"] == expected
    # The next save is killed, too, before it replaces the weights; and then one is not.
    if writes >= 2:
        left[0] = 1
        for name in ("write_bytes", "write_text"):
            monkeypatch.setattr(files, name, limited(getattr(files, name)))
        with pytest.raises(KeyboardInterrupt):
            pair(tmp_path, 3)
        monkeypatch.undo()
        assert load_policy(tmp_path / "policy").description["seed"] == 2
    pair(tmp_path, 4)
    assert load_policy(tmp_path / "policy").description["seed"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "policy.json", "policy.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("grows", [False, True])
def test_a_save_on_a_full_disk_leaves_the_old_policy_and_nothing_else(tmp_path, grows):
    pair(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    largest = (tmp_path / "policy.safetensors").stat().st_size
    with full_at(largest - 100 if grows else 200), pytest.raises(OSError, match="too"):
        pair(tmp_path, 2)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert load_policy(tmp_path / "policy").description["seed"] == 1
    pair(tmp_path, 2)
    assert load_policy(tmp_path / "policy").description["seed"] == 2


@pytest.mark.parametrize("call", range(1, 4))
def test_a_disk_that_fills_up_within_a_save_leaves_a_policy(tmp_path, monkeypatch, call):
    """The third file is the new description once more, for which none is needed."""
    pair(tmp_path, 1)
    calls = []

    def limited(write):
        def write_if_there_is_space(path, data):
            calls.append(path)
            if len(calls) == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(path, data)

        return write_if_there_is_space

    for name in ("write_bytes", "write_text"):
        monkeypatch.setattr(files, name, limited(getattr(files, name)))
    context = pytest.raises(OSError, match="No space") if call < 3 else nullcontext()
    with context:
        pair(tmp_path, 2)
    assert load_policy(tmp_path / "policy").description["seed"] == (1 if call < 3 else 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "policy.json", "policy.safetensors",
    ]  # fmt: skip


def test_a_staged_description_of_other_weights_is_no_policy(stem, tmp_path):
    pair(tmp_path / "other", seed=1)
    (tmp_path / "other" / "policy.json").rename(tmp_path / "policy.json.new")
    assert load_policy(stem).spec.horizon == 20
    write(stem, described(stem) | {"sha256": "0" * 64})
    with pytest.raises(ValueError, match="has sha256"):
        load_policy(stem)


# Random damage.


def rule_of_a_network(i):
    rules = ["adam", NETWORK, {"name": "orthogonal-adam", "power": 0.9}, "momentum"]
    return random_policy(rules[i % len(rules)])


def damaged_files(generator, description, weights):
    """Return the content of two files, of which one is damaged, with a right hash."""
    kind = generator.randrange(10)
    if kind == 0:  # bytes of the description
        text = bytearray(json.dumps(description).encode())
        for _ in range(generator.randrange(1, 4)):
            text[generator.randrange(len(text))] = generator.randrange(256)
        return bytes(text), weights
    if kind <= 2:  # bytes of the weights
        data = bytearray(weights)
        where = generator.choice([8, 500, len(data)])
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(where)] = generator.randrange(256)
        if generator.random() < 0.2:
            data = data[: generator.randrange(len(data))]
        weights = bytes(data)
    else:  # an entry of the description
        description = damaged(generator, description, ODD_VALUES)
    if isinstance(description, dict):
        description = {**description, "sha256": hashlib.sha256(weights).hexdigest()}
    return json.dumps(description).encode(), weights


def check_damage(folder, count, seed):
    """Load damaged files, and count those that load."""
    generator, loaded = random.Random(seed), 0
    originals = []
    policies = [rule_of_a_network(i) for i in range(4)]
    policies += [random_policy(**entries) for entries in WITH_OPTIONS]
    for policy in policies:
        originals.append((policy.spec.to_json(), policy.weights()))
    stem = folder / "policy"
    for i in range(count):
        text, weights = damaged_files(generator, *originals[i % len(originals)])
        stem.with_suffix(".json").write_bytes(text)
        stem.with_suffix(".safetensors").write_bytes(weights)
        try:
            policy = load_policy(stem)
        except ValueError as error:
            assert len(str(error)) < 3000
        else:
            loaded += 1
            train_briefly(policy)
    return loaded


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_refused_or_train(tmp_path, seed):
    assert check_damage(tmp_path, 80, seed) > 0


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused_or_train(tmp_path):
    with measured(seconds=600.0, mebibytes=512):
        loaded = check_damage(tmp_path, 10_000, 100)
    print(f"{loaded} of 10,000 damaged policies loaded and trained")
