"""What learners of streams refuse and warn of, and what can be had of them."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.maml import mask_of
from optenv.tasks.stacked import flat
from tests.agents.meta.test_continual import drawn, perceptron

DIGITS = meta.DigitStream(tasks=2, examples=20, tests=10)
WAVES = meta.SineStream(tasks=2, examples=20, tests=10)
BATCH = torch.rand(10, 64), torch.arange(10)


class Waves:
    """A family of streams of one's own, with no more than it needs."""

    loss = F.mse_loss

    def sample(self, rng):
        return WAVES.sample(rng)


def layers(*middle):
    return nn.Sequential(nn.Linear(64, 16), *middle, nn.Linear(16, 10))


def learners(module, loss="cross_entropy"):
    return [
        learner(module, loss, lr=0.1)
        for learner in (meta.OnlineSGD, meta.Replay, meta.LaMAML)
    ]


def test_modules_that_draw_random_numbers_are_refused():
    for ways in (
        lambda learner: learner.score(*BATCH),
        lambda learner: learner.observe(*BATCH),
        lambda learner: learner.predict(BATCH[0]),
        lambda learner: learner.follow(drawn(DIGITS)),
    ):
        for learner in learners(layers(nn.Dropout())):
            before, state = learner.params.clone(), torch.get_rng_state()
            with pytest.raises(ValueError, match="draws from the global random generator"):
                ways(learner)
            assert torch.equal(learner.params, before)
            assert torch.equal(torch.get_rng_state(), state)
    for learner in learners(layers(nn.Dropout()).eval()):
        learner.observe(*BATCH)
        assert learner.score(*BATCH) == learner.score(*BATCH)


def test_divergence_is_warned_of_once():
    learner = meta.OnlineSGD(perceptron(3, 1), "mse", lr=1e6)
    with pytest.warns(RuntimeWarning) as found:
        scores = learner.follow(drawn(WAVES), batch=5).scores
    assert len(found) == 1 and np.isnan(scores).all()
    text = str(found[0].message)
    assert text.startswith("parameters are not finite after batch ")
    assert "of task 1" in text and found[0].filename == __file__
    again, finite = meta.OnlineSGD(perceptron(3, 1), "mse", lr=1e6), []
    parts = (part.split(5) for part in (drawn(WAVES).inputs[0], drawn(WAVES).targets[0]))
    for batch in zip(*parts, strict=True):
        again.observe(*batch)
        finite.append(bool(again.params.isfinite().all()))
    assert f"batch {finite.index(False) + 1} of" in text


def test_scores_that_are_not_finite_are_warned_of():
    stream = drawn(WAVES)
    far = stream._replace(test_targets=stream.test_targets * 1e30)
    with pytest.warns(RuntimeWarning, match="scores are not finite after task 1,"):
        meta.OnlineSGD(perceptron(3, 1), "mse", lr=0.01).follow(far)


def test_looking_ahead_needs_a_rate_that_suits_waves():
    with pytest.raises(TypeError, match="'lr'"):
        meta.LaMAML(perceptron(11, 1), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = meta.LaMAML(perceptron(11, 1), "mse", lr=0.03).follow(
            drawn(meta.SineStream())
        )
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("tracks", [True, False])
def test_looking_ahead_refuses_normalisation_by_the_batch(tracks):
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
        (
            perceptron(3, 1),
            "cross_entropy",
            WAVES,
            r"'cross_entropy'.*\[40, 1\] of torch.fl",
        ),
        (perceptron(3, 2), "mse", WAVES, r"targets \[40, 1\].* for outputs \[10, 2\]"),
        (perceptron(64, 9), "cross_entropy", DIGITS, "less than 9, .* got 9"),
        (perceptron(3, 1).double(), "mse", WAVES, "torch.float64 and torch.float32"),
    ],
)
def test_targets_that_do_not_suit_the_loss_are_refused_before_learning(
    module, loss, stream, message
):
    for learner in learners(module, loss):
        with pytest.raises(ValueError, match=message):
            learner.follow(drawn(stream))
        assert torch.equal(learner.params, flat(module)[None])


def test_what_is_not_scored_is_quoted():
    learner = meta.OnlineSGD(layers(), "mse", lr=0.1)
    with pytest.raises(ValueError, match=r"targets \[10\] of torch.int64 for outputs \[10"):
        learner.score(*BATCH)  # of 10 examples and 10 outputs, which could be broadcast


def test_what_is_no_stream_is_refused():
    learner, stream = meta.OnlineSGD(layers(), "cross_entropy", lr=0.1), drawn(DIGITS)
    with pytest.raises(TypeError, match=r"got DigitStream\(.*; draw one by its sample"):
        learner.follow(DIGITS)
    with pytest.raises(TypeError, match=r"inputs, targets, test_inputs, .* got 3"):
        learner.follow(3)
    with pytest.raises(ValueError, match=r"targets \[2, 19\], test_inputs \[2, 10, 64\]"):
        learner.follow(stream._replace(targets=stream.targets[:, 1:]))
    with pytest.raises(ValueError, match=r"at least one .*, got 2, 20 and 0"):
        learner.follow(meta.Stream(*stream[:2], *(part[:, :0] for part in stream[2:])))


def test_families_of_streams_are_told_from_others():
    with pytest.raises(TypeError, match=r"as Streams\(DigitStream\(\)\), got DigitStream"):
        meta.OML(layers(), DIGITS, adapts="1")
    for wrong in (drawn(DIGITS), meta.DigitStream, object()):
        with pytest.raises(TypeError, match="an attribute `loss` and a method `sample"):
            meta.Streams(wrong)
    family = Waves()
    family.sample = lambda rng: (1, 2)
    with pytest.raises(TypeError, match=r"a stream must be a meta.Stream, .* got \(1, 2\)"):
        meta.OML(perceptron(3, 1), meta.Streams(family), adapts="2")


def test_a_family_of_streams_of_ones_own_needs_a_loss_and_streams():
    made = [
        meta.OML(perceptron(3, 1), meta.Streams(family), adapts="2", inner_batch=7)
        for family in (Waves(), WAVES)
    ]
    assert [learner.inner_steps for learner in made] == [6, 6]
    averages = [learner.learn(2).online().follow(drawn(WAVES)).average for learner in made]
    assert averages[0] == averages[1]


def test_predictions_and_the_module_are_those_of_the_present_parameters():
    given = perceptron()
    before = copy.deepcopy(given.state_dict())
    oml = meta.OML(given, meta.Streams(DIGITS), adapts="2").learn(2)
    for learner in (*learners(given), oml.online()):
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


def test_tied_and_frozen_parameters_come_back_with_the_module():
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


def test_names_of_what_adapts_are_whole():
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
