"""Arms, the runner, tuning, and baselines in the background."""

from __future__ import annotations

import math
import pickle
from contextlib import closing
from functools import partial

import pytest
import torch

from agents.evaluation import evaluate, format_table, start_baselines
from agents.evaluation.arms.arm import (
    Arm,
    Choice,
    choose,
    choose_shared,
    grid_arms,
    mean_losses,
    tuned_arms,
)
from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.arms.short_list import ADAMW, default_arms
from agents.evaluation.report.plots import plot_curves
from agents.evaluation.row import SHARED, TUNED
from agents.evaluation.runs.run import train
from agents.evaluation.runs.store import FILE, Store
from tests.helpers.benchmark_rows import ADAMW_ARM, row, short
from tests.helpers.policies import random_policy

pytest.importorskip("sklearn")


class TakesLoss(torch.optim.SGD):
    seen = []

    def step(self, closure=None, *, loss=None):
        assert not loss.requires_grad
        self.seen.append(loss.item())
        return super().step(closure)


def test_learned_arms_get_the_detached_loss():
    arm = Arm("ours", lambda params, total: TakesLoss(params, lr=0.1), takes_loss=True)
    TakesLoss.seen.clear()
    result = train(arm, short("friedman"), 0)
    assert len(TakesLoss.seen) == 8 and result["learned"]
    assert result["train_loss"] == TakesLoss.seen[-1]
    assert [lr for _, lr in result["lr_trace"]] == [0.1] * 8


@pytest.mark.parametrize("kind", ["hyperparameters", "roles"])
def test_policies_that_set_more_than_one_rate_are_arms(kind):
    task = short("friedman", 12)
    lr = 1e-3 if kind == "hyperparameters" else 1e-2
    arm = learned_arm("ours", random_policy(action={"kind": kind}), lr=lr)
    arm = pickle.loads(pickle.dumps(arm))  # as for another process
    result = train(arm, task, 0)
    assert result["learned"] and len(result["shifts"]) == 12
    assert result["curve"][0][1] > result["curve"][-1][1]
    module = task.build(0).module
    optimizer = arm.factory(module if arm.takes_module else module.parameters(), 12)
    names = [group.get("name") for group in optimizer.param_groups]
    assert names == (["matrices", "output", "vectors"] if kind == "roles" else [None])


class Breaks(torch.optim.SGD):
    steps, works = 0, 3

    def step(self, closure=None, *, loss=None):
        self.steps += 1
        if self.steps > self.works:
            torch.linalg.inv(torch.zeros(2, 2))
        return super().step(closure)


class BreaksAtOnce(Breaks):
    works = 0


def test_an_optimizer_that_raises_has_diverged_unless_it_is_ours():
    factory = partial(Breaks, lr=0.1)
    arm = Arm("theirs", lambda params, total: factory(params))
    with pytest.warns(UserWarning, match=r"theirs failed at update 3 of friedman, seed 0"):
        result = train(arm, short("friedman"), 0)
    assert result["validation_loss"] == result["train_loss"] == math.inf
    assert [update for update, _ in result["curve"]] == list(range(9))
    assert [loss for update, loss in result["curve"] if update > 3] == [math.inf] * 5
    assert result["curve"][3][1] < math.inf
    assert result["adamw_seconds"] > 0
    with pytest.warns(UserWarning, match="failed at update 0"):
        at_once = train(
            Arm("theirs", lambda params, total: BreaksAtOnce(params)), short("friedman"), 0
        )
    assert at_once["cpu_seconds"] > 0 and at_once["adamw_seconds"] > 0
    ours = Arm("ours", lambda params, total: factory(params), takes_loss=True)
    with pytest.raises(RuntimeError, match="singular"):
        train(ours, short("friedman"), 0)


def test_schedules_start_at_the_base_and_end_near_zero():
    arm = tuned_arms({TUNED: Choice(3e-2, "cosine")}, ADAMW)[0]
    result = train(arm, short("friedman", 20), 0)
    rates = [lr for _, lr in result["lr_trace"]]
    assert result["lr"] == rates[0] == 3e-2
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.01 * 3e-2


def test_schedule_free_is_evaluated_at_its_averages():
    pytest.importorskip("schedulefree")
    modes = []

    def factory(params, total):
        import schedulefree

        class Recorded(schedulefree.AdamWScheduleFree):
            def eval(self):
                modes.append("eval")
                super().eval()

            def train(self):
                modes.append("train")
                super().train()

        return Recorded(params)

    task = short("photo-cnn")
    result = train(Arm("Schedule-Free", factory), task, 0, curve_points=1)
    assert modes == ["train", *["eval", "train"] * 2]
    plain = train(ADAMW_ARM, task, 0, curve_points=1)
    assert result["initial_validation_loss"] == plain["initial_validation_loss"]


