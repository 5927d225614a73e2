"""Held-out tasks, baselines, the runner, statistics, tables and pictures."""

import csv
import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from agents import heldout_data as data
from agents.baselines import (
    GRID,
    TUNED,
    Arm,
    Choice,
    adamw,
    choose,
    default_arms,
    grid_arms,
    tuned_arms,
)
from agents.evaluation import evaluate, format_table, start_baselines, tune, write_csv
from agents.heldout import HELDOUT, task_named
from agents.plots import plot_curves
from agents.results import difference, gap, interval
from agents.run import train

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

ADAMW = Arm("AdamW", partial(adamw, lr=1e-2))
TASKS = pytest.mark.parametrize("task", HELDOUT, ids=lambda task: task.name)


def short(name, updates=8):
    return dataclasses.replace(task_named(name), updates=updates, validation_size=64)


def row(task, arm, seed, loss, learned=False, trace=True):
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "learned": learned,
        "train_loss": loss,
        "validation_loss": loss,
        "initial_validation_loss": 2.0,
        "lr": 1e-3,
        "cpu_seconds": 0.1,
        "curve": [(0, 2.0), (5, 1.5 * loss), (10, loss)],
        "lr_trace": [(5, 1e-3), (10, 1e-4)] if trace else [],
    }


def global_state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), name, keys.tolist(), rest


# Held-out tasks


def test_six_tasks_of_which_five_are_real():
    assert len({task.name for task in HELDOUT}) == len(HELDOUT) == 6
    assert sum(task.kind == "real" for task in HELDOUT) == 5
    with pytest.raises(ValueError, match=r"'digits'.*photo-cnn"):
        task_named("digits")


@TASKS
def test_tasks_depend_on_the_seed_alone(task):
    before = global_state()
    first, again, other = task.build(3), task.build(3), task.build(4)
    again.batch(0)  # what was asked for before does not matter
    for t in (7, 2):
        batches = [problem.batch(t) for problem in (first, again, other)]
        assert all(map(torch.equal, batches[0], batches[1]))
        assert not torch.equal(batches[0][0], batches[2][0])
    assert not torch.equal(first.batch(1)[0], first.batch(2)[0])
    assert all(map(torch.equal, first.validation, again.validation))
    states = [list(problem.module.state_dict().values()) for problem in (first, again)]
    assert all(map(torch.equal, *states))
    assert any(
        not torch.equal(*pair)
        for pair in zip(first.module.parameters(), other.module.parameters(), strict=True)
    )
    train(ADAMW, dataclasses.replace(task, updates=2), 0)
    assert global_state() == before


@TASKS
def test_loss_decreases(task):
    result = train(ADAMW, dataclasses.replace(task, updates=60), 0, curve_points=0)
    assert result["validation_loss"] < 0.95 * result["initial_validation_loss"]
    assert result["curve"] == [
        (0, result["initial_validation_loss"]),
        (60, result["validation_loss"]),
    ]


def test_validation_loss_keeps_the_mode_and_the_statistics():
    problem = task_named("photo-cnn").build(0)
    before = [value.clone() for value in problem.module.state_dict().values()]
    for training in (True, False):
        problem.module.train(training)
        problem.validation_loss(problem.module)
        assert problem.module.training is training
    assert all(map(torch.equal, before, problem.module.state_dict().values()))


@pytest.mark.parametrize("side", [8, 12])
def test_splits_of_the_photographs_share_no_pixel(side):
    height, width = data.photographs().shape[1:]
    seen = {}
    for split in ("train", "validation"):
        span = np.arange(side)
        corners = data.patch_corners(split, side)[:, None, None]
        pixels = np.unique(corners + span[:, None] * width + span)
        seen[split] = pixels
        rows, columns = corners // width % height, corners % width
        assert (rows + side <= height).all() and (columns + side <= width).all()
    assert not np.intersect1d(seen["train"], seen["validation"]).size
    assert len(seen["validation"]) > 0.15 * len(seen["train"])


