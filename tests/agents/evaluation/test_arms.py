"""Arms of the table: every one trains; searches choose among their own settings."""

from __future__ import annotations

import math
import pickle
import random
import sys
from functools import partial

import numpy as np
import pytest
import torch

from agents.evaluation.arms.arm import Arm, Choice, choose, grid_arms, mean_losses
from agents.evaluation.arms.factories import adamw, import_optional, plateau, warmup_cosine
from agents.evaluation.arms.short_list import ADAMW, default_arms
from agents.evaluation.arms.table import (
    GREEDY,
    MUON,
    ORTHOGONAL,
    RANDOM,
    SCHEDULE_FREE,
    SEARCHES,
    SGD,
    SOAP,
    random_choices,
    untuned_arms,
)
from agents.evaluation.runs.jobs import Job, job_key
from agents.evaluation.runs.run import train
from agents.evaluation.tasks.heldout import HELDOUT
from agents.rl.presets import RULE
from tests.helpers.benchmark_rows import row, short

pytest.importorskip("sklearn")

#: The module that an arm needs.
NEEDS = {
    "Schedule-Free AdamW": "schedulefree",
    "Schedule-Free SGD": "schedulefree",
    "Prodigy": "prodigyopt",
    "D-Adapt Adam": "dadaptation",
    "Mechanic AdamW": "mechanic_pytorch",
    "SOAP": "pytorch_optimizer",
    "PILOT": "pilot",
    grid_arms(GREEDY)[2].name: "transformers.optimization",
}
ARMS = {
    arm.name: arm
    for arm in [*untuned_arms(), *(grid_arms(s)[2] for s in (SGD, RANDOM, MUON, GREEDY))]
}


def available(name):
    if name in NEEDS:
        reason = f"{name} needs {NEEDS[name]}, of the extra 'benchmark'"
        pytest.importorskip(NEEDS[name], reason=reason)
    if name.startswith("Muon") and not hasattr(torch.optim, "Muon"):
        pytest.skip("Muon needs torch 2.9")
    return ARMS[name]


def globals_now():
    legacy = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        (legacy[1].tolist(), legacy[2:]),
        random.getstate(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("task", ["photo-cnn", "code-transformer"])
def test_every_arm_trains_and_leaves_global_state_alone(name, task):
    arm, task = available(name), short(task, 10)
    task.build(0)  # reading the data moves Python's generator, the first time
    before = globals_now()
    result = train(arm, task, 0, curve_points=0)
    assert globals_now() == before
    assert not result["learned"]
    losses = result["validation_loss"], result["train_loss"]
    assert all(map(math.isfinite, losses)), losses
    assert losses[0] != result["initial_validation_loss"]
    assert all(rate >= 0 for _, rate in result["lr_trace"])


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_on_every_heldout_task(name):
    arm = available(name)
    for task in HELDOUT:
        result = train(arm, short(task.name, 3), 0, curve_points=0)
        assert math.isfinite(result["validation_loss"]), task.name


def test_arms_are_picklable_and_their_names_are_unique():
    arms = [*untuned_arms(), *(arm for s in SEARCHES.values() for arm in grid_arms(s))]
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) == 15 + 21 + 21 + 5 + 21 + 7 + 7 + 7 + 7
    assert [arm.name for arm in pickle.loads(pickle.dumps(arms))] == names
    assert set(NEEDS) <= set(ARMS)


@pytest.mark.parametrize("name", sorted(NEEDS.keys() - {a.name for a in default_arms()}))
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(ImportError, match=r'install "\.\[benchmark\]"'):
        arm = ARMS[name]
        optimizer = arm.factory([torch.nn.Parameter(torch.ones(2))], 10)
        arm.watch(optimizer, 10)


def test_a_name_missing_in_a_package_is_an_import_error():
    with pytest.raises(ImportError, match=r"Lost of the package pytorch .*benchmark"):
        import_optional("torch", "Lost", "pytorch")


# Schedules and watchers


