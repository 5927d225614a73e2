"""Refusals of learners: messages name the argument and quote its value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.inner import FixedRule
from agents.meta.maml import mask_of
from optenv.tasks.stacked import flat
from tests.helpers.meta_tasks import (
    Blobs,
    DoubleSinusoids,
    embedding,
    perceptron,
    process,
    sample_tasks,
)

SINES = meta.Sinusoids(5)
X, Y = torch.ones(3, 1), torch.ones(3, 1)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be a positive integer, got 0"),
        ({"meta_batch": 1.5}, "meta_batch must be a positive integer, got 1.5"),
        ({"vectorize": "yes"}, "vectorize must be 'auto' or a bool, got 'yes'"),
    ],
)
def test_invalid_arguments_of_maml_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta.MAML(perceptron(), meta.Sinusoids(), **arguments)


@pytest.mark.parametrize(
    ("learner", "arguments", "message"),
    [
        (meta.MetaLSTM, {"inner_lr": 1.0}, "inner_lr must be .* less than 1, got 1.0"),
        (meta.MetaSGD, {"inner_lr": (0.2, 0.1)}, r"lower first, got \(0.2, 0.1\)"),
        (meta.LSLR, {"inner_steps": -1}, "inner_steps must be .*got -1"),
        (meta.MetaLSTM, {"inner_steps": 0}, "inner_steps must be .*got 0"),
        (meta.LearnedRule, {"inner_steps": 0}, "inner_steps must be .*got 0"),
        (meta.MAML, {"grad_clip": 0}, "grad_clip must be positive.*got 0"),
        (meta.Reptile, {"inner_batch": 0}, "inner_batch must be .*got 0"),
        (meta.MAML, {"adapts": []}, r"adapts must name parameters, got \(\)"),
    ],
)
def test_invalid_values_are_quoted(learner, arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(perceptron(), SINES, **arguments)


@pytest.mark.parametrize(
    "learner",
    [meta.MAML, meta.LSLR, meta.HypergradientLR, meta.MetaLSTM, meta.LearnedRule],
)
@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf])
def test_inner_lr_that_is_not_positive_is_refused(learner, value):
    with pytest.raises(ValueError, match=f"inner_lr must be positive.*got {value}"):
        learner(perceptron(), SINES, inner_lr=value)


@pytest.mark.parametrize(
    ("learner", "arguments", "message"),
    [
        (meta.MAML, {"lr": 0.1}, "MAML has no argument 'lr'; did you mean 'inner_lr'"),
        (meta.FOMAML, {"first_order": True}, "FOMAML sets first_order itself"),
        (meta.MetaLSTM, {"first_order": True}, "MetaLSTM sets first_order itself"),
        (meta.MAML, {"rule": "adam"}, "MAML sets rule itself, got rule='adam'"),
        (meta.MAML, {"inner_lr": "0.1"}, "inner_lr must be a number, got '0.1'"),
    ],
)
def test_unknown_and_fixed_arguments_are_named(learner, arguments, message):
    with pytest.raises(TypeError, match=message):
        learner(perceptron(), SINES, **arguments)


def test_invalid_steps_and_supports_are_quoted():
    learner = meta.MAML(perceptron(), SINES)
    for steps in ((), 5):
        with pytest.raises(ValueError, match="at least one, got"):
            learner.evaluate(steps=steps)
    with pytest.raises(ValueError, match="steps must be an integer from 0 on, got -1"):
        learner.evaluate(steps=[-1])
    with pytest.raises(ValueError, match="steps must be an integer from 0 on, got -2"):
        learner.adapt(X, Y, steps=-2)
    process_learner = meta.NeuralProcess(process(), SINES)
    for predict in (learner.predict, process_learner.predict):
        with pytest.raises(ValueError, match=r"at least one example.*got 0 and 0"):
            predict(X, (X[:0], Y[:0]))
        with pytest.raises(ValueError, match="as many inputs as targets, got 3 and 2"):
            predict(X, (X, Y[:2]))


# Names of parameters that adapt.


def test_string_is_one_name():
    one, two = (meta.MAML(perceptron(), SINES, adapts=names) for names in ("2", ["2"]))
    assert torch.equal(one.mask, two.mask) and 0 < one.mask.sum() < len(one.mask)
    family = meta.Streams(meta.SineStream(tasks=2, examples=4))
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    assert meta.OML(module, family, adapts="1.").mask.sum() == 5
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        meta.MAML(perceptron(), SINES, adapts="head")
    classes = meta.Classes(np.zeros((2, 1, 2, 2), np.float32), ("ab", "a"))
    assert classes.within("ab").groups == ("ab",)


def test_mask_matches_whole_names():
    module = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(12)))
    for name in ("1", "1.", "1.weight", ["1"]):
        assert mask_of(module, name).nonzero().flatten().tolist() == [1]
    assert mask_of(module, ("1", "10")).nonzero().flatten().tolist() == [1, 10]
    for name in ("1.w", "12", ""):
        with pytest.raises(ValueError, match=f"called '{name}',.* are '0.weight', '1.w"):
            mask_of(module, name)
    family = meta.Streams(meta.SineStream(tasks=2, examples=4))
    wide = nn.Sequential(nn.Linear(3, 1), *(nn.Linear(1, 1) for _ in range(11)))
    assert meta.OML(wide, family, adapts="1").mask.sum() == 2


def test_module_of_one_layer_is_its_own_head():
    learner = meta.ANIL(nn.Linear(1, 1), SINES)
    assert learner.mask.all()


class Tied(nn.Module):
    """A last layer that shares its weight with the first."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.between = nn.Linear(3, 3)
        self.head.weight = self.inner.weight
        self.last = nn.Identity()
        self.head = self._modules.pop("head")  # after `between`

    def forward(self, x):
        return self.head(self.between(self.inner(x)))