def test_splits_of_the_text_share_no_file_and_snippets_no_character():
    assert not set(data.TRAIN_FILES) & set(data.VALIDATION_FILES)
    rng = np.random.default_rng(0)
    labels = rng.integers(len(data.MODULES), size=50_000)
    seen = {}
    for split in ("train", "validation"):
        starts = data.snippet_starts(split, rng, labels)
        begin = data._modules()[1]
        assert (starts >= begin[labels]).all()
        assert (starts + data.SNIPPET <= begin[labels + 1]).all()
        seen[split] = np.unique(starts[:, None] + np.arange(data.SNIPPET))
    assert not np.intersect1d(seen["train"], seen["validation"]).size


def test_language_models_predict_the_next_character_and_see_no_later_one():
    inputs, targets = data.sentences("train", np.random.default_rng(0), 4, 24)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert 0 <= inputs.min() and inputs.max() < data.CHARACTERS
    changed = inputs.clone()
    changed[:, 12:] = 0
    for name in ("code-lstm", "code-transformer"):
        module = task_named(name).build(0).module
        torch.testing.assert_close(module(inputs)[:, :12], module(changed)[:, :12])


def test_a_missing_file_of_the_library_is_named():
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        data.source("nothing_here.py")


# Runner


class TakesLoss(torch.optim.SGD):
    seen = []

    def step(self, closure=None, *, loss=None):
        assert not loss.requires_grad
        self.seen.append(loss.item())
        return super().step(closure)


def test_learned_arms_are_given_the_detached_loss():
    arm = Arm("ours", lambda params, total: TakesLoss(params, lr=0.1), takes_loss=True)
    TakesLoss.seen.clear()
    result = train(arm, short("friedman"), 0)
    assert len(TakesLoss.seen) == 8 and result["learned"]
    assert result["train_loss"] == TakesLoss.seen[-1]
    assert [lr for _, lr in result["lr_trace"]] == [0.1] * 8


def test_schedules_start_at_the_base_and_end_near_zero():
    arm = tuned_arms(Choice(constant=1e-2, cosine=3e-2, schedule="cosine"))[0]
    result = train(arm, short("friedman", 20), 0)
    rates = [lr for _, lr in result["lr_trace"]]
    assert result["lr"] == rates[0] == 3e-2
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.01 * 3e-2


def test_schedule_free_is_judged_at_its_averages():
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
    plain = train(ADAMW, task, 0, curve_points=1)
    assert result["initial_validation_loss"] == plain["initial_validation_loss"]


def test_arms_see_the_same_run_and_a_diverged_one_is_kept(tmp_path):
    pytest.importorskip("matplotlib")
    wild = Arm("wild", lambda params, total: torch.optim.SGD(params, lr=1e9))
    tasks = [short("friedman", 20), short("module-classifier")]
    rows = evaluate([ADAMW, wild], tasks, [0, 1], progress=False)
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
    with start_baselines([task], [10], [0, 1]) as baselines:
        rows, choices = baselines.result(progress=False)
    assert baselines.done == baselines.total == 14 + 5 * 2
    assert {r["seed"] for r in rows} == {0, 1} and list(choices) == ["friedman"]
    arms = {task.name: [*default_arms(), *tuned_arms(choices[task.name])]}
    expected = evaluate(arms, [task], [0, 1], progress=False)
    found, expected = ([r["validation_loss"] for r in some] for some in (rows, expected))
    assert found == pytest.approx(expected, rel=1e-4)


# Tuning


def test_tuning_picks_the_best_mean_and_shuns_what_is_not_finite():
    rows = []
    for arm in grid_arms():
        lr, cosine = arm.factory.keywords["lr"], arm.schedule is not None
        distance = abs(math.log10(lr / (1e-2 if cosine else 1e-3)))
        rows += [row("a", arm.name, seed, 1 + distance - 0.1 * cosine) for seed in (0, 1)]
    assert choose(rows) == {"a": Choice(1e-3, 1e-2, "cosine")}
    for each in rows:
        if each["arm"] == "AdamW 0.01, cosine" and each["seed"] == 1:
            each["validation_loss"] = math.inf
    assert choose(rows)["a"].schedule == "constant"
    with pytest.raises(ValueError, match=r"'AdamW 0.1, cosine'.*'a'"):
        choose(rows[:-2])


