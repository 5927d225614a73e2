"""Policy files that were made to do harm are refused, cheaply and in words."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil

import pytest

from agents import SHIPPED, load_policy
from tests.helpers.damage import measured
from tests.helpers.policies import train_briefly


@pytest.fixture
def stem(tmp_path):
    return copied("anytime", tmp_path)


def copied(name, folder):
    """Copy the two files of a shipped policy, and return their common stem."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(SHIPPED[name].with_suffix(suffix), folder / f"policy{suffix}")
    return folder / "policy"


def refused(stem):
    """Return the message of the ValueError, which names a file and costs little."""
    with measured(seconds=2.0, mebibytes=64), pytest.raises(ValueError) as caught:
        load_policy(stem)
    message = str(caught.value)
    assert str(stem) in message and len(message) < 3000
    assert message.encode(), "it can be printed"
    return message


# The description.


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{\x00}\x00", "'utf-8' codec can't decode"),
        (b'{"note": "\xe4"}', "'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        (b"\x00" * 4096, "Expecting value"),
        (b"[]", r"is not a policy description: \[\]"),
        (b"NaN", "is not a policy description: nan"),
        (b'{"note": ' + b"9" * 5000 + b"}", "is not a policy description: Exceeds"),
        (b'{"horizon": 1, "horizon": 20}', "key 'horizon' is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "key 'b' is there twice"),
        (b'{"note": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
    ],
)
def test_bytes_that_are_no_description_are_refused(stem, data, says):
    stem.with_suffix(".json").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        load_policy(stem)
    assert "policy.json" in refused(stem)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": [25, 10**12, 1]}, "layers must be integers in [1, 16384]"),
        ({"layers": [25, -64, 1]}, "layers must be integers in [1, 16384]"),
        ({"layers": [25.0, 64, 1]}, "layers must be integers in [1, 16384]"),
        ({"layers": "25, 64, 1"}, "'layers' is '25, 64, 1'"),
        ({"features": ["../../secret"]}, "unknown features ['../../secret']"),
        ({"features": [["loss"]]}, "unknown features [['loss']]"),
        ({"rule": "../../secret"}, "unknown rule '../../secret'"),
        ({"rule": "os:system"}, "unknown rule 'os:system'"),
        ({"rule": {"name": "adam", "lr": "1"}}, "rule 'adam' has no hyperparameter 'lr'"),
        ({"action": {"kind": "os.system"}}, "unknown action 'os.system'"),
        ({"activation": "__class__"}, "unknown activation '__class__'"),
        ({"feature_version": 10**6}, "policy of feature version 1000000"),
        ({"algorithm": 5}, "algorithm must be a string, got 5"),
        ({"command": ["rm"]}, "command must be a string, got ['rm']"),
        ({"timesteps": "many"}, "timesteps must be an integer"),
        ({"runs": 0}, "runs must be an integer, at least 1"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"seeds": "abc"}, "seeds must be a list of at most 100, got 'abc'"),
        ({"seeds": [0] * 101}, "seeds must be a list of at most 100"),
        ({"seeds": ["a"]}, "seeds must be an integer"),
        ({"previous_reward": "x" * 10**5}, "unknown previous_reward 'xxx"),
        ({"sha256": 5}, "describes 5"),
    ],
)
def test_an_entry_that_is_not_of_its_kind_is_refused(stem, changes, says):
    described = json.loads(stem.with_suffix(".json").read_text())
    stem.with_suffix(".json").write_text(json.dumps({**described, **changes}))
    assert says in refused(stem)


# The weights.


