"""Files of learners: everything that is saved is restored, other files are refused."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from agents.meta.inner import FixedRule
from tests.helpers.meta_tasks import Blobs, embedding, perceptron, sample_tasks

SINES = meta.Sinusoids(5)


def saved_and_loaded(learner, path, module=None, family=SINES):
    """Save a learner, and return a new one from the file."""
    learner.save(path)
    return type(learner).load(path, module or perceptron(seed=1), family)


@pytest.mark.parametrize(
    ("learner", "arguments"),
    [
        (meta.MAML, {"inner_lr": np.float64(0.02)}),
        (meta.MAML, {"inner_lr": np.float32(0.02), "adapts": ["2.", np.str_("0.bias")]}),
        (meta.MAML, {"inner_steps": np.int64(2), "seed": np.int64(3)}),
        (meta.MetaSGD, {"inner_lr": (np.float64(0.01), 0.02), "seed": np.int64(3)}),
        (meta.MetaLSTM, {"seed": np.int64(3), "inner_steps": np.int32(2)}),
        (meta.LearnedRule, {"seed": np.uint8(3)}),
        (meta.Reptile, {"rule": {"name": "momentum", "momentum": np.float64(0.8)}}),
    ],
)
def test_numpy_arguments_are_saved(learner, arguments, tmp_path):
    made = learner(perceptron(), SINES, **arguments)
    loaded = saved_and_loaded(made, tmp_path / "learner.pt")
    assert torch.equal(made.learn(2).initial, loaded.learn(2).initial)


def test_module_and_family_are_not_saved(tmp_path):
    for made in (
        meta.MAML(module=perceptron(), family=SINES, inner_lr=0.02),
        meta.MAML(perceptron(), family=SINES, inner_lr=0.02),
        meta.FOMAML(family=SINES, module=perceptron(), inner_lr=0.02),
    ):
        loaded = saved_and_loaded(made, tmp_path / "learner.pt")
        assert loaded.rule.lr == 0.02
        assert torch.equal(made.initial, loaded.initial)


def test_arguments_that_a_file_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "learner.pt"
    rule = FixedRule(0.01)
    for made in (
        meta.MetaLearner(perceptron(), SINES, rule),
        meta.MetaLearner(perceptron(), SINES, rule=rule),
    ):
        with pytest.raises(TypeError, match="argument 'rule' cannot be saved"):
            made.save(path)
    made = meta.MAML(perceptron(), SINES, seed=np.random.default_rng(0))
    with pytest.raises(TypeError, match="argument 'seed' cannot be saved"):
        made.save(path)
    assert not path.exists()


class Positional(meta.MetaLearner):
    def __init__(self, module, family, lr=0.1, steps=1):
        super().__init__(module, family, FixedRule(lr), inner_steps=steps)


def test_positional_arguments_are_saved(tmp_path):
    loaded = saved_and_loaded(
        Positional(perceptron(), SINES, np.float64(0.3), 2), tmp_path / "a.pt"
    )
    assert loaded.rule.lr == 0.3 and loaded.inner_steps == 2


def partly_frozen(seed):
    module = perceptron(seed)
    module[0].requires_grad_(False)
    module.register_buffer("shift", torch.full((2,), float(seed)))
    return module


def test_frozen_parameters_and_buffers_are_restored(tmp_path):
    made = meta.MAML(partly_frozen(1), SINES)
    given = partly_frozen(2)
    loaded = saved_and_loaded(made, tmp_path / "a.pt", given)
    x = sample_tasks(SINES, 1).support.inputs[0]
    torch.testing.assert_close(loaded.predict(x), made.predict(x))
    assert torch.equal(loaded.network.buffers["shift"], torch.ones(2))
    assert torch.equal(given[0].weight, perceptron(2)[0].weight)  # only a copy changes


def normalised(seed=0, features=8):
    return nn.Sequential(embedding(seed), nn.BatchNorm1d(8), nn.Linear(8, features))


@pytest.mark.parametrize("learner", [meta.Prototypical, meta.Matching])
def test_running_statistics_are_restored(learner, tmp_path):
    made = learner(normalised(), Blobs(), meta_batch=3).learn(2)
    loaded = saved_and_loaded(made, tmp_path / "a.pt", normalised(1), Blobs())
    assert loaded.module[1].num_batches_tracked == 12
    found = [each.evaluate(tasks=3).losses for each in (made, loaded)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: perceptron(width=9), r"0.weight \[8, 1\].*got one with 0.weight \[9, 1\]"),
        (lambda: nn.Sequential(nn.Sequential(*perceptron())), "got one with no 0.weight"),
        (lambda: partly_frozen(0), r"no shift.*fixed 0.weight \[8, 1\].*fixed shift \[2\]"),
    ],
)
def test_refusal_of_another_module_names_the_differences(module, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        saved_and_loaded(meta.MAML(perceptron(), SINES), tmp_path / "a.pt", module())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    for content, message in (
        (perceptron().state_dict(), "is not a learner's file: it has no learner, arg"),
        ([1], "it holds a list"),
        (np.float64(1), "is not a learner's file"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            meta.MAML.load(path, perceptron(), SINES)
    for content in (b"", b"nothing of the kind", b'{"rule": "adam"}', b"PK\3\4", b"\x80\2"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a learner's file") as found:
            meta.MAML.load(path, perceptron(), SINES)
        assert "weights_only" not in "".join(traceback.format_exception(found.value))
    torch.save(perceptron(), path)  # a whole module, which needs code to be run
    with pytest.raises(ValueError, match="is not a learner's file") as found:
        meta.MAML.load(path, perceptron(), SINES)
    assert "weights_only" not in str(found.value)
    with pytest.raises(OSError, match="missing"):
        meta.MAML.load(tmp_path / "missing.pt", perceptron(), SINES)


def test_missing_folders_are_created(tmp_path):
    path = tmp_path / "a" / "b" / "c"
    loaded = saved_and_loaded(meta.MAML(perceptron(), SINES, inner_lr=0.02), str(path))
    assert loaded.lr == 0.02 and path.is_file()