def test_tuning_uses_the_tuning_seeds_only():
    asked = []

    def sample(split, rng, n):
        asked.append(rng)
        return data.friedman(split, rng, n)

    built = []

    class Recorded(type(short("friedman"))):
        def build(self, seed):
            built.append(seed)
            return super().build(seed)

    task = Recorded(**{**vars(short("friedman", 2)), "sample": sample})
    choice = tune([task], [7, 8], progress=False)["friedman"]
    assert asked and set(built) == {7, 8} and len(built) == 2 * 2 * len(GRID)
    assert choice.constant in GRID and choice.cosine in GRID
    with pytest.raises(ValueError, match=r"both have \[1\]"):
        start_baselines([task], [0, 1], [1, 2])


# Statistics and output


def test_intervals_agree_with_scipy():
    from scipy import stats

    values = [0.3, 0.5, 0.1, 0.9, 0.4]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(interval([1.0]).half) and not interval([1.0]).decided
    assert interval([1.0, math.inf]).mean == math.inf
    with pytest.raises(ValueError, match="got none"):
        interval([])


def test_differences_are_paired_by_seed():
    from scipy import stats

    ours, theirs = [0.5, 0.7, 0.9], [0.6, 0.85, 1.0]
    rows = [row("a", "ours", s, x, learned=True) for s, x in enumerate(ours)]
    rows += [row("a", TUNED, s, x) for s, x in reversed(list(enumerate(theirs)))]
    found = difference(rows, "a", "ours", TUNED)
    bounds = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(
        tuple(bounds)
    )
    expected = [100 * (o - t) / (2 - t) for o, t in zip(ours, theirs, strict=True)]
    assert gap(rows, ["a"], "ours", TUNED) == pytest.approx(interval(expected))
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] and \[0, 1, 2\]"):
        difference(
            [r for r in rows if r["seed"] < 2 or not r["learned"]], "a", "ours", TUNED
        )


@pytest.fixture
def results():
    losses = {
        "AdamW default": 1.2,
        "Schedule-Free AdamW": 1.1,
        TUNED: 1.0,
        f"{TUNED}, cosine": 1.05,
        "PPO (ours)": 0.9,
        "DQN (ours)": math.inf,
    }
    return [
        row(task, arm, seed, loss + 0.01 * seed, learned="ours" in arm)
        for task in ("a", "b", "c", "d")
        for arm, loss in losses.items()
        for seed in range(3)
    ]


def test_table_fits_a_terminal_and_counts_wins(results):
    table = format_table(results)
    assert max(map(len, table.splitlines())) <= 120
    assert f"{TUNED}, cosine" not in table
    assert "0.9100 ±0.0248" in table and "inf" in table
    ppo, dqn = table.split("minus the baseline")[1:]
    assert ppo.count("4 of 4 better (4*)") == 3 and dqn.count("0 of 4 better (0*)") == 3
    narrow = format_table(results, width=60)
    assert max(len(line) for line in narrow.splitlines() if "±" in line[1:]) <= 90
    assert narrow.split() != table.split()
    assert "0.9100" in format_table([r for r in results if r["learned"]])


def test_csv_has_a_line_per_run(results, tmp_path):
    write_csv(results, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results)
    assert [float(line["validation_loss"]) for line in lines] == [
        r["validation_loss"] for r in results
    ]
    assert "curve" not in lines[0] and lines[0]["task"] == "a"
    with pytest.raises(ValueError, match="no results"):
        write_csv([], tmp_path / "none.csv")


@pytest.mark.parametrize("ours", [True, False])
def test_pictures_are_drawn(results, ours, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [r for r in results if ours or not r["learned"]]
    plot_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no results"):
        plot_curves([], tmp_path / "none.png")
