"""The contract of all learners in ``agents.meta``, drawn from its two tables.

A new learner is picked up as soon as it is in a table; ``tests/helpers/meta_tasks.py`` has
the families and modules that they are tested with.
"""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents import meta
from tests.helpers.meta_tasks import (
    GRADIENT_BASED,
    Blobs,
    each_gradient_based,
    make_learner,
    parts_of,
    perceptron,
    sample_stream,
    stream_network,
)

each_learner = pytest.mark.parametrize("learner", meta.LEARNERS.values(), ids=meta.LEARNERS)
each_online = pytest.mark.parametrize(
    "learner", meta.ONLINE_LEARNERS.values(), ids=meta.ONLINE_LEARNERS
)
STREAM = meta.DigitStream(tasks=2, examples=20, tests=10)


def test_tables_have_every_exported_learner():
    exported = {name: getattr(meta, name) for name in meta.__all__}
    classes = {n: c for n, c in exported.items() if inspect.isclass(c)}
    for base, table in (
        (meta.Learner, meta.LEARNERS),
        (meta.OnlineLearner, meta.ONLINE_LEARNERS),
    ):
        concrete = {
            name: cls
            for name, cls in classes.items()
            if issubclass(cls, base)
            and not inspect.isabstract(cls)
            and cls is not meta.MetaLearner  # takes a rule: subclasses choose it
        }
        assert concrete == table


# Few-shot learners.


@each_learner
def test_learning_is_repeated_by_its_seed(learner):
    runs = []
    for _ in range(2):
        losses = []
        made = make_learner(learner, meta_batch=2, seed=3)
        before = [p.detach().clone() for p in made.parameters]
        assert made.learn(3, lambda _, loss, losses=losses: losses.append(loss)) is made
        assert made.iterations == 3 and made.dropped == 0
        assert not all(map(torch.equal, before, made.parameters))
        runs.append((losses, made.parameters))
    assert runs[0][0] == runs[1][0] and len(runs[0][0]) == 3
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


@each_learner
def test_given_module_is_not_changed(learner):
    make_module, family, required = parts_of(learner)
    module = make_module()
    before = copy.deepcopy(module.state_dict())
    made = learner(module, family, meta_batch=2, **required).learn(2)
    made.evaluate(tasks=2)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.requires_grad is False


@each_learner
def test_saved_learner_continues_as_if_never_saved(learner, tmp_path):
    make_module, family, required = parts_of(learner)
    if learner in GRADIENT_BASED.values():
        required = {**required, "inner_lr": 0.02}
    made = learner(make_module(), family, meta_batch=2, seed=3, **required).learn(3)
    made.save(tmp_path / "learner.pt")
    loaded = learner.load(tmp_path / "learner.pt", make_module(seed=1), family)
    assert loaded.iterations == 3 and loaded.dropped == 0
    found = [each.evaluate(tasks=3).losses for each in (made, loaded)]
    np.testing.assert_array_equal(*found)
    for each in (made, loaded):
        each.learn(3)
    pairs = zip(made.parameters, loaded.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@each_gradient_based
def test_file_of_another_module_or_class_is_refused(learner, tmp_path):
    family = meta.Sinusoids()
    learner(perceptron(), family).save(tmp_path / "learner.pt")
    with pytest.raises(ValueError, match="got one with"):
        learner.load(tmp_path / "learner.pt", perceptron(width=9), family)
    other = meta.MAML if learner is not meta.MAML else meta.ANIL
    with pytest.raises(ValueError, match=f"holds a {learner.__name__}, not"):
        other.load(tmp_path / "learner.pt", perceptron(), family)


@each_learner
def test_evaluation_equals_prediction_on_each_task(learner):
    inner_lr = {"inner_lr": 0.02} if issubclass(learner, meta.MetaLearner) else {}
    made = make_learner(learner, **inner_lr)
    before = [p.detach().clone() for p in made.parameters]
    adapts = isinstance(made, meta.MetaLearner)
    found = made.evaluate(tasks=4, seed=5, **({"steps": (2, 0)} if adapts else {}))
    assert found.steps == ((0, 2) if adapts else (0,))
    assert found.losses.shape == (len(found.steps), 4)
    support, query = made.family.sample(4, np.random.default_rng(5))
    for i in range(4):
        known = support.inputs[i], support.targets[i]
        for row, steps in enumerate(found.steps):
            if adapts:
                given = (known, steps) if steps else (None,)
                outputs = made.predict(query.inputs[i], *given)
            else:
                outputs = made.predict(query.inputs[i], known)
            if made.family.loss == "mse":
                loss = F.mse_loss(outputs, query.targets[i])
                assert found.accuracies is None
            else:
                loss = F.cross_entropy(outputs, query.targets[i])
                right = (outputs.argmax(1) == query.targets[i]).float().mean()
                assert found.accuracies[row, i] == pytest.approx(float(right))
            assert found.losses[row, i] == pytest.approx(float(loss), rel=1e-4)
    assert all(map(torch.equal, before, made.parameters))


@each_gradient_based
def test_adaptation_does_not_change_the_learner(learner):
    made = learner(perceptron(), meta.Sinusoids(), inner_lr=0.02)
    support, query = made.family.sample(1, np.random.default_rng(0))
    before = [p.detach().clone() for p in made.parameters]
    adapted = made.adapt(support.inputs[0], support.targets[0])
    for name, value in perceptron().named_parameters():
        assert adapted[name].shape == value.shape and not adapted[name].requires_grad
    module = perceptron()
    module.load_state_dict(adapted)
    known = (support.inputs[0], support.targets[0])
    outputs = made.predict(query.inputs[0], known)
    torch.testing.assert_close(outputs, module(query.inputs[0]).detach())
    plain = made.predict(query.inputs[0])
    torch.testing.assert_close(plain, perceptron()(query.inputs[0]).detach())
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters, strict=True))
    assert all(p.grad is None for p in made.parameters)


