"""The contract of torch optimizers, over LearnedOptimizer, AdamW and SGD.

Torch's two are controls: a property that they lack is not part of the contract.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from tests.helpers.loops import STEPS, batches, make_model, weights
from tests.helpers.optimizers import all_optimizers, backward, loss_of, train, trained

pytestmark = all_optimizers


def test_it_is_a_torch_optimizer_without_train_and_eval_modes(make):
    model, optimizer, _ = trained(make, 3)
    assert isinstance(optimizer, Optimizer)
    assert not torch.equal(weights(model), weights(make_model()))


@pytest.mark.parametrize("call", ["nothing", "none", "positional", "keyword"])
def test_step_returns_the_result_of_its_closure_or_none(make, call):
    model, batch, calls = make_model(), next(batches()), []
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        calls.append(backward(model, batch))
        return calls[-1]

    if call in ("nothing", "none"):
        backward(model, batch)
        assert optimizer.step(*([None] if call == "none" else [])) is None
        return
    with torch.no_grad():  # as frameworks may call it
        arguments = ([closure], {}) if call == "positional" else ([], {"closure": closure})
        result = optimizer.step(*arguments[0], **arguments[1])
    assert len(calls) == 1 and result is calls[0]


def test_a_closure_may_return_nothing(make):
    model, batch = make_model(), next(batches())
    optimizer = make(model.parameters())

    def closure():
        backward(model, batch)

    assert optimizer.step(closure) is None
    assert not torch.equal(weights(model), weights(make_model()))


def test_named_parameters_are_accepted(make):
    model = make_model()
    optimizer = make(model.named_parameters())
    train(model, optimizer, list(batches())[:3])
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    plain = make_model()
    train(plain, make(plain.parameters()), list(batches())[:3])
    assert torch.equal(weights(plain), weights(model))


def test_groups_have_their_own_learning_rates(make):
    ends = []
    for rates in ((1e-3, 1e-3), (1e-3, 0.0)):
        model = make_model()
        pairs = zip(model.children(), (0, None, 1), strict=True)
        groups = [
            {"params": part.parameters(), "lr": rates[i]}
            for part, i in pairs
            if i is not None
        ]
        train(model, make(groups), list(batches())[:5])
        ends.append(model[2].weight.detach())
    start = make_model()[2].weight.detach()
    assert torch.equal(ends[1], start) and not torch.equal(ends[0], start)


def test_a_group_can_be_added_during_the_run(make):
    model, optimizer, data = trained(make)
    extra = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [extra]})
    for inputs, targets in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs) + extra, targets).backward()
        optimizer.step()
    assert not torch.equal(extra.detach(), torch.ones(3))
    again = make([{"params": model.parameters()}, {"params": [extra]}])
    again.load_state_dict(optimizer.state_dict())


def test_parameters_without_gradients_are_left_alone(make):
    model, unused = make_model(), nn.Parameter(torch.ones(3))
    optimizer = make([*model.parameters(), unused])
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.step()  # no gradient anywhere
    assert str(optimizer.state_dict()) == str(before)
    train(model, optimizer, list(batches())[:5])
    assert torch.equal(unused.detach(), torch.ones(3))


def test_gradients_of_zero_move_nothing_from_the_start(make):
    model = make_model()
    optimizer = make(model.parameters(), weight_decay=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(weights(model), weights(make_model()))


def test_a_learning_rate_of_zero_moves_nothing(make):
    model, optimizer, data = trained(make)
    before = weights(model)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, data[:5])
    assert torch.equal(weights(model), before)


SCHEDULERS = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: min(1.0, t / 10)),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(
        o, 1e-2, total_steps=STEPS + 1, cycle_momentum=False
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_it(make, name):
    model, rates = make_model(), []
    optimizer = make(model.parameters())
    scheduler = SCHEDULERS[name](optimizer)
    for batch in batches():
        optimizer.zero_grad()
        loss = backward(model, batch)
        rates.append(optimizer.param_groups[0]["lr"])
        before = weights(model)
        optimizer.step()
        assert rates[-1] > 0 or torch.equal(weights(model), before)
        scheduler.step(*([loss.item()] if name == "plateau" else []))
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
    assert len(set(rates)) > 2 and weights(model).isfinite().all()


def test_a_gradient_scaler_unscales_and_skips_what_overflowed(make):
    model, other, data = make_model(), make_model(), list(batches())
    optimizer, plain = make(model.parameters()), make(other.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, batch in enumerate(data[:20]):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        if i == 10:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    train(other, plain, data[:10] + data[11:20])
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_in_half_and_double_precision_are_accepted(make, dtype):
    model = make_model(dtype)
    optimizer = make(model.parameters())
    train(model, optimizer, batches(dtype))
    assert weights(model).dtype == dtype and weights(model).isfinite().all()


def test_one_group_can_mix_precisions(make):
    model = make_model()
    model[2].to(torch.float64)
    model.insert(2, nn.Identity())
    model[2].forward = lambda x: x.double()
    optimizer = make(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, list(batches())[:5])
    for p, old in zip(model.parameters(), before, strict=True):
        assert p.dtype == old.dtype and not torch.equal(p.detach(), old)


def test_complex_parameters_move_as_pairs_of_real_ones(make):
    real = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(0)))
    complex_ = nn.Parameter(torch.view_as_complex(real.detach().clone().view(2, 2)))
    for p in (real, complex_):
        optimizer = make([p])
        for _ in range(10):
            optimizer.zero_grad()
            values = torch.view_as_real(p) if p.is_complex() else p
            (values - 1).square().sum().backward()
            optimizer.step()
    found = torch.view_as_real(complex_.detach()).flatten()
    torch.testing.assert_close(found, real.detach())


def test_a_step_leaves_gradients_unchanged(make):
    model, optimizer, data = trained(make)
    optimizer.zero_grad()
    backward(model, data[0])
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    for p, grad in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad)


def test_gradients_clipped_by_the_user_are_accepted(make):
    model = make_model()
    optimizer = make(model.parameters())
    for batch in batches():
        optimizer.zero_grad()
        backward(model, batch)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert weights(model).isfinite().all()


def test_step_hooks_are_called_once_per_step(make):
    model, calls = make_model(), []
    optimizer = make(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, list(batches())[:2])
    assert calls == ["before", "after"] * 2


def test_the_global_generator_is_not_used(make):
    before = torch.get_rng_state()
    trained(make)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_runs_give_equal_parameters(make):
    assert torch.equal(*(weights(trained(make)[0]) for _ in range(2)))


def test_a_tensor_learning_rate_is_accepted(make):
    ends = []
    for lr in (1e-3, torch.tensor(1e-3, dtype=torch.float64)):
        model = make_model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = make(model.parameters(), lr=lr)
        train(model, optimizer, list(batches())[:10])
        ends.append(weights(model))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (lambda: nn.Parameter(torch.ones(2)), TypeError),
        (list, ValueError),
        (lambda: [torch.ones(2, requires_grad=True) * 2], ValueError),
        (lambda: [{"params": {nn.Parameter(torch.ones(2))}}], TypeError),
        (
            lambda: [{"params": [p := nn.Parameter(torch.ones(2))]}, {"params": p}],
            ValueError,
        ),
    ],
)
def test_invalid_parameters_are_refused(make, parameters, error):
    with pytest.raises(error):
        make(parameters())


def test_steps_are_named_in_a_profile(make):
    model, optimizer, data = trained(make)
    backward(model, data[0])
    with torch.profiler.profile() as profile:
        optimizer.step()
    names = {event.key for event in profile.key_averages()}
    assert f"Optimizer.step#{type(optimizer).__name__}.step" in names