def test_warm_up_rises_for_a_twentieth_of_the_run_and_ends_at_zero():
    found = [warmup_cosine(progress) for progress in (0.0, 0.025, 0.05, 0.525, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_plateaus_lower_the_lr_and_progress_does_not():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    watch = plateau(optimizer, 500)  # windows of ten updates
    noisy = [2.0 - t / 500 + (-1) ** t for t in range(300)]
    for loss in noisy:
        watch(loss)
    assert optimizer.param_groups[0]["lr"] == 1.0
    for _ in range(10 * 11 - 1):  # eleven windows that are not better than the last
        watch(5.0)
    assert optimizer.param_groups[0]["lr"] == 1.0
    watch(5.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_watchers_are_called_with_the_loss_after_each_update():
    seen = []

    def watch(optimizer, total):
        assert total == 8

        def note(loss):
            steps = [int(s["step"]) for s in optimizer.state.values()]
            seen.append((steps[0], loss))

        return note

    arm = Arm("watched", partial(adamw, lr=1e-3), watch=watch)
    result = train(arm, short("friedman"), 0)
    assert [step for step, _ in seen] == list(range(1, 9))
    assert seen[-1][1] == result["train_loss"]


def test_the_lr_trace_of_mechanic_is_the_lr_in_force():
    rates = train(available("Mechanic AdamW"), short("friedman", 20), 0)["lr_trace"]
    assert len(rates) == 20 and 0 <= rates[0][1] < rates[-1][1] < 1


# Searches


def test_random_search_always_draws_the_same_trials():
    expected = (
        Choice(0.0341, "wsd"),
        Choice(0.00183, "constant"),
        Choice(0.00342, "cosine"),
        Choice(0.0225, "constant"),
        Choice(0.00269, "cosine"),
    )
    assert RANDOM.choices == random_choices() == expected
    assert random_choices(3) == expected[:3] and random_choices(5, seed=1) != expected
    rates = [choice.lr for choice in random_choices(300)]
    assert 1e-4 <= min(rates) < 2e-4 and 5e-2 < max(rates) <= 1e-1
    with pytest.raises(ValueError, match="trials must be a positive integer, got 0"):
        random_choices(0)


def test_each_search_chooses_among_its_own_settings():
    rows = [
        row("a", name, 0, 1.0 + abs(math.log10(choice.lr / best)))
        for search, best in ((ADAMW, 1e-3), (SGD, 3e-1), (RANDOM, 2e-2))
        for name, choice in search.choice_by_arm.items()
    ]
    for search, lr in ((ADAMW, 1e-3), (SGD, 3e-1), (RANDOM, 0.0225)):
        means = mean_losses(rows, search)
        assert set(means["a"]) == set(search.choice_by_arm)
        assert choose(means, search)["a"].lr == lr


def test_tuned_arms_use_the_learning_rate_of_their_choice():
    assert {choice.schedule for choice in SCHEDULE_FREE.choices} == {"constant"}
    assert {choice.schedule for choice in SOAP.choices + MUON.choices} == {"cosine"}
    for search, module in ((SCHEDULE_FREE, "schedulefree"), (SOAP, "pytorch_optimizer")):
        pytest.importorskip(module)
        arm = next(arm for arm in grid_arms(search) if " 0.03," in arm.name)
        optimizer = arm.factory([torch.nn.Parameter(torch.ones(2))], 10)
        assert optimizer.param_groups[0]["lr"] == 0.03


def test_both_parts_of_tuned_muon_use_the_learning_rate_of_their_choice():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("Muon needs torch 2.9")
    arm = next(arm for arm in grid_arms(MUON) if " 0.03," in arm.name)
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    assert arm.takes_module
    assert [group["lr"] for group in arm.factory(module, 10).param_groups] == [0.03, 0.03]


def test_greedy_rates_rise_while_the_loss_falls_and_fall_where_it_does_not():
    pytest.importorskip("transformers")
    arm = next(arm for arm in grid_arms(GREEDY) if " 0.01," in arm.name)
    for losses, low, high in (
        ([1.0 - 0.01 * t for t in range(60)], 1.1e-2, 1.4e-2),
        ([1.0] * 60, 0.7e-2, 0.9e-2),
        ([1.0] * 2000, 1e-4, 1e-4),  # the lower bound
    ):
        optimizer = arm.factory([torch.nn.Parameter(torch.ones(2))], len(losses))
        watch = arm.watch(optimizer, len(losses))
        for loss in losses:
            watch(loss)
        assert low <= optimizer.param_groups[0]["lr"] <= high


def test_the_key_of_orthogonal_adam_has_the_default_policys_rule():
    arm = grid_arms(ORTHOGONAL)[0]
    assert job_key(Job(arm, HELDOUT[0], 0))["spec"] == repr(RULE)


def test_sgd_arms_have_momentum_and_their_schedule():
    arm = next(arm for arm in grid_arms(SGD) if arm.name == "SGD 0.3, wsd")
    optimizer = arm.factory([torch.nn.Parameter(torch.ones(2))], 10)
    assert optimizer.defaults["momentum"] == 0.9 and optimizer.defaults["lr"] == 0.3
    assert arm.schedule is not None and arm.schedule(0.85) == pytest.approx(0.5)


def test_more_settings_than_there_is_memory_for_are_refused():
    with pytest.raises(ValueError, match=r"trials=1000000000000 would need .* of mem"):
        random_choices(10**12)