def test_arms_share_the_initial_loss_and_diverged_runs_are_kept(tmp_path):
    pytest.importorskip("matplotlib")
    wild = Arm("wild", lambda params, total: torch.optim.SGD(params, lr=1e9))
    tasks = [short("friedman", 20), short("module-classifier")]
    rows = evaluate([ADAMW_ARM, wild], tasks, [0, 1], progress=False)
    keys = [(r["task"], r["arm"], r["seed"]) for r in rows]
    assert keys == [
        (t.name, a, s) for t in tasks for a in ("AdamW", "wild") for s in (0, 1)
    ]
    starts = [r["initial_validation_loss"] for r in rows]
    assert starts[:2] == starts[2:4] and starts[4:6] == starts[6:8]
    assert [r["validation_loss"] for r in rows if r["arm"] == "wild"][:2] == [math.inf] * 2
    assert math.isfinite(rows[0]["validation_loss"])
    assert "inf" in format_table(rows)
    plot_curves(rows, tmp_path / "curves.png")


def test_an_error_names_its_run():
    arm = Arm("broken", lambda params, total: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        evaluate([arm], [short("friedman")], [5], progress=False)
    assert caught.value.__notes__ == ["broken, task friedman, seed 5"]


@pytest.mark.slow
def test_baselines_in_the_background():
    pytest.importorskip("schedulefree")
    pytest.importorskip("prodigyopt")
    task = short("friedman", 3)
    with closing(start_baselines([task], [10], [0, 1])) as baselines:
        rows, choices = baselines.result(progress=False)
    assert baselines.done == baselines.total == 21 + 5 * 2
    assert {r["seed"] for r in rows} == {0, 1} and list(choices) == ["friedman"]
    # With one task, what is best for all of them is best for it.
    both = tuned_arms(dict.fromkeys((SHARED, TUNED), choices[task.name]), ADAMW)
    expected = evaluate([*default_arms(), *both], [task], [0, 1], progress=False)
    found, expected = ([r["validation_loss"] for r in some] for some in (rows, expected))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_baselines_that_were_stopped_go_on_from_their_rows(tmp_path):
    pytest.importorskip("schedulefree")
    pytest.importorskip("prodigyopt")
    task, path = short("friedman", 3), tmp_path / FILE

    def run():
        """Return the rows of the baselines and of another arm, without CPU times."""
        with closing(start_baselines([task], [10], [0], store=Store(path))) as baselines:
            rows = baselines.evaluate([ADAMW_ARM], progress=False)
            rows += baselines.result(progress=False)[0]
        assert baselines.done == baselines.total
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]

    rows = run()
    whole = path.read_bytes().splitlines(keepends=True)
    assert len(whole) == 1 + 21 + 5
    path.write_bytes(b"".join(whole[:9]))
    assert run() == rows
    again = path.read_bytes().splitlines(keepends=True)
    assert again[:9] == whole[:9] and len(again) == len(whole)
    assert run() == rows and path.read_bytes() == b"".join(again)


# Tuning


def grid_rows(task, best):
    """Losses of the grid, 1 at ``best`` and more the further away."""
    losses = {
        name: 1.0 + abs(math.log10(lr / best.lr)) + 0.1 * (schedule != best.schedule)
        for name, (lr, schedule) in ADAMW.choice_by_arm.items()
    }
    return [row(task, name, seed, losses[name]) for name in losses for seed in (0, 1)]


def test_tuning_picks_the_best_mean_and_avoids_non_finite_losses():
    rows = grid_rows("a", Choice(1e-2, "wsd"))
    assert {row["arm"] for row in rows} == {arm.name for arm in grid_arms(ADAMW)}
    assert choose(mean_losses(rows, ADAMW), ADAMW) == {"a": Choice(1e-2, "wsd")}
    for each in rows:
        if each["arm"] == "AdamW 0.01, wsd" and each["seed"] == 1:
            each["validation_loss"] = math.inf
    assert choose(mean_losses(rows, ADAMW), ADAMW)["a"].schedule != "wsd"
    with pytest.raises(ValueError, match=r"'AdamW 0.1, wsd'.*'a'"):
        mean_losses(rows[:-2], ADAMW)


def test_the_shared_setting_is_the_best_compromise():
    tasks = {"a": Choice(1e-3, "cosine"), "b": Choice(1e-1, "cosine")}
    rows = [row for task, best in tasks.items() for row in grid_rows(task, best)]
    for each in rows:  # good everywhere, best nowhere
        if each["arm"] == "AdamW 0.0003, constant":
            each["validation_loss"] = 1.01
    means = mean_losses(rows, ADAMW)
    assert choose(means, ADAMW) == tasks
    assert choose_shared(means, ADAMW) == Choice(3e-4, "constant")


def test_tuning_and_evaluation_share_no_seed():
    with pytest.raises(ValueError, match=r"both have \[1\]"):
        start_baselines([short("friedman", 2)], [0, 1], [1, 2])
