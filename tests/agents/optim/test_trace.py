"""The trace of decisions, as a table and as a picture."""

from __future__ import annotations

import copy
import math
import re
import sys

import pytest
import torch
from torch.optim import lr_scheduler

from agents import LearnedLR, LearnedOptimizer
from agents.optim.controller import Controller
from agents.optim.trace import MEANINGS
from optenv.telemetry import ALL_FEATURES, FEATURES, observed_features
from tests.helpers.loops import STEPS, batches, learned, make_model, train
from tests.helpers.policies import random_policy


@pytest.fixture(scope="module")
def trained():
    model = make_model()
    optimizer = learned(model)
    train(model, optimizer, batches())
    return model, optimizer


def test_explain_lists_every_decision_with_features_and_action(trained):
    _, optimizer = trained
    explanation = optimizer.explain()
    policy = optimizer.policy
    state = optimizer.param_groups[0]["controller"]
    steps = [row["step"] for row in explanation]
    decisions = [
        t for t in range(STEPS) if Controller(policy, {**state, "steps": t}).is_decision()
    ]
    assert steps == decisions and len(steps) == policy.description["horizon"]
    numbers = ["step", "moved", "multiplier", "schedule", "rate", "loss"]
    assert list(explanation[0]) == [*numbers, *FEATURES]
    assert explanation[-1]["multiplier"] == pytest.approx(state["log_multiplier"].exp())
    assert explanation[-1]["moved"] == pytest.approx(state["previous_action"].item())
    shares = [(row["progress"] + 1) / 2 for row in explanation]
    assert shares == pytest.approx([t / STEPS for t in decisions])


def test_the_trace_survives_saving_and_loading():
    data, model = list(batches()), make_model()
    optimizer = learned(model)
    train(model, optimizer, data[:30])
    other = LearnedOptimizer(model.parameters(), optimizer.policy, total_steps=STEPS)
    other.load_state_dict(optimizer.state_dict())
    assert other.explain() == optimizer.explain()
    before = len(other.explain())
    train(model, other, data[30:])
    assert other.explain()[:before] == optimizer.explain()
    assert len(other.explain()) == optimizer.policy.description["horizon"]


def test_an_explanation_prints_as_a_table_and_plots(trained, tmp_path):
    explanation = trained[1].explain()
    table, legend, note = str(explanation).split("\n\n")
    assert note == f"{STEPS} of {STEPS} steps (100%): the run has ended"
    lines = table.splitlines()
    assert len(lines) == 1 + len(explanation)
    assert lines[0].split()[:3] == ["step", "moved", "multiplier"]
    assert [line.split(":")[0] for line in legend.splitlines()] == lines[0].split()
    path = tmp_path / "explained.png"
    figure = explanation.plot(path)
    assert path.stat().st_size > 10_000
    losses, rates, factors, features, _ = figure.axes
    for panel, name in ((losses, "loss"), (factors, "multiplier")):
        shown = list(panel.lines[0].get_ydata())[: len(explanation)]
        assert shown == [row[name] for row in explanation]
    times, shown = rates.lines[0].get_data()
    drawn = list(zip(times, shown, strict=True))
    assert all((row["step"], row["rate"]) in drawn for row in explanation)
    assert drawn[-1] == (STEPS - 1, trained[1].param_groups[0]["effective_lr"])
    image = features.collections[0].get_array()
    assert image.shape == (len(FEATURES), len(explanation))
    for panel in (losses, rates, factors, features):
        assert panel.get_xlim() == features.get_xlim() and panel.get_ylabel()
    assert features.get_xlabel() == "step"
    assert "60 of 60 steps" in figure.get_suptitle()


def test_a_decision_tells_the_rate_its_factors_and_the_loss():
    model, rates, losses = make_model(), [], []
    optimizer = LearnedOptimizer(
        model.parameters(), "default", total_steps=STEPS, warmup_steps=5, lr=0.02
    )
    for batch in batches():
        losses.append(train(model, optimizer, [batch]))
        rates.append(optimizer.param_groups[0]["effective_lr"])
    rows = optimizer.explain()
    begin = 0
    for row in rows:
        step = int(row["step"])
        assert row["rate"] == pytest.approx(rates[step])
        assert row["rate"] == pytest.approx(0.02 * row["multiplier"] * row["schedule"])
        since = losses[begin : step + 1]
        assert row["loss"] == pytest.approx(sum(since) / len(since))
        begin = step + 1
    schedule = {row["step"]: row["schedule"] for row in rows}
    assert schedule[0] == pytest.approx(1 / 5) and schedule[20] == 1
    last = max(schedule)
    assert schedule[last] == pytest.approx((STEPS - last) / (0.3 * STEPS))
    assert "schedule: factor that warm-up, final decay" in str(rows)


