"""Continual learners: refusals, warnings, and copies of the current module."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from optenv.tasks.stacked import flat
from tests.helpers.meta_tasks import sample_stream, stream_network

DIGITS = meta.DigitStream(tasks=2, examples=20, tests=10)

WAVES = meta.SineStream(tasks=2, examples=20, tests=10)

BATCH = torch.rand(10, 64), torch.arange(10)


class CustomStreams:
    """Custom family of streams, with the members that it needs and no base class."""

    loss = F.mse_loss

    def sample(self, rng):
        return WAVES.sample(rng)


def wave_network(outputs=1):
    return stream_network(inputs=3, outputs=outputs)


def layers(*middle):
    """Return a network for digits with further layers in the middle."""
    return nn.Sequential(nn.Linear(64, 16), *middle, nn.Linear(16, 10))


def online_learners(module, loss="cross_entropy"):
    return [learner(module, loss, lr=0.1) for learner in meta.ONLINE_LEARNERS.values()]


# Refusals.


def test_module_with_dropout_is_refused():
    for call in (
        lambda learner: learner.score(*BATCH),
        lambda learner: learner.observe(*BATCH),
        lambda learner: learner.predict(BATCH[0]),
        lambda learner: learner.follow(sample_stream(DIGITS)),
    ):
        for learner in online_learners(layers(nn.Dropout())):
            before, state = learner.params.clone(), torch.get_rng_state()
            with pytest.raises(ValueError, match="draws from the global random generator"):
                call(learner)
            assert torch.equal(learner.params, before)
            assert torch.equal(torch.get_rng_state(), state)
    for learner in online_learners(layers(nn.Dropout()).eval()):
        learner.observe(*BATCH)
        assert learner.score(*BATCH) == learner.score(*BATCH)


@pytest.mark.parametrize("tracks", [True, False])
def test_la_maml_refuses_batch_normalisation_by_the_batch(tracks):
    module = layers(nn.BatchNorm1d(16, track_running_stats=tracks))
    with pytest.raises(
        ValueError, match=r"LaMAML .* one example.* got BatchNorm1d\(16.*'1'"
    ):
        meta.LaMAML(module, "cross_entropy", lr=0.1)
    module.eval()
    if tracks:
        meta.LaMAML(module, "cross_entropy", lr=0.1).observe(*BATCH)
    else:
        with pytest.raises(ValueError, match="one example"):
            meta.LaMAML(module, "cross_entropy", lr=0.1)
    meta.LaMAML(layers(nn.LayerNorm(16)), "cross_entropy", lr=0.1).observe(*BATCH)
    meta.Replay(layers(nn.BatchNorm1d(16)), "cross_entropy", lr=0.1).observe(*BATCH)


@pytest.mark.parametrize(
    ("module", "loss", "stream", "message"),
    [
        (layers(), "mse", DIGITS, r"loss 'mse'.*\[40\] of torch.int64.*\[10, 10\]"),
        (layers(), F.l1_loss, DIGITS, r"loss l1_loss, .* are for the loss 'cross_entropy'"),
        (wave_network(), "cross_entropy", WAVES, r"'cross_entropy'.*\[40, 1\] of torch.fl"),
        (
            wave_network(outputs=2),
            "mse",
            WAVES,
            r"targets \[40, 1\].* for outputs \[10, 2\]",
        ),
        (stream_network(outputs=9), "cross_entropy", DIGITS, "less than 9, .* got 9"),
        (wave_network().double(), "mse", WAVES, "torch.float64 and torch.float32"),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused_before_learning(
    module, loss, stream, message
):
    for learner in online_learners(module, loss):
        with pytest.raises(ValueError, match=message):
            learner.follow(sample_stream(stream))
        assert torch.equal(learner.params, flat(module)[None])


def test_targets_are_not_broadcast_in_scores():
    learner = meta.OnlineSGD(layers(), "mse", lr=0.1)
    with pytest.raises(ValueError, match=r"targets \[10\] of torch.int64 for outputs \[10"):
        learner.score(*BATCH)  # [10] and [10, 10], which could be broadcast


def test_other_objects_than_streams_are_refused():
    stream = sample_stream(DIGITS)
    learner = meta.OnlineSGD(layers(), "cross_entropy", lr=0.1)
    with pytest.raises(TypeError, match=r"got DigitStream\(.*; draw one by its sample"):
        learner.follow(DIGITS)
    with pytest.raises(TypeError, match=r"inputs, targets, test_inputs, .* got 3"):
        learner.follow(3)
    with pytest.raises(ValueError, match=r"targets \[2, 19\], test_inputs \[2, 10, 64\]"):
        learner.follow(stream._replace(targets=stream.targets[:, 1:]))
    with pytest.raises(ValueError, match=r"at least one .*, got 2, 20 and 0"):
        learner.follow(meta.Stream(*stream[:2], *(part[:, :0] for part in stream[2:])))


def test_other_objects_than_families_of_streams_are_refused():
    with pytest.raises(TypeError, match=r"as Streams\(DigitStream\(\)\), got DigitStream"):
        meta.OML(layers(), DIGITS, adapts="1")
    for wrong in (sample_stream(DIGITS), meta.DigitStream, object()):
        with pytest.raises(TypeError, match="an attribute `loss` and a method `sample"):
            meta.Streams(wrong)
    family = CustomStreams()
    family.sample = lambda rng: (1, 2)
    with pytest.raises(TypeError, match=r"a stream must be a meta.Stream, .* got \(1, 2\)"):
        meta.OML(wave_network(), meta.Streams(family), adapts="2")


def test_la_maml_refuses_a_mask():
    mask = torch.ones(flat(stream_network()).shape, dtype=torch.bool)
    with pytest.raises(TypeError, match="LaMAML sets mask itself"):
        meta.LaMAML(stream_network(), "cross_entropy", lr=0.1, mask=mask)


# Warnings.


def test_divergence_is_warned_of_once():
    learner = meta.OnlineSGD(wave_network(), "mse", lr=1e6)
    with pytest.warns(RuntimeWarning) as found:
        scores = learner.follow(sample_stream(WAVES), batch=5).scores
    assert len(found) == 1 and np.isnan(scores).all()
    text = str(found[0].message)
    assert text.startswith("parameters are not finite after batch ")
    assert "of task 1" in text and found[0].filename == __file__
    reference, finite = meta.OnlineSGD(wave_network(), "mse", lr=1e6), []
    parts = (part[0].split(5) for part in sample_stream(WAVES)[:2])
    for batch in zip(*parts, strict=True):
        reference.observe(*batch)
        finite.append(bool(reference.params.isfinite().all()))
    assert f"batch {finite.index(False) + 1} of" in text


def test_non_finite_scores_are_warned_of():
    stream = sample_stream(WAVES)
    far = stream._replace(test_targets=stream.test_targets * 1e30)
    with pytest.warns(RuntimeWarning, match="scores are not finite after task 1,"):
        meta.OnlineSGD(wave_network(), "mse", lr=0.01).follow(far)


@pytest.mark.slow
def test_la_maml_does_not_diverge_on_waves_at_a_suitable_rate():
    with pytest.raises(TypeError, match="'lr'"):
        meta.LaMAML(stream_network(inputs=11, outputs=1), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner = meta.LaMAML(stream_network(inputs=11, outputs=1), "mse", lr=0.03)
        found = learner.follow(sample_stream(meta.SineStream()))
    assert np.isfinite(found.scores).all()


# Results.


def test_custom_family_of_streams_needs_a_loss_and_streams():
    made = [
        meta.OML(wave_network(), meta.Streams(family), adapts="2", inner_batch=7)
        for family in (CustomStreams(), WAVES)
    ]
    assert [learner.inner_steps for learner in made] == [6, 6]
    averages = [
        learner.learn(2).online().follow(sample_stream(WAVES)).average for learner in made
    ]
    assert averages[0] == averages[1]


def test_predictions_and_module_are_of_the_current_parameters():
    given = stream_network()
    before = copy.deepcopy(given.state_dict())
    oml = meta.OML(given, meta.Streams(DIGITS), adapts="2").learn(2)
    for learner in (*online_learners(given), oml.online()):
        learner.observe(*BATCH)
        module = learner.module
        assert torch.equal(flat(module), learner.params[0])
        torch.testing.assert_close(module(BATCH[0]), learner.predict(BATCH[0]))
        assert not torch.equal(flat(module), flat(given))
        right = (learner.predict(BATCH[0]).argmax(1) == BATCH[1]).float().mean()
        assert learner.score(*BATCH) == pytest.approx(float(right))
        for p in module.parameters():
            p.data.zero_()
        assert learner.params.any() and learner.module is not module
    assert all(torch.equal(before[name], x) for name, x in given.state_dict().items())


def test_copied_module_has_tied_and_frozen_parameters():
    given = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    given[1].weight = given[0].weight
    given[2].requires_grad_(False)
    learner = meta.OnlineSGD(given, "cross_entropy", lr=0.5)
    batch = torch.rand(4, 4), torch.arange(4)
    learner.observe(*batch)
    module = learner.module
    assert module[1].weight is module[0].weight
    assert torch.equal(module[2].weight, given[2].weight)
    assert not torch.equal(module[0].weight, given[0].weight)
    torch.testing.assert_close(module(batch[0]), learner.predict(batch[0]))
