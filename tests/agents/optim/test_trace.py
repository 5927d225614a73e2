"""The trace of decisions, as a table and as a picture."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agents import LearnedOptimizer
from agents.optim.controller import Controller
from optenv.telemetry import FEATURES
from tests.helpers.loops import STEPS, batches, learned, make_model, train


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
    assert list(explanation[0]) == ["step", "moved", "multiplier", *FEATURES]
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
    (line,) = figure.axes[0].lines
    assert list(line.get_ydata()) == [row["multiplier"] for row in explanation]
    shown = figure.axes[1].collections[0].get_array()
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert "60 of 60 steps" in figure.get_suptitle()
    assert shown.shape == (len(FEATURES), len(explanation))


def test_before_the_first_decision_the_explanation_is_empty():
    explanation = learned(make_model()).explain()
    assert explanation == [] and str(explanation).split()[0] == "step"
    with pytest.raises(ValueError, match="no decision has been made yet"):
        explanation.plot()


def test_importing_the_optimizer_does_not_import_matplotlib():
    code = "import agents, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_plot_says_which_extra_has_it(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match='the extra "train"'):
        trained[1].explain().plot()
