"""What torch's own tests hold torch's optimizers to: construction, steps, hooks.

Each test runs over LearnedOptimizer with every shipped policy and over an AdamW that a
LearnedLR drives. AdamW and NAdam are controls: a property that they lack is none of
torch's. The table of torch's tests is in ``docs/notes/torch-contract.md``.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from agents.optim.kernels import FUSED
from tests.helpers.optimizers import (
    OPTIMIZERS,
    WITH_SCHEDULER,
    parametrized,
    shipped,
)

pytestmark = pytest.mark.filterwarnings("ignore:a loss is .* below zero:UserWarning")

each = parametrized(WITH_SCHEDULER)
each_optimizer = parametrized(OPTIMIZERS)

#: Optimizers with a fused implementation.
FUSED_ONES = {
    name: make
    for name, make in WITH_SCHEDULER.items()
    if name in ("AdamW", "LearnedLR")
    or (name != "NAdam" and shipped(name).rule.name in FUSED)
}

#: Optimizers that treat each number of a parameter alone.
ELEMENTWISE = {
    name: make for name, make in WITH_SCHEDULER.items() if name != "unrolled-rule"
}

#: Arguments that every optimizer takes.
ARGUMENTS = {
    "defaults": {},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
}


def randn(*shape, seed=0, **kind):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kind)


class Regression:
    """A linear map and the square of its output, as one problem for any optimizer."""

    def __init__(self, contiguous=True, dtype=torch.float32):
        weight, bias = randn(10, 5, 2, dtype=dtype), randn(10, 2, seed=1, dtype=dtype)
        weight, bias = weight[..., 0], bias[..., 0]
        if contiguous:
            weight, bias = weight.clone(), bias.clone()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.inputs = randn(5, seed=2, dtype=dtype)
        self.params = [self.weight, self.bias]

    def closure(self, optimizer):
        """Return a function that computes the gradients, and returns the loss."""

        def evaluate():
            optimizer.zero_grad()
            loss = (self.weight.mv(self.inputs) + self.bias).square().sum()
            loss.backward()
            return loss

        return evaluate

    def train(self, optimizer, steps):
        """Take steps by a closure; return the losses before and after."""
        evaluate = self.closure(optimizer)
        first = evaluate().item()
        for _ in range(steps):
            optimizer.step(evaluate)
        return first, evaluate().item()


# Construction.

ONE, OTHER = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1, 1))

REFUSED = {
    "parameter": (ONE, {}, TypeError, "should be an iterable"),
    "twice": ([{"params": ONE}, {"params": ONE}], {}, ValueError, "more than one"),
    "lr": (None, {"lr": torch.tensor([1e-3, 1e-3])}, ValueError, "must be 1-element"),
    "some names": ([("a", ONE), OTHER], {}, ValueError, "with/without names"),
    "a group's names": (
        [{"params": [ONE], "lr": 1e-2}, {"params": [("a", OTHER)]}],
        {}, ValueError, "with/without names",
    ),
    "negative lr": ([ONE], {"lr": -1e-3}, ValueError, "0.001"),
    "negative decay": ([ONE], {"weight_decay": -1.0}, ValueError, "weight_decay.*-1"),
    "beta of 1": ([ONE], {"betas": (1.0, 0.0)}, ValueError, "beta"),
    "mixed betas": ([ONE], {"betas": (0.9, torch.tensor(0.99))}, ValueError, "betas"),
}  # fmt: skip


@each
@pytest.mark.parametrize("case", REFUSED)
def test_what_torch_refuses_is_refused_with_the_same_error(make, case):
    params, arguments, error, match = REFUSED[case]
    if isinstance(params, list):  # torch writes settings into the groups it is given
        params = [dict(each) if isinstance(each, dict) else each for each in params]
    if make is torch.optim.NAdam and case == "mixed betas":
        pytest.skip("torch's NAdam takes them")
    with pytest.raises(error, match=match):
        make(params, **arguments)


@each
def test_a_parameter_that_is_in_a_group_twice_gives_a_warning(make):
    with pytest.warns(UserWarning, match="duplicate parameters"):
        make([ONE, ONE])


@each
def test_it_can_be_printed_with_all_of_its_groups(make):
    problem = Regression()
    optimizer = make([{"params": [p]} for p in problem.params], lr=0.0125)
    assert "Parameter Group 1" in repr(optimizer) and "lr: 0.0125" in repr(optimizer)
    problem.train(optimizer, 2)
    assert type(optimizer).__name__ in str(optimizer)


# Steps.


@each
@pytest.mark.parametrize("contiguous", [True, False], ids=["dense", "strided"])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_twenty_steps_move_the_loss_the_right_way(make, arguments, contiguous):
    problem = Regression(contiguous)
    first, last = problem.train(make(problem.params, **arguments), 20)
    assert last > first if arguments.get("maximize") else last < first


SCHEDULERS = {
    "step, plateau": (
        lambda o: lr_scheduler.StepLR(o, gamma=0.9, step_size=10),
        lr_scheduler.ReduceLROnPlateau,
    ),
    "constant": (lambda o: lr_scheduler.ConstantLR(o, total_iters=4, factor=0.4),),
    "polynomial, exponential": (
        lambda o: lr_scheduler.PolynomialLR(o, power=0.9, total_iters=40),
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    ),
    "linear, step": (
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=4),
        lambda o: lr_scheduler.StepLR(o, gamma=0.9, step_size=10),
    ),
}


@each_optimizer
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_on_two_groups_keep_the_direction(make, name):
    problem = Regression()
    optimizer = make([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.01}])
    schedulers = [scheduler(optimizer) for scheduler in SCHEDULERS[name]]
    evaluate = problem.closure(optimizer)
    first = evaluate().item()
    for _ in range(20):
        loss = optimizer.step(evaluate)
        for scheduler in schedulers:
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([loss.item()] if plateau else []))
    assert evaluate().item() < first


@each
@pytest.mark.parametrize("dimensions", [0, 1, 2])
def test_a_tensor_rate_of_any_shape_does_what_the_number_does(make, dimensions):
    ends = []
    for lr in (1e-3, torch.tensor(1e-3).reshape([1] * dimensions)):
        problem = Regression()
        problem.train(make(problem.params, lr=lr), 5)
        ends.append(problem.params)
    for found, wanted in zip(*ends, strict=True):
        torch.testing.assert_close(found, wanted)


@each
def test_a_tensor_rate_is_read_at_each_step(make):
    if make is WITH_SCHEDULER["LearnedLR"]:
        pytest.skip("a LearnedLR writes the rate")
    problem, lr = Regression(), torch.tensor(1e-3)
    optimizer = make(problem.params, lr=lr)
    problem.train(optimizer, 2)
    before = problem.weight.detach().clone()
    optimizer.param_groups[0]["lr"].zero_()
    problem.train(optimizer, 2)
    assert torch.equal(problem.weight, before)


@each
def test_complex_parameters_beside_real_ones_move_as_pairs(make):
    # Flat, since a real matrix is more than its numbers to some rules.
    kinds = {"dtype": torch.complex64}
    complex_ones = [nn.Parameter(randn(10, 5, **kinds)), nn.Parameter(randn(10, **kinds))]
    flat = [torch.view_as_real(p.detach()).flatten().clone() for p in complex_ones]
    pairs = [nn.Parameter(numbers) for numbers in flat]
    alike = [nn.Parameter(randn(10, 5, seed=5)) for _ in range(2)]
    optimizers = make([*complex_ones, alike[0]]), make([*pairs, alike[1]])
    for step in range(3):
        for i, (p, pair) in enumerate(zip(complex_ones, pairs, strict=True)):
            p.grad = randn(*p.shape, seed=10 * step + i, **kinds)
            pair.grad = torch.view_as_real(p.grad).flatten()
        for p in alike:
            p.grad = randn(10, 5, seed=10 * step + 7)
        for optimizer in optimizers:
            optimizer.step()
        for p, pair in zip(complex_ones, pairs, strict=True):
            torch.testing.assert_close(torch.view_as_real(p).flatten(), pair)
        torch.testing.assert_close(*alike)


@parametrized(ELEMENTWISE)
def test_a_complex_parameter_moves_as_its_two_parts_do(make):
    def rosenbrock(x):
        return ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2).abs()

    whole = nn.Parameter(randn(2, dtype=torch.complex64))
    parts = [nn.Parameter(part.detach().clone()) for part in (whole.real, whole.imag)]
    optimizers = make([whole]), make(parts)
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        rosenbrock(whole).backward()
        rosenbrock(torch.complex(*parts)).backward()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(whole.real, parts[0])
        torch.testing.assert_close(whole.imag, parts[1])


def compare(make, flag, dtype, steps=7, **tolerance):
    """Assert that an implementation does what the loop does, step by step.

    Gradients are missing at one step, a layer is frozen at others, and one parameter is a
    number.
    """
    runs = []
    for chosen in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layers = nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()
            model = nn.Sequential(*layers).to(dtype)
        single = nn.Parameter(torch.ones((), dtype=dtype))
        model.register_parameter("single", single)
        flags = {"foreach": False} if not chosen else {flag: True}
        runs.append((model, make(model.parameters(), **flags)))
    inputs = torch.linspace(0.1, 0.6, 6, dtype=dtype).view(3, 2)
    for step in range(steps):
        for model, optimizer in runs:
            optimizer.zero_grad()
            model[2].requires_grad_(step not in (3, 4))
            if step != 2:
                (model(inputs) * model.single).sum().backward()
            optimizer.step()
        (model, optimizer), (other, second) = runs
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, **tolerance)
            assert optimizer.state[p].keys() == second.state[q].keys()
            for name, value in optimizer.state[p].items():
                if torch.is_tensor(value):
                    torch.testing.assert_close(value, second.state[q][name], **tolerance)


@each
def test_foreach_does_what_the_loop_does_while_layers_freeze(make):
    compare(make, "foreach", torch.float64)


@parametrized(FUSED_ONES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fused_does_what_the_loop_does_while_layers_freeze(make, dtype):
    tolerance = {"rtol": 5e-3, "atol": 5e-3} if dtype == torch.bfloat16 else {}
    compare(make, "fused", dtype, **tolerance)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_of_torch_changes_no_result(make, dtype):
    ends = []
    for default in (torch.float32, dtype):
        torch.set_default_dtype(default)
        try:
            problem = Regression()
            problem.train(make(problem.params), 12)
        finally:
            torch.set_default_dtype(torch.float32)
        ends.append(problem.params)
    for found, wanted in zip(*ends, strict=True):
        torch.testing.assert_close(found, wanted)


@each
def test_foreach_does_what_the_loop_does_on_mixed_precisions(make):
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    ends = []
    for foreach in (False, True):
        params = [nn.Parameter(randn(2, 3, seed=i).to(d)) for i, d in enumerate(dtypes)]
        frozen = nn.Parameter(torch.arange(6).view(2, 3), requires_grad=False)
        optimizer = make([*params, frozen], foreach=foreach)
        for p in params:
            p.grad = torch.linspace(0.1, 0.6, 6).view(2, 3).to(p.dtype)
        for _ in range(7):
            optimizer.step()
        assert torch.equal(frozen, torch.arange(6).view(2, 3))
        ends.append(params)
    for found, wanted in zip(*ends, strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted)
        assert not torch.equal(found, found.new_zeros(()))


@each
def test_weight_decay_is_of_the_group_that_has_it(make):
    problem = Regression()
    groups = [
        {"params": [problem.weight], "weight_decay": 0.9},
        {"params": [problem.bias], "weight_decay": 0.0},
    ]
    first, last = problem.train(make(groups), 20)
    assert last < first
    params = [nn.Parameter(randn(4)) for _ in range(2)]  # gradients of zero: only decay
    for group, p in zip(groups, params, strict=True):
        group["params"], p.grad = [p], torch.zeros(4)
    optimizer = make(groups)
    for _ in range(3):
        optimizer.step()
    start = randn(4)
    assert (params[0].abs() < start.abs()).all() and torch.equal(params[1], start)


@each
def test_a_vanishing_default_rate_moves_only_groups_with_their_own(make):
    problem, other = Regression(), nn.Parameter(randn(2))
    groups = [{"params": problem.params, "lr": 1e-3}, {"params": [other]}]
    optimizer = make(groups, lr=1e-28)
    evaluate = problem.closure(optimizer)
    first = evaluate().item()
    for step in range(20):
        evaluate()
        other.grad = torch.rand(2, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    assert evaluate().item() < first and torch.equal(other, randn(2))


@each
def test_a_step_without_gradients_does_nothing(make):
    params = [randn(2, 3) for _ in range(2)]  # need no gradient
    optimizer = make(params)
    assert optimizer.step(lambda: torch.tensor([1.0])) == 1.0
    for p in params:
        assert torch.equal(p, randn(2, 3)) and not optimizer.state.get(p)


@each
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_with_gradients_of_zero_moves_nothing(make, maximize):
    param = nn.Parameter(randn(5, 1))
    optimizer = make([param], weight_decay=0.0, maximize=maximize)
    param.grad = torch.zeros(5, 1)
    optimizer.step(lambda: torch.tensor([1.0]))
    assert torch.equal(param, randn(5, 1))


@each
def test_every_parameter_has_state_after_a_step(make):
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 1)
    assert set(optimizer.state) == set(problem.params)
    assert all(len(optimizer.state[p]) > 0 for p in problem.params)


@parametrized(FUSED_ONES)
def test_fused_steps_of_parameters_without_data_are_refused(make):
    with torch.device("meta"):
        model = nn.Linear(2, 3)
    optimizer = make(model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.rand_like(p)
    with pytest.raises(RuntimeError):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()


# Hooks of a step.


@each
@pytest.mark.parametrize("when", ["pre", "post"])
def test_step_hooks_are_called_until_they_are_removed(make, when):
    optimizer, calls = make([torch.ones(2)]), []
    handle = getattr(optimizer, f"register_step_{when}_hook")(
        lambda own, args, kwargs: calls.append(own)
    )
    optimizer.step()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert calls == [optimizer] * 2


@each
def test_global_step_hooks_enclose_those_of_the_optimizer(make):
    optimizer, other = make([torch.ones(2)]), torch.optim.SGD([torch.ones(2)])
    calls = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("before all")),
        register_optimizer_step_post_hook(lambda *_: calls.append("after all")),
    ]
    try:
        for own in (optimizer, other):
            handles += [
                own.register_step_pre_hook(lambda *_: calls.append("before")),
                own.register_step_post_hook(lambda *_: calls.append("after")),
            ]
        for own in (optimizer, other, optimizer):
            own.step()
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["before all", "before", "after", "after all"] * 3
    optimizer.step()
    assert len(calls) == 12
