"""Custom families: what they have to sample, and which learners they fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.validation import sample_episodes
from tests.helpers.meta_tasks import (
    Blobs,
    DoubleSinusoids,
    embedding,
    map_targets,
    map_tensors,
    perceptron,
    process,
)

SINES = meta.Sinusoids(5)


class Changed(meta.Sinusoids):
    """Sine waves with a function applied to the samples."""

    def __init__(self, change, loss="mse"):
        super().__init__(5)
        object.__setattr__(self, "change", change)
        object.__setattr__(self, "loss", loss)

    def sample(self, count, rng):
        return self.change(super().sample(count, rng))


def learner_makers(family):
    """Yield functions that make a gradient-based and an amortized learner."""
    for learner, module in ((meta.MAML, perceptron), (meta.NeuralProcess, process)):
        yield lambda learner=learner, module=module: learner(module(), family)


# Types and shapes of samples.


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (tuple, "got a tuple"),
        (lambda drawn: meta.Episodes(*map(tuple, drawn)), "got for support a tuple"),
        (lambda drawn: drawn.support, "got a Examples"),
        (map_tensors(np.asarray), "got for support.inputs a ndarray"),
        (map_targets(lambda _: None), "got for support.targets a NoneType"),
    ],
)
def test_samples_of_other_types_are_named(change, got):
    message = f"Changed.sample must return Episodes of Examples of tensors, {got}"
    for make in learner_makers(Changed(change)):
        with pytest.raises(TypeError, match=message):
            make()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (map_tensors(lambda x: x[0]), "support.inputs [5, 1] and support.targets [5, 1]"),
        (map_targets(lambda y: y[:, :3]), "[1, 5, 1] and support.targets [1, 3, 1]"),
        (map_tensors(lambda x: x[:, :0]), "support.inputs [1, 0, 1]"),
        (map_tensors(lambda x: x[:, 0, 0]), "support.inputs [1] and support.targets [1]"),
        (
            lambda drawn: drawn._replace(query=meta.Examples(*(x[:0] for x in drawn[1]))),
            "query.inputs [0, 10, 1]",
        ),
    ],
)
def test_samples_of_other_shapes_are_quoted(change, got):
    for make in learner_makers(Changed(change)):
        with pytest.raises(ValueError, match=re.escape(got)) as found:
            make()
        assert "must return inputs and targets [1, n, ...]" in str(found.value)


def test_family_that_always_samples_one_task_is_refused():
    family = Changed(map_tensors(lambda x: x[:1]))
    message = (
        r"sample\(25, rng\) must return inputs and targets \[25, n, ...\].*\[1, 5, 1\]"
    )
    for make in learner_makers(family):
        learner = make()
        before = [p.detach().clone() for p in learner.parameters]
        with pytest.raises(ValueError, match=message):
            learner.learn(2)
        assert all(map(torch.equal, before, learner.parameters))
        with pytest.raises(ValueError, match=r"sample\(600, rng\)"):
            learner.evaluate()


def test_other_objects_than_families_are_named():
    for family in (meta.Sinusoids, "sinusoids", None):
        for make in learner_makers(family):
            with pytest.raises(TypeError, match=f"instance of a Family.*{family!r}"):
                make()
    for make in learner_makers(SINES):
        with pytest.raises(TypeError, match="instance of a Family"):
            make().evaluate(meta.Sinusoids)


class Rounded(Blobs):
    def sample(self, count, rng):
        return map_targets(lambda y: y.int())(super().sample(count, rng))


def test_class_indices_are_int64():
    for learner in (meta.MAML, meta.Prototypical):
        with pytest.raises(ValueError, match=r"torch.int64, got torch.int32 from Rounded"):
            learner(embedding(), Rounded())


def test_valid_samples_are_returned_unchanged():
    episodes = sample_episodes(SINES, 3, np.random.default_rng(0))
    expected = SINES.sample(3, np.random.default_rng(0))
    for part, same in zip(episodes, expected, strict=True):
        assert all(map(torch.equal, part, same))


# Outputs and targets.


@pytest.mark.parametrize("loss", ["mse", "l1", F.l1_loss, "bce_with_logits"])
def test_outputs_and_targets_of_other_shapes_are_not_broadcast(loss):
    family = Changed(map_targets(lambda y: y[..., 0].clamp(0, 1)), loss)
    with pytest.raises(ValueError, match=r"outputs \[5, 1\] and targets \[5\] of the supp"):
        meta.MAML(perceptron(), family)
    scalar = nn.Sequential(perceptron(), nn.Flatten(0))
    assert meta.MAML(scalar, family).learn(1).iterations == 1
    with pytest.raises(ValueError, match=r"outputs \[5\] and targets \[5, 1\]"):
        meta.MAML(scalar, family).evaluate(Changed(lambda drawn: drawn, loss), steps=[1])


def test_neural_process_does_not_broadcast():
    class Narrow(meta.ProcessNetwork):
        def forward(self, inputs, targets, query):
            mean, deviation = super().forward(inputs, targets, query)
            return mean[..., 0], deviation[..., 0]

    with pytest.raises(ValueError, match=r"got outputs \[10\] and targets \[10, 1\]"):
        meta.NeuralProcess(Narrow(), SINES)


def test_custom_loss_accepts_targets_of_any_shape():
    def total(outputs, targets):
        return (outputs.mean() - targets.sum()).square()

    family = Changed(map_targets(lambda y: y[..., 0]), total)
    learner = meta.MAML(perceptron(), family, inner_lr=1e-4).learn(1)
    assert learner.evaluate(tasks=2).accuracies is None


def test_class_beyond_the_outputs_is_refused():
    module = nn.Linear(3, 4)
    message = r"has class 4, but the module's outputs .*up to 3: 5 classes .* 4 outputs"
    with pytest.raises(ValueError, match="the support " + message):
        meta.MAML(module, Blobs(ways=5))
    learner = meta.MAML(module, Blobs(ways=3))
    assert learner.evaluate(Blobs(ways=4), tasks=2).accuracies.shape == (4, 2)
    with pytest.raises(ValueError, match="the support " + message):
        learner.evaluate(Blobs(ways=5))
    with pytest.raises(ValueError, match="the query " + message):
        learner.evaluate(Blobs(ways=5), steps=[0])
    with pytest.raises(ValueError, match=r"classifier must be \[n, classes\], got \[8\]"):
        meta.MAML(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), Blobs())
    found = meta.Prototypical(embedding(), Blobs()).evaluate(Blobs(ways=7), tasks=2)
    assert found.accuracies.shape == (1, 2)  # the support has the classes


# Losses and precisions of a family to evaluate on.


class Absolute(meta.Sinusoids):
    loss = "l1"


class MethodLoss(meta.Sinusoids):
    def loss(self, outputs, targets):
        return (outputs - targets).square().mean()


def test_evaluation_with_another_loss_is_refused():
    for make in learner_makers(SINES):
        with pytest.raises(ValueError, match="'mse', got Absolute with 'l1'"):
            make().evaluate(Absolute(5))
    with pytest.raises(ValueError, match="'cross_entropy', got Sinusoids with 'mse'"):
        meta.Prototypical(embedding(), Blobs()).evaluate(SINES)
    with pytest.raises(ValueError, match="'mse', got MethodLoss with <bound method"):
        meta.MAML(perceptron(), SINES).evaluate(MethodLoss(5))


def test_loss_by_name_function_and_method_is_the_same():
    by_method = meta.MAML(perceptron(), MethodLoss(5))
    named = meta.MAML(perceptron(), SINES)
    by_function = Changed(lambda drawn: drawn, F.mse_loss)
    expected = named.evaluate(SINES, tasks=3).losses
    for learner, family in ((by_method, MethodLoss(5)), (named, by_function)):
        found = learner.evaluate(family, tasks=3).losses
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_evaluation_in_another_precision_is_refused():
    for make in learner_makers(SINES):
        with pytest.raises(ValueError, match=r"got torch.float32 and torch.float64"):
            make().evaluate(DoubleSinusoids(5))


def test_more_tasks_than_there_is_memory_for_are_refused_before_they_are_sampled():
    learner = meta.MAML(perceptron(), SINES)
    with pytest.raises(ValueError, match=r"tasks=1000000000 would need .* memory"):
        learner.evaluate(tasks=10**9)
    with pytest.raises(ValueError, match=r"tasks=1000000000 would need .* memory"):
        meta.MAML(perceptron(), SINES, meta_batch=10**9).learn(1)