def rewrite(stem, change):
    """Change header and bytes of the weights, and describe the new ones by their hash.

    Args:
        change: called with the header, a dictionary, and the bytes; returns both, or the
            header as bytes.
    """
    file = stem.with_suffix(".safetensors")
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, content = change(json.loads(data[8:end]), data[end:])
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content)
    described = json.loads(stem.with_suffix(".json").read_text())
    described["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    stem.with_suffix(".json").write_text(json.dumps(described))


def entry(**changes):
    """Return a change of the first weight's entry in the header."""

    def change(header, content):
        name = next(name for name in header if name.endswith("0.weight"))
        return {**header, name: {**header[name], **changes}}, content

    return change


def renamed(header, content):
    name = next(name for name in header if name.endswith("0.weight"))
    moved = header.pop(name)
    return {**header, "../../secret": moved}, content


def without_the_last(header, content):
    name = max(header, key=lambda name: header[name]["data_offsets"][1])
    first, last = header.pop(name)["data_offsets"]
    return header, content[:first] + content[last:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (entry(dtype="I32"), "is of torch.int32, valid: float32"),
        (entry(dtype="F64"), "deserializing"),
        (entry(dtype="pickle"), "deserializing"),
        (entry(shape=[25, 64]), "size mismatch"),
        (entry(shape=[2**40, 2**40]), "overflow"),
        (entry(shape=[-1, 1600]), "deserializing"),
        (entry(data_offsets=[0, 2**63 - 1]), "deserializing"),
        (entry(data_offsets=[0, 0]), "deserializing"),
        (renamed, 'Unexpected key(s) in state_dict: "../../secret"'),
        (without_the_last, "need 5889 weights"),
        (
            lambda h, c: (
                {**h, "e": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
                c,
            ),
            'Unexpected key(s) in state_dict: "e"',
        ),
        (lambda h, c: (h, c + b"\0\0\0\0"), "need 5889 weights"),
        (lambda h, c: (b'{"a":' * 5000 + b"1" + b"}" * 5000, c), "recursion limit"),
        (lambda h, c: (b"[]", c), "deserializing"),
        (lambda h, c: (b"\xff" * 64, c), "deserializing"),
        (lambda h, c: (h, b"\x00\x00\xc0\x7f" + c[4:]), "not finite"),
        (lambda h, c: (h, b"\x00\x00\x80\x7f" + c[4:]), "not finite"),
    ],
)
def test_weights_whose_header_lies_are_refused(stem, change, says):
    rewrite(stem, change)
    assert says in refused(stem)


@pytest.mark.parametrize("length", [0, 2**32, 2**64 - 1])
def test_a_header_of_another_length_than_it_says_is_refused(stem, length):
    file = stem.with_suffix(".safetensors")
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    assert "need 5889 weights" in refused(stem)


# What is no file.


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "link to nothing"])
def test_what_is_no_file_is_missing(stem, suffix, kind):
    file = stem.with_suffix(suffix)
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if kind == "endless" else stem.with_name("nothing"))
    with measured(seconds=2.0, mebibytes=64):
        with pytest.raises(FileNotFoundError, match=rf"policy\{suffix} does not exist"):
            load_policy(stem)


# Random bytes.


@pytest.mark.parametrize("name", ["anytime", "dqn"])
def test_shipped_files_with_damaged_bytes_are_refused_or_train(name, tmp_path):
    generator, stem = random.Random(0), copied(name, tmp_path)
    originals = {s: stem.with_suffix(s).read_bytes() for s in (".json", ".safetensors")}
    loaded = 0
    with measured(seconds=60.0, mebibytes=128):
        for _ in range(200):
            for suffix, data in originals.items():
                stem.with_suffix(suffix).write_bytes(data)
            suffix = generator.choice([*originals])
            data = bytearray(originals[suffix])
            for _ in range(generator.randrange(1, 4)):
                where, kind = generator.randrange(len(data)), generator.random()
                if kind < 0.6:
                    data[where] = generator.choice(b"0123456789aeiou-. ")
                elif kind < 0.8:
                    data[where] = generator.randrange(256)
                else:
                    del data[where : where + generator.randrange(1, 100)]
            stem.with_suffix(suffix).write_bytes(data)
            try:
                policy = load_policy(stem)
            except ValueError as error:
                assert str(stem) in str(error)
            else:
                assert suffix == ".json", "every byte of the weights is in their hash"
                loaded += 1
                train_briefly(policy)
    assert loaded