@each_learner
def test_unknown_argument_is_refused_with_a_suggestion(learner):
    message = rf"{learner.__name__} has no argument 'meta_lrr'; did you mean 'meta_lr'"
    with pytest.raises(TypeError, match=message):
        make_learner(learner, meta_lrr=0.1)


#: Outer steps after which a learner has to be better than before.
ITERATIONS = {meta.MetaLSTM: 30, meta.OML: 80, meta.NeuralProcess: 200}

#: Arguments with which a learner learns fast enough for a test.
ARGUMENTS = {
    meta.Reptile: {"meta_batch": 10},
    meta.OML: {"meta_lr": 0.003, "inner_batch": 4, "inner_lr": 0.02},
}


@pytest.mark.slow
@pytest.mark.training
@each_learner
def test_learning_lowers_the_loss_on_fresh_tasks(learner):
    make_module, family, required = parts_of(learner)
    steps = {"steps": [1]} if learner in GRADIENT_BASED.values() else {}
    if learner in GRADIENT_BASED.values():
        module = perceptron(width=20)
    else:
        module = make_module()
    if learner is meta.Reptile:
        family = meta.Sinusoids(variant="reptile", shots=20)
    elif learner is meta.OML:
        steps = {"steps": [6]}
    arguments = ARGUMENTS.get(learner, {"meta_lr": 0.01})
    made = learner(module, family, **required, **arguments)
    before = made.evaluate(tasks=300, **steps).losses
    made.learn(ITERATIONS.get(learner, 50))
    gain = before - made.evaluate(tasks=300, **steps).losses
    assert gain.mean() > 4 * gain.std() / np.sqrt(300)


# Online learners.


@each_online
def test_online_learning_is_repeated_by_its_seed(learner):
    stream = sample_stream(STREAM)
    runs = []
    for _ in range(2):
        made = learner(stream_network(), "cross_entropy", lr=0.1, seed=2)
        runs.append((made.follow(stream).scores, made.params))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0].shape == (2, 2)


@each_online
def test_online_scores_equal_predictions_of_the_current_module(learner):
    given, stream = stream_network(), sample_stream(STREAM)
    before = copy.deepcopy(given.state_dict())
    made = learner(given, "cross_entropy", lr=0.1)
    scores = made.follow(stream).scores
    for task, (x, y) in enumerate(zip(*stream[2:], strict=True)):
        outputs = made.predict(x)
        torch.testing.assert_close(outputs, made.module(x).detach())
        right = float((outputs.argmax(1) == y).float().mean())
        assert made.score(x, y) == scores[-1, task] == pytest.approx(right)
    assert all(torch.equal(before[name], x) for name, x in given.state_dict().items())


@each_online
def test_unknown_online_argument_is_refused_with_a_suggestion(learner):
    message = rf"{learner.__name__} has no argument 'seeed'; did you mean 'seed'"
    with pytest.raises(TypeError, match=message):
        learner(stream_network(), "cross_entropy", lr=0.1, seeed=1)


# Docstrings.

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(meta.__path__, "agents.meta.")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert not result.failed


@pytest.mark.parametrize("name", [*meta.LEARNERS, *meta.ONLINE_LEARNERS])
def test_docstring_of_a_learner_has_formula_arguments_and_example(name):
    text = inspect.getdoc(getattr(meta, name))
    for part in (":math:", "Args:", "Raises:", "Example:"):
        assert part in text
    assert "eta-learns" in text or "is meta-learned" in text


def test_blobs_can_be_classified_by_gradient_based_learners():
    classifier = parts_of(meta.Prototypical)[0]()
    found = meta.MAML(classifier, Blobs()).learn(1).evaluate(tasks=3, steps=[0, 1])
    assert found.accuracies.shape == (2, 3)
