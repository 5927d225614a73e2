"""Files of meta-learners: whatever is saved can be read, and is all that was there."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from agents.meta.inner import FixedRule
from tests.agents.meta.test_amortized import Blobs, embedding
from tests.helpers.few_shot_learners import perceptron

S = meta.Sinusoids(5)


def again(learner, path, module=None, family=S):
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
def test_whatever_a_learner_is_made_with_can_be_read(learner, arguments, tmp_path):
    made = learner(perceptron(), S, **arguments)
    loaded = again(made, tmp_path / "learner.pt")
    assert torch.equal(made.learn(2).initial, loaded.learn(2).initial)


def test_module_and_family_are_left_out_however_they_are_given(tmp_path):
    for made in (
        meta.MAML(module=perceptron(), family=S, inner_lr=0.02),
        meta.MAML(perceptron(), family=S, inner_lr=0.02),
        meta.FOMAML(family=S, module=perceptron(), inner_lr=0.02),
    ):
        loaded = again(made, tmp_path / "learner.pt")
        assert loaded.rule.lr == 0.02
        assert torch.equal(made.initial, loaded.initial)


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "learner.pt"
    rule = FixedRule(0.01)
    for made in (
        meta.MetaLearner(perceptron(), S, rule),
        meta.MetaLearner(perceptron(), S, rule=rule),
    ):
        with pytest.raises(TypeError, match="argument 'rule' cannot be saved"):
            made.save(path)
    made = meta.MAML(perceptron(), S, seed=np.random.default_rng(0))
    with pytest.raises(TypeError, match="argument 'seed' cannot be saved"):
        made.save(path)
    assert not path.exists()


class Positional(meta.MetaLearner):
    def __init__(self, module, family, lr=0.1, steps=1):
        super().__init__(module, family, FixedRule(lr), inner_steps=steps)


def test_arguments_by_place_are_kept(tmp_path):
    loaded = again(Positional(perceptron(), S, np.float64(0.3), 2), tmp_path / "a.pt")
    assert loaded.rule.lr == 0.3 and loaded.inner_steps == 2


def partly_frozen(seed):
    module = perceptron(seed)
    module[0].requires_grad_(False)
    module.register_buffer("shift", torch.full((2,), float(seed)))
    return module


def test_frozen_parameters_and_buffers_are_those_of_the_file(tmp_path):
    made = meta.MAML(partly_frozen(1), S)
    mine, theirs = partly_frozen(2), S.sample(1, np.random.default_rng(0)).support
    loaded = again(made, tmp_path / "a.pt", mine)
    x = theirs.inputs[0]
    torch.testing.assert_close(loaded.predict(x), made.predict(x))
    assert torch.equal(loaded.network.buffers["shift"], torch.ones(2))
    assert torch.equal(mine[0].weight, perceptron(2)[0].weight)  # a copy is changed


def normalised(seed=0, features=8):
    return nn.Sequential(embedding(seed), nn.BatchNorm1d(8), nn.Linear(8, features))


@pytest.mark.parametrize("learner", [meta.Prototypical, meta.Matching])
def test_running_statistics_are_those_of_the_file(learner, tmp_path):
    made = learner(normalised(), Blobs(), meta_batch=3).learn(2)
    loaded = again(made, tmp_path / "a.pt", normalised(1), Blobs())
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
def test_a_file_of_another_module_is_refused_by_what_differs(module, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        again(meta.MAML(perceptron(), S), tmp_path / "a.pt", module())


def test_a_file_that_is_no_learners_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    for content, message in (
        (perceptron().state_dict(), "is not a learner's file: it has no learner, arg"),
        ([1], "it holds a list"),
        (np.float64(1), "is not a learner's file"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            meta.MAML.load(path, perceptron(), S)
    for content in (b"", b"nothing of the kind", b'{"rule": "adam"}', b"PK\3\4", b"\x80\2"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a learner's file") as found:
            meta.MAML.load(path, perceptron(), S)
        assert "weights_only" not in "".join(traceback.format_exception(found.value))
    torch.save(perceptron(), path)  # a whole module, which would be code to run
    with pytest.raises(ValueError, match="is not a learner's file") as found:
        meta.MAML.load(path, perceptron(), S)
    assert "weights_only" not in str(found.value)
    with pytest.raises(OSError, match="missing"):
        meta.MAML.load(tmp_path / "missing.pt", perceptron(), S)


def test_folders_of_a_file_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c"
    loaded = again(meta.MAML(perceptron(), S, inner_lr=0.02), str(path))
    assert loaded.lr == 0.02 and path.is_file()
