"""What meta-learners refuse, and say of it; what they have to put up with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.continual.oml import OML, Streams
from agents.meta.continual.online import OnlineSGD, Replay
from agents.meta.continual.streams import SineStream
from agents.meta.inner import FixedRule
from optenv.tasks.stacked import flat
from tests.agents.meta.test_amortized import Blobs, embedding, process
from tests.helpers.few_shot_learners import DoubleSinusoids, each, perceptron

S = meta.Sinusoids(5)
X, Y = torch.ones(3, 1), torch.ones(3, 1)


def test_a_string_is_one_name():
    one, two = (meta.MAML(perceptron(), S, adapts=names) for names in ("2", ["2"]))
    assert torch.equal(one.mask, two.mask) and 0 < one.mask.sum() < len(one.mask)
    family = Streams(SineStream(tasks=2, examples=4))
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    assert OML(module, family, adapts="1.").mask.sum() == 5
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        meta.MAML(perceptron(), S, adapts="head")
    classes = meta.Classes(np.zeros((2, 1, 2, 2), np.float32), ("ab", "a"))
    assert classes.within("ab").groups == ("ab",)


def test_what_is_adapted_is_not_the_learners_own():
    learner = meta.MAML(perceptron(), S)
    for value in learner.adapt(X, Y, steps=0).values():
        value.add_(1)
    assert torch.equal(learner.initial, flat(perceptron()))


@pytest.mark.parametrize(
    ("answer", "made"), [(np.bool_(False), 1), (0, 1), (None, 3), (np.bool_(True), 3)]
)
def test_learning_ends_at_whatever_is_false(answer, made):
    learner = meta.MAML(perceptron(), S, meta_batch=1)
    assert learner.learn(3, lambda *_: answer).iterations == made


@each
def test_every_learner_can_be_evaluated_without_arguments_but_tasks(learner):
    found = learner(perceptron(), S).evaluate(tasks=2)
    most = 5 if learner in (meta.LSLR, meta.MetaLSTM) else 10
    assert found.steps == tuple(s for s in (0, 1, 5, 10) if s <= most)


@each
def test_double_precision_is_kept_and_not_mixed(learner):
    made = learner(perceptron().double(), DoubleSinusoids(5), meta_batch=2).learn(2)
    assert all(p.dtype == torch.float64 for p in made.parameters)
    assert not torch.equal(made.initial, flat(perceptron().double()))
    assert made.evaluate(tasks=2, steps=[1]).losses.dtype == np.float64
    with pytest.raises(ValueError, match=r"got torch.float64 and torch.float32"):
        learner(perceptron().double(), S)


def test_a_process_in_double_precision_is_not_mixed():
    meta.NeuralProcess(process().double(), DoubleSinusoids(5), meta_batch=2).learn(1)
    with pytest.raises(ValueError, match=r"got torch.float64 and torch.float32"):
        meta.NeuralProcess(process().double(), S)


def test_a_module_of_one_layer_is_its_own_head():
    learner = meta.ANIL(nn.Linear(1, 1), S)
    assert learner.mask.all()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.between = nn.Linear(3, 3)
        self.head.weight = self.inner.weight
        self.last = nn.Identity()
        self.head = self._modules.pop("head")  # behind `between`

    def forward(self, x):
        return self.head(self.between(self.inner(x)))


class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.ones(1, 1)) for _ in range(2))

    def forward(self, x):
        return (x @ self.first) @ self.second


def test_a_head_that_is_not_alone_is_refused():
    with pytest.raises(ValueError, match=r"'head' shares a parameter with 'inner.weight'"):
        meta.ANIL(Tied(), Blobs(ways=3))
    with pytest.raises(ValueError, match="first, second, which are in no layer"):
        meta.ANIL(Loose(), S)
    assert meta.ANIL(Loose(), S, adapts=["second"]).mask.tolist() == [False, True]


class Functional(Blobs):
    loss = F.cross_entropy  # a method, as Python has it


def test_torchs_cross_entropy_is_classification():
    batch = torch.rand(4, 3), torch.arange(4) % 3
    module = nn.Linear(3, 4)
    scores = [
        OnlineSGD(module, x, lr=0.1).score(*batch)
        for x in (F.cross_entropy, "cross_entropy")
    ]
    assert scores[0] == scores[1] and 0 <= scores[0] <= 1
    for learner in (meta.MAML, meta.Prototypical):
        found = [learner(module, f).evaluate(tasks=3) for f in (Functional(), Blobs())]
        np.testing.assert_array_equal(found[0].accuracies, found[1].accuracies)
        np.testing.assert_allclose(found[0].losses, found[1].losses)


@pytest.mark.parametrize("rule", ["orthogonal-adam", "network"])
def test_reptile_trains_by_rules_that_need_shapes(rule):
    learner = meta.Reptile(perceptron(), S, rule=rule).learn(2)
    assert learner.dropped == 0 and learner.initial.isfinite().all()
    assert not torch.equal(learner.initial, flat(perceptron()))
    with pytest.raises(ValueError, match="needs the shapes"):
        FixedRule(0.1, rule)


@pytest.mark.parametrize(
    "learner",
    [meta.MAML, meta.LSLR, meta.HypergradientLR, meta.MetaLSTM, meta.LearnedRule],
)
@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf])
def test_rates_that_are_not_positive_are_refused(learner, value):
    with pytest.raises(ValueError, match=f"inner_lr must be positive.*got {value}"):
        learner(perceptron(), S, inner_lr=value)


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
def test_bad_values_are_quoted(learner, arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(perceptron(), S, **arguments)


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
def test_arguments_that_there_are_not_are_named(learner, arguments, message):
    with pytest.raises(TypeError, match=message):
        learner(perceptron(), S, **arguments)


def test_bad_steps_and_supports_are_quoted():
    learner = meta.MAML(perceptron(), S)
    for steps in ((), 5):
        with pytest.raises(ValueError, match="at least one, got"):
            learner.evaluate(steps=steps)
    with pytest.raises(ValueError, match="steps must be an integer from 0 on, got -1"):
        learner.evaluate(steps=[-1])
    with pytest.raises(ValueError, match="steps must be an integer from 0 on, got -2"):
        learner.adapt(X, Y, steps=-2)
    process_learner = meta.NeuralProcess(process(), S)
    for predict in (learner.predict, process_learner.predict):
        with pytest.raises(ValueError, match=r"at least one example.*got 0 and 0"):
            predict(X, (X[:0], Y[:0]))
        with pytest.raises(ValueError, match="as many inputs as targets, got 3 and 2"):
            predict(X, (X, Y[:2]))


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Aimless(meta.Family):
    def sample(self, count, rng):
        return S.sample(count, rng)


def test_modules_and_families_that_do_not_fit_are_named():
    with pytest.raises(
        TypeError, match="Pair must return one tensor, got a tuple"
    ) as found:
        meta.MAML(Pair(1, 1), S)
    assert "factory" not in "".join(getattr(found.value, "__notes__", []))
    for learner in (meta.MAML, meta.ANIL, meta.MetaSGD, meta.LearnedRule, meta.Reptile):
        with pytest.raises(ValueError, match="require gradients, got ReLU without any"):
            learner(nn.ReLU(), S)
        with pytest.raises(ValueError, match="attribute `loss`"):
            learner(perceptron(), Aimless())
    with pytest.raises(ValueError, match="require gradients, got ReLU without any"):
        meta.Prototypical(nn.ReLU(), Blobs())


def test_nothing_needs_to_be_replayed():
    batch = torch.rand(4, 3), torch.arange(4) % 3
    module = embedding()
    plain, replay = (
        learner(module, "cross_entropy", lr=0.1, **arguments)
        for learner, arguments in ((OnlineSGD, {}), (Replay, {"replayed": 0}))
    )
    for learner in (plain, replay, plain, replay):
        learner.observe(*batch)
    assert torch.equal(plain.params, replay.params)
    with pytest.raises(ValueError, match="replayed must be an integer from 0 on, got -1"):
        Replay(module, "cross_entropy", lr=0.1, replayed=-1)