class WithoutLayers(nn.Module):
    """Parameters that are in no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.ones(1, 1)) for _ in range(2))

    def forward(self, x):
        return (x @ self.first) @ self.second


def test_ambiguous_last_layer_is_refused():
    with pytest.raises(ValueError, match=r"'head' shares a parameter with 'inner.weight'"):
        meta.ANIL(Tied(), Blobs(ways=3))
    with pytest.raises(ValueError, match="first, second, which are in no layer"):
        meta.ANIL(WithoutLayers(), SINES)
    assert meta.ANIL(WithoutLayers(), SINES, adapts=["second"]).mask.tolist() == [
        False,
        True,
    ]


# Modules, rules and losses.


def test_module_with_dropout_is_refused():
    module = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="draws from the global random generator"):
        meta.MAML(module, meta.Sinusoids())


class PairOfOutputs(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class WithoutLoss(meta.Family):
    def sample(self, count, rng):
        return SINES.sample(count, rng)


def test_module_and_family_that_do_not_fit_are_named():
    with pytest.raises(
        TypeError, match="PairOfOutputs must return one tensor, got a tuple"
    ) as found:
        meta.MAML(PairOfOutputs(1, 1), SINES)
    assert "factory" not in "".join(getattr(found.value, "__notes__", []))
    for learner in (meta.MAML, meta.ANIL, meta.MetaSGD, meta.LearnedRule, meta.Reptile):
        with pytest.raises(ValueError, match="require gradients, got ReLU without any"):
            learner(nn.ReLU(), SINES)
        with pytest.raises(ValueError, match="attribute `loss`"):
            learner(perceptron(), WithoutLoss())
    with pytest.raises(ValueError, match="require gradients, got ReLU without any"):
        meta.Prototypical(nn.ReLU(), Blobs())


def test_rule_and_classes_of_other_types_are_named():
    for rule in ("sgd", FixedRule, torch.optim.SGD):
        with pytest.raises(
            TypeError, match=r"rule must be an .*InnerRule, such as .*FixedRule"
        ):
            meta.MetaLearner(perceptron(), SINES, rule)
    for classes in ("x.zip", np.zeros((5, 20, 2, 2)), lambda: "x.zip"):
        with pytest.raises(TypeError, match="classes must be Classes, as omniglot"):
            meta.FewShot(classes)
    vectors = meta.Classes(np.zeros((5, 20, 4), np.float32), ("a",) * 5)
    with pytest.raises(ValueError, match=r"\[classes, n, side, side\], got \[5, 20, 4\]"):
        meta.FewShot(vectors)


@pytest.mark.parametrize("rule", ["orthogonal-adam", "network"])
def test_reptile_trains_by_rules_that_need_shapes(rule):
    learner = meta.Reptile(perceptron(), SINES, rule=rule).learn(2)
    assert learner.dropped == 0 and learner.initial.isfinite().all()
    assert not torch.equal(learner.initial, flat(perceptron()))
    with pytest.raises(ValueError, match="needs the shapes"):
        FixedRule(0.1, rule)


def test_neural_process_does_not_mix_precisions():
    meta.NeuralProcess(process().double(), DoubleSinusoids(5), meta_batch=2).learn(1)
    with pytest.raises(ValueError, match=r"got torch.float64 and torch.float32"):
        meta.NeuralProcess(process().double(), SINES)


class FunctionLoss(Blobs):
    loss = F.cross_entropy  # becomes a method of the class


def test_torchs_cross_entropy_is_classification():
    batch = torch.rand(4, 3), torch.arange(4) % 3
    module = nn.Linear(3, 4)
    scores = [
        meta.OnlineSGD(module, x, lr=0.1).score(*batch)
        for x in (F.cross_entropy, "cross_entropy")
    ]
    assert scores[0] == scores[1] and 0 <= scores[0] <= 1
    for learner in (meta.MAML, meta.Prototypical):
        found = [learner(module, f).evaluate(tasks=3) for f in (FunctionLoss(), Blobs())]
        np.testing.assert_array_equal(found[0].accuracies, found[1].accuracies)
        np.testing.assert_allclose(found[0].losses, found[1].losses)


@pytest.mark.parametrize("learner", [meta.Prototypical, meta.Matching])
def test_classifier_refuses_regression(learner):
    with pytest.raises(ValueError, match=r"is a classifier.*float32 and the loss 'mse'"):
        learner(perceptron(), SINES)

    class Distance(Blobs):
        loss = "mse"

    with pytest.raises(ValueError, match=r"is a classifier.*int64 and the loss 'mse'"):
        learner(embedding(), Distance())


class Smoothed(Blobs):
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)


def test_classifier_accepts_a_custom_loss():
    learner = meta.Prototypical(embedding(), Smoothed()).learn(1)
    assert learner.evaluate(Smoothed(ways=3), tasks=2).accuracies is None


def test_neural_process_refuses_classification():
    with pytest.raises(ValueError, match=r"is for regression.*the loss 'cross_entropy'"):
        meta.NeuralProcess(meta.ProcessNetwork(3), Blobs())


class MeanOnly(meta.ProcessNetwork):
    def forward(self, inputs, targets, query):
        return super().forward(inputs, targets, query)[0]


def test_neural_process_refuses_other_modules():
    for module, reason in (
        (perceptron(), "got Sequential, whose forward takes other arguments"),
        (nn.GRU(1, 1), "got GRU, whose forward takes other arguments"),
        (MeanOnly(), "got MeanOnly, which returns a Tensor"),
    ):
        with pytest.raises(TypeError, match=f"must be a ProcessNetwork.*{reason}"):
            meta.NeuralProcess(module, SINES)
    with pytest.raises(TypeError, match=r"torch.nn.Module, got 'net'"):
        meta.NeuralProcess("net", SINES)


# Supports.

LEARNERS = {
    "MAML": lambda: meta.MAML(perceptron(), SINES),
    "NeuralProcess": lambda: meta.NeuralProcess(process(), SINES),
}
each = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


@each
def test_support_that_is_not_a_pair_of_tensors_is_refused(make):
    learner, x = make(), torch.ones(2, 1)  # two rows, which could be unpacked
    for support, got in (
        (x, r"one tensor \[2, 1\]"),
        ((x,), "a tuple of Tensor"),
        (sample_tasks(SINES), "a Episodes of Examples, Examples"),
        ((x.numpy(), x.numpy()), "a tuple of ndarray, ndarray"),
        ("x", "'x'"),
    ):
        with pytest.raises(TypeError, match=rf"pair of tensors \(inputs, .*got {got}"):
            learner.predict(x, support)


@each
def test_support_of_several_tasks_is_refused(make):
    learner, (support, query) = make(), sample_tasks(SINES)
    one = meta.Examples(*(part[0] for part in support))
    message = r"of one task.*have 2 dimensions, got inputs \[3, 5, 1\] with 3"
    with pytest.raises(ValueError, match=message):
        learner.predict(query.inputs[0], support)
    with pytest.raises(ValueError, match=r"got inputs \[3, 10, 1\] with 3"):
        learner.predict(query.inputs, one)
    assert learner.predict(query.inputs[0], one).shape == (10, 1)
    with pytest.raises(TypeError, match="inputs must be a tensor"):
        learner.predict(query.inputs[0].numpy(), one)


def test_adaptation_to_several_tasks_is_refused():
    learner = meta.MAML(perceptron(), SINES)
    with pytest.raises(ValueError, match=r"got inputs \[3, 5, 1\] with 3"):
        learner.adapt(*sample_tasks(SINES).support)
    with pytest.raises(ValueError, match=r"got inputs \[3, 10, 1\] with 3"):
        learner.predict(sample_tasks(SINES).query.inputs)
