"""Learning rates learned by differentiating through training runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer, load_policy
from agents.rl.unrolled import UnrolledLR
from agents.rl.unrolled_rule import UnrolledRule
from optenv.group import Group
from optenv.settings import make
from tests.helpers.small_runs import MLP
from tests.helpers.unrolled_runs import reset, returns

RUNS = {
    "tasks": MLP, "horizon": 6, "updates_per_step": 3, "spacing": 1.0,
    "base_lr": (1e-3, 1e-2), "on_divergence": "absorb",
}  # fmt: skip
ACTION = {"kind": "continuous", "bound": 4.0, "step": 1.0}


@pytest.mark.parametrize("rule", ["momentum", "adam", "orthogonal-adam"])
def test_gradients_of_returns_equal_finite_differences(rule):
    """Differentiate the return of four control steps by each of their actions."""
    settings = make({**RUNS, "rule": rule, "action": ACTION, "dtype": "float64"})
    group = Group(settings, 2)
    actions = torch.linspace(-0.6, 0.4, 8, dtype=torch.float64).view(4, 2, 1)

    def total(taken, differentiable=False):
        reset(group)
        steps = [group.step(action, differentiable=differentiable) for action in taken]
        return torch.stack([step.reward for step in steps]).sum(0)

    taken = [action.clone().requires_grad_() for action in actions]
    found = torch.autograd.grad(total(taken, differentiable=True).sum(), taken)
    for step in range(4):
        ends = []
        for sign in (1, -1):
            moved = actions.clone()
            moved[step] += sign * 1e-5
            ends.append(total(moved))
        torch.testing.assert_close(
            found[step][:, 0], (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-7
        )


def test_detaching_a_group_ends_the_graph_and_keeps_the_values():
    group = Group(make({**RUNS, "action": ACTION}), 3)
    reset(group)
    action = torch.zeros(3, 1, requires_grad=True)
    assert group.step(action, differentiable=True).reward.requires_grad
    before = group.state.run.params.detach().clone()
    group.detach()
    assert not group.state.run.params.requires_grad and not group.state.loss.requires_grad
    assert torch.equal(group.state.run.params, before)


def test_differentiable_steps_equal_ordinary_steps():
    walks = []
    for differentiable in (False, True):
        group = Group(make({**RUNS, "rule": "adam", "action": ACTION}), 3)
        reset(group)
        for value in (0.3, -0.5):
            group.step(torch.full((3, 1), value), differentiable=differentiable)
        walks.append(group.state.run.params.detach())
    torch.testing.assert_close(*walks)


@pytest.mark.slow
@pytest.mark.training
def test_a_learner_improves_and_exports_an_optimizer(tmp_path):
    learner = UnrolledLR(
        {**RUNS, "rule": "adam", "action": ACTION}, groups=2, size=8, segment=3,
        meta_lr=1e-2,
    )  # fmt: skip
    before = returns(learner)
    learner.learn(1_920)
    assert learner.num_timesteps == 1_920
    gain = returns(learner) - before
    assert gain.mean() > 4 * gain.std() / 8
    learner.save(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    assert policy.description["algorithm"] == "UnrolledLR"
    model = nn.Linear(3, 1)
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=18)
    for _ in range(18):
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    moved = [row["moved"] for row in optimizer.explain()]
    assert len(moved) == 6 and max(map(abs, moved)) > 0.1


def test_the_result_depends_on_the_seed_alone():
    made = [
        UnrolledLR({**RUNS, "action": ACTION}, groups=1, size=4, seed=seed).learn(48)
        for seed in (0, 0, 1)
    ]
    same, again, other = (learner.policy.weights() for learner in made)
    assert same == again != other


def test_arguments_that_are_not_valid_are_refused():
    with pytest.raises(ValueError, match="the action must be continuous, got Discrete"):
        UnrolledLR({**RUNS, "action": {"kind": "discrete"}})
    for error, given, message in (
        (ValueError, {"segment": 0}, "segment must be a positive integer, got 0"),
        (ValueError, {"clip": 0.0}, "clip must be positive and finite, got 0.0"),
        (
            ValueError,
            {"noise": float("nan")},
            "noise must be a number, at least 0, got nan",
        ),
        (ValueError, {"meta_lr": -1.0}, "meta_lr must be positive and finite, got -1.0"),
        (TypeError, {"seed": None}, "seed must be an integer, got None"),
    ):
        with pytest.raises(error, match=message):
            UnrolledLR({**RUNS, "action": ACTION}, **given)


def test_a_learner_in_float64_has_a_float64_policy():
    learner = UnrolledLR({**RUNS, "action": ACTION, "dtype": "float64"}, groups=1, size=2)
    assert next(learner.learn(6).policy.parameters()).dtype == torch.float64


def test_unknown_arguments_are_answered_with_the_closest_valid_name():
    with pytest.raises(
        TypeError, match=r"UnrolledLR has no argument 'group'; did .*'groups"
    ):
        UnrolledLR(RUNS, group=2)
    with pytest.raises(TypeError, match=r"UnrolledRule .* 'rule_rate'; did .*'rule_lr'"):
        UnrolledRule(RUNS, rule_rate=0.1)
