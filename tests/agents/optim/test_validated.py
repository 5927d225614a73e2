"""Validation losses reach the policy at its next decision, and are kept with the state."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor, nn

import optenv
from agents import LearnedLR, LearnedOptimizer, Policy, export_policy, load_policy
from optenv.sb3 import SB3VecEnv
from optenv.telemetry import VALIDATION_FEATURES, observed_features
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

TOTAL = 60
NAMES = [*observed_features("invariant", True)]


def seeing(**description: Any) -> Policy:
    """Return a random policy that observes validation losses."""
    return random_policy(features=NAMES, **description)


def walk(
    optimizer: Any,
    steps: Iterable[int],
    losses: Callable[[int], Any],
    unit: tuple[float, float] = (1.0, 0.0),
) -> Tensor:
    """Take steps on a parameter, with the validation losses after them, if not None.

    Training losses are multiplied by the first number of ``unit``, and the second added.
    """
    driven = getattr(optimizer, "optimizer", optimizer)
    (p,) = driven.param_groups[0]["params"]
    for step in steps:
        p.grad = p.detach().cos() + (step % 3) * torch.linspace(-1, 1, p.numel()).to(p)
        if driven is optimizer:
            optimizer.step(loss=unit[0] * 2.0 ** (-step / 9) + unit[1])
        else:
            driven.step()
            optimizer.step(unit[0] * 2.0 ** (-step / 9) + unit[1])
        if (loss := losses(step)) is not None:
            optimizer.validated(loss)
    return p.detach().clone()


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(0.5, 2, 4))


def made(policy: Policy | None = None, **arguments: Any) -> LearnedOptimizer:
    return LearnedOptimizer(
        [parameter()], policy or seeing(), **{"total_steps": TOTAL, **arguments}
    )


def scheduled() -> LearnedLR:
    return LearnedLR(torch.optim.Adam([parameter()]), TOTAL, seeing())


def take_weights(new: torch.optim.Optimizer, old: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        new.param_groups[0]["params"][0].copy_(old.param_groups[0]["params"][0])


def usual(step: int) -> float | None:
    """Return validation losses that fall and rise, at every fourth step."""
    return None if step % 4 else 3.0 / (step + 1) + 0.2 * math.sin(step)


def shown(optimizer: Any) -> np.ndarray:
    """Return the features of validation losses at all decisions, ``[D, 6]``."""
    return np.array([[row[n] for n in VALIDATION_FEATURES] for row in optimizer.explain()])


def test_the_next_decision_observes_it() -> None:
    optimizer = made(seeing(spacing=1.0, horizon=20))  # decisions at every third step
    walk(optimizer, range(8), lambda step: 2.0 if step == 4 else None)
    assert [row["step"] for row in optimizer.explain()] == [0, 3, 6]
    assert shown(optimizer)[:, 0].tolist() == [0, 0, 1]


def test_of_several_between_two_decisions_the_last_counts() -> None:
    policy = seeing(spacing=1.0, horizon=20)
    losses = {1: [9.0, 4.0], 4: [70.0, -8.0, 3.0], 8: [5.0, math.nan, math.inf]}
    many, last = made(policy), made(policy)
    for optimizer, kept in ((many, slice(None)), (last, slice(-1, None))):
        for step in range(TOTAL):
            walk(optimizer, [step], lambda _: None)
            for loss in [x for x in losses.get(step, ()) if math.isfinite(x)][kept]:
                optimizer.validated(loss)
    np.testing.assert_array_equal(shown(many), shown(last))
    assert shown(many)[-1, 0] == 1


@pytest.mark.parametrize("make", [made, scheduled])
def test_what_is_observed_does_not_depend_on_unit_and_zero(make: Callable[[], Any]) -> None:
    def in_unit(factor: float, shift: float, step: int) -> float | None:
        loss = usual(step)
        return None if loss is None else factor * loss + shift

    ends, seen = [], []
    for unit in ((1.0, 0.0), (1e3, 0.0), (2.0, -300.0)):
        optimizer = make()
        ends.append(walk(optimizer, range(TOTAL), partial(in_unit, *unit), unit))
        seen.append(shown(optimizer))
    for end, features in zip(ends[1:], seen[1:], strict=True):
        torch.testing.assert_close(end, ends[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(features, seen[0], atol=2e-3)
    assert (np.ptp(seen[0], axis=0) > 0.3).all()


@pytest.mark.parametrize("make", [made, scheduled])
def test_a_policy_acts_on_what_it_observes(make: Callable[[], Any]) -> None:
    first, second = make(), make()
    assert not torch.equal(
        walk(first, range(TOTAL), usual), walk(second, range(TOTAL), lambda _: None)
    )
    assert not shown(second).any() and shown(first).any()


def test_a_validation_loss_before_the_first_step_is_left_out_as_in_training() -> None:
    first, second = made(), made()
    first.validated(100.0)
    assert torch.equal(walk(first, range(TOTAL), usual), walk(second, range(TOTAL), usual))


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, -math.inf, 1e300, torch.tensor(math.nan)]
)
def test_one_that_is_not_finite_is_ignored_and_counted(bad: Any) -> None:
    optimizer, other = made(), made()
    ends = [
        walk(optimizer, range(TOTAL), lambda step: bad if step == 6 else usual(step)),
        walk(other, range(TOTAL), usual),
    ]
    assert torch.equal(*ends)
    assert (optimizer.ignored_losses, other.ignored_losses) == (1, 0)


@pytest.mark.parametrize("make", [made, scheduled])
@pytest.mark.parametrize("policy", ["seeing", "other"])
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (None, TypeError, "validation loss must be a scalar, got None"),
        ("1.0", TypeError, "validation loss must be a scalar, got '1.0'"),
        (1j, TypeError, "validation loss must be a scalar, got 1j"),
        ([1.0, 2.0], TypeError, "validation loss must be a scalar"),
        (torch.ones(3), ValueError, r"must be a scalar, got a tensor of shape \[3\]"),
        (torch.tensor(1j), TypeError, "validation loss must be real"),
        (torch.ones((), device="meta"), ValueError, "validation loss is on device 'meta'"),
    ],
)
def test_anything_but_a_real_scalar_is_refused(
    make: Callable[[], Any], policy: str, loss: Any, error: type[Exception], message: str
) -> None:
    optimizer = make() if policy == "seeing" else made(random_policy())
    with pytest.raises(error, match=message):
        optimizer.validated(loss)


@pytest.mark.parametrize(
    "loss", [2, 2.0, np.float64(2.0), torch.tensor(2.0), torch.ones(1, 1)]
)
def test_numbers_and_tensors_of_one_element_are_taken(loss: Any) -> None:
    optimizer = made()
    walk(optimizer, range(1), lambda _: loss)
    assert optimizer.param_groups[0]["controller"]["validated"] == float(loss)


@pytest.mark.parametrize("make", [LearnedOptimizer, LearnedLR])
def test_a_policy_that_observes_none_warns_once_and_goes_on_without(make: Any) -> None:
    def built() -> Any:
        if make is LearnedOptimizer:
            return made(random_policy())
        return LearnedLR(torch.optim.Adam([parameter()]), TOTAL, random_policy())

    told, other = built(), built()
    with pytest.warns(UserWarning, match="does not observe validation losses") as found:
        end = walk(told, range(TOTAL), usual)
    assert len(found) == 1 and found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(told).validated(1.0)
    assert torch.equal(end, walk(other, range(TOTAL), lambda _: None))
    state = told._controller.state
    assert not {"validated", "validation"} & set(state) and not state["ignored_losses"]


def test_a_policy_that_observes_them_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk(made(), range(TOTAL), usual)


@pytest.mark.parametrize("at", [5, 6, 21, 30])
def test_a_run_goes_on_from_its_state_in_the_middle(at: int) -> None:
    optimizer, resumed = made(), made()
    walk(optimizer, range(at), usual)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    take_weights(resumed, optimizer)
    resumed.load_state_dict(torch.load(buffer))
    ends = [walk(each, range(at, TOTAL), usual) for each in (optimizer, resumed)]
    assert torch.equal(*ends)
    np.testing.assert_array_equal(shown(optimizer), shown(resumed))
    assert shown(optimizer)[-1].any()


def test_a_scheduler_goes_on_from_its_state_in_the_middle() -> None:
    scheduler, resumed = scheduled(), scheduled()
    walk(scheduler, range(22), usual)
    take_weights(resumed.optimizer, scheduler.optimizer)
    saved = copy.deepcopy([scheduler.optimizer.state_dict(), scheduler.state_dict()])
    resumed.optimizer.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert torch.equal(*(walk(s, range(22, TOTAL), usual) for s in (scheduler, resumed)))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("make", [made, scheduled])
def test_copies_keep_a_validation_loss_that_no_decision_has_observed(
    make: Callable[[], Any], clone: Callable[[Any], Any]
) -> None:
    optimizer = make()
    walk(optimizer, range(21), usual)
    optimizer.validated(-3.0)
    other = clone(optimizer)
    assert torch.equal(
        *(walk(each, range(21, TOTAL), usual) for each in (optimizer, other))
    )
    np.testing.assert_array_equal(shown(optimizer), shown(other))


def test_states_of_other_policies_have_and_need_no_entry_of_it() -> None:
    optimizer = made(random_policy())
    walk(optimizer, range(20), lambda _: None)
    saved = optimizer.state_dict()
    assert not {"validated", "validation"} & set(saved["param_groups"][0]["controller"])
    made(random_policy()).load_state_dict(saved)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("validation"), r"has no \['validation'\]"),
        (
            lambda state: state.update(validated=math.nan),
            "validated must be a finite",
        ),
        (lambda state: state.update(validated=1e300), "validated must be a finite"),
        (
            lambda state: state["validation"].update(seen=torch.tensor([-1.0])),
            "validation: seen must be finite, from 0",
        ),
        (
            lambda state: state["validation"].update(latest=torch.tensor([math.inf])),
            "validation: latest must be finite",
        ),
    ],
)
def test_a_damaged_state_is_refused(damage: Callable[[Any], Any], message: str) -> None:
    optimizer = made()
    walk(optimizer, range(20), usual)
    saved = copy.deepcopy(optimizer.state_dict())
    damage(saved["param_groups"][0]["controller"])
    with pytest.raises(ValueError, match=message):
        made().load_state_dict(saved)


def test_a_new_run_begins_without() -> None:
    optimizer, fresh = made(), made()
    walk(optimizer, range(TOTAL), usual)
    optimizer.validated(-100.0)
    optimizer.new_run([parameter()])
    assert torch.equal(
        walk(optimizer, range(TOTAL), usual), walk(fresh, range(TOTAL), usual)
    )


def test_lower_is_better_also_where_the_objective_is_maximised() -> None:
    seen = []
    for maximize in (False, True):
        optimizer = made(maximize=maximize)
        walk(optimizer, range(30), usual, (-1.0 if maximize else 1.0, 0.0))
        seen.append(shown(optimizer))
    np.testing.assert_array_equal(*seen)


def test_a_skipped_step_leaves_it_to_the_next_decision() -> None:
    optimizer = made(seeing(spacing=1.0, horizon=20))
    walk(optimizer, range(3), lambda step: 2.0 if step == 2 else None)
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = torch.full_like(p, math.nan)
    optimizer.step(loss=1.0)
    assert optimizer.skipped == 1 and not shown(optimizer).any()
    walk(optimizer, range(3, 5), lambda _: None)
    assert shown(optimizer)[-1, 0] == 1


def test_it_is_explained_in_plain_words() -> None:
    optimizer = made()
    walk(optimizer, range(40), usual)
    text = str(optimizer.explain())
    assert "validation_fall: decrease of the last validation loss" in text
    assert set(VALIDATION_FEATURES) <= set(optimizer.explain()[0])
    assert "validation_fall" not in str(made(random_policy()).explain())


def test_a_policy_trained_on_them_is_exported_and_names_its_environment(
    tmp_path: Any,
) -> None:
    env = optenv.LearningRateVectorEnv(
        4, tasks=MLP, observe_validation=True, validation_dropout=0.3,
        validation_every=(1, 5), autoreset_mode="Disabled",
    )  # fmt: skip
    model = PPO("MlpPolicy", SB3VecEnv(env), seed=0)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.sees_validation and list(policy.observed) == NAMES
    assert policy.environment["observe_validation"] is True
    again = optenv.LearningRateVectorEnv(4, tasks=MLP, **policy.environment)
    assert again.settings.observed == policy.observed
    observation, _ = again.reset(seed=0)
    for _ in range(3):
        action = policy(torch.from_numpy(observation)).detach().numpy()
        observation, *_ = again.step(action)
        expected, _ = model.predict(observation, deterministic=True)
        found = policy(torch.from_numpy(observation)).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (observation[:, -6] == 1).all()
    assert "observe_validation" not in random_policy().environment
    optimizer = made(policy)
    walk(optimizer, range(TOTAL), usual)
    assert shown(optimizer)[-1, 0] == 1