@pytest.mark.parametrize("schedule", ["auto", "always"])
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: lr_scheduler.LinearLR(o, 0.01, total_iters=20),
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, STEPS, cycle_momentum=False),
    ],
    ids=["warm-up", "cosine", "one cycle"],
)
def test_under_a_torch_scheduler_the_factors_multiply_to_the_rate(scheduler, schedule):
    model = make_model()
    optimizer = LearnedOptimizer(
        model.parameters(), "default", total_steps=STEPS, lr=1e-3, schedule=schedule
    )
    driving = scheduler(optimizer)
    base = optimizer.param_groups[0]["initial_lr"]
    for batch in batches():
        train(model, optimizer, [batch])
        driving.step()
    rows = optimizer.explain()
    rates = [base * row["multiplier"] * row["schedule"] for row in rows]
    assert [row["rate"] for row in rows] == pytest.approx(rates)
    assert len({row["schedule"] for row in rows}) > len(rows) / 2


def test_the_rate_of_a_scheduler_and_of_a_limited_group_is_that_in_force():
    limited = LearnedOptimizer(
        make_model().parameters(), "default", total_steps=STEPS, lr=0.1, max_lr=1e-3
    )
    for p in limited.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    limited.step()
    assert limited.explain()[0]["rate"] == pytest.approx(1e-3)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    for inputs, targets in batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        before = len(scheduler.explain())
        optimizer.step()
        rows = scheduler.explain()
        if len(rows) > before:
            assert rows[-1]["rate"] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert all(row["loss"] is None for row in rows)
    assert {line.split()[5] for line in str(rows).splitlines()[1:6]} == {"-"}
    figure = rows.plot()
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "the policy was given no losses"
    ]


def test_an_enormous_loss_is_kept_as_a_finite_number():
    optimizer = learned(make_model())
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step(loss=1e300)
    assert 1e38 < optimizer.explain()[0]["loss"] < math.inf
    learned(make_model()).load_state_dict(optimizer.state_dict())


def test_losses_below_zero_are_told_and_drawn():
    optimizer = learned(make_model())
    losses = [2.0, 1.0, -1.0, -3.0]
    for loss in losses:
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        optimizer.step(loss=loss)
    rows = optimizer.explain()
    assert [row["loss"] for row in rows] == losses[: len(rows)] and len(rows) >= 3
    other = learned(make_model())
    other.load_state_dict(optimizer.state_dict())
    assert other.explain() == rows
    panel = rows.plot().axes[0]
    assert panel.get_yscale() == "linear" and panel.get_ylim()[0] < -1.0


def test_a_trace_of_version_0_1_has_no_rates_and_losses():
    def make_optimizer(model):
        names = observed_features("positive")
        policy = random_policy(features=list(names))
        return LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)

    model = make_model()
    optimizer = make_optimizer(model)
    train(model, optimizer, batches())
    state = copy.deepcopy(optimizer.state_dict())
    controller = state["param_groups"][0]["controller"]
    old = controller["trace"]
    controller["trace"] = torch.cat([old[:, :3], old[:, 6:]], dim=1)
    other = make_optimizer(make_model())
    other.load_state_dict(state)
    for before, after in zip(optimizer.explain(), other.explain(), strict=True):
        assert after == {**before, "schedule": None, "rate": None, "loss": None}
    assert "-" in str(other.explain())
    other.explain().plot()


def test_every_column_has_a_meaning_in_plain_words(trained):
    assert set(trained[1].explain()[0]) <= set(MEANINGS)
    assert set(ALL_FEATURES) <= set(MEANINGS)
    for name, meaning in MEANINGS.items():
        assert not re.search(r"squash|centred|halved|k=|nats", meaning), name


def test_examples_of_values_in_meanings_are_separated_from_what_they_mean():
    for name in ALL_FEATURES:
        if re.search(r"\d", MEANINGS[name]):
            what, _, examples = MEANINGS[name].partition("; ")
            assert not re.search(r"[+-]\d", what), name
            assert re.match(r"[+-]?\d[.\d]*: |negative: ", examples), name


def test_before_the_first_decision_the_explanation_is_empty():
    explanation = learned(make_model()).explain()
    assert explanation == [] and str(explanation).split()[0] == "step"
    with pytest.raises(ValueError, match="no decision has been made yet"):
        explanation.plot()


def test_without_matplotlib_plot_says_which_extra_has_it(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match='the extra "train"'):
        trained[1].explain().plot()


def test_an_extended_run_says_which_decisions_are_not_kept():
    model, data = make_model(), list(batches())
    optimizer = learned(model, total_steps=30)
    train(model, optimizer, data[:30])
    assert "not kept" not in optimizer.explain().note
    optimizer.extend(60)
    train(model, optimizer, data[30:])
    explanation = optimizer.explain()
    first = explanation[0]["step"]
    assert len(explanation) == optimizer.policy.description["horizon"] and first > 0
    assert explanation.note.endswith(f"; decisions before step {first:.0f} are not kept")
