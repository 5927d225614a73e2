"""Options of the optimizer: implementations, ``maximize``, compiled callers, memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from agents import LearnedOptimizer
from agents.optim.kernels import FUSED
from optenv import rules
from tests.helpers.loops import STEPS, batches, make_model, train, weights
from tests.helpers.policies import random_policy


def end(rule="adam", **arguments):
    model = make_model(arguments.pop("dtype", torch.float32))
    optimizer = LearnedOptimizer(
        model.parameters(), random_policy(rule), total_steps=STEPS, **arguments
    )
    train(model, optimizer, batches(next(model.parameters()).dtype))
    return weights(model)


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_all_implementations_make_the_same_update(rule):
    how = [{"foreach": True}, {"foreach": False}]
    how += [{"fused": True}] if rule in FUSED else []
    ends = [end(rule, dtype=torch.float64, weight_decay=0.1, **each) for each in how]
    for found in ends:
        torch.testing.assert_close(found, ends[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", sorted(set(rules.RULES) - set(FUSED)))
def test_fused_is_refused_for_rules_without_a_fused_kernel(rule):
    with pytest.raises(ValueError, match=f"{', '.join(FUSED)}, but .* '{rule}'"):
        end(rule, fused=True)


def test_fused_and_foreach_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        end(fused=True, foreach=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_fused_step_of_half_precision_computes_in_single(dtype):
    found, plain = (end(dtype=dtype, fused=fused).float() for fused in (True, None))
    assert found.isfinite().all()
    torch.testing.assert_close(found, plain, rtol=0.1, atol=0.02)


def test_a_fused_step_resumes_bit_for_bit():
    model, other, data = make_model(), make_model(), list(batches())
    first, second = (
        LearnedOptimizer(m.parameters(), "adam", total_steps=STEPS, fused=True)
        for m in (model, other)
    )
    train(model, first, data[:30])
    other.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    train(model, first, data[30:])
    ends = [weights(model)]
    again = make_model()
    third = LearnedOptimizer(again.parameters(), "adam", total_steps=STEPS, fused=True)
    train(again, third, data)
    assert torch.equal(ends[0], weights(again))


@pytest.mark.parametrize("with_loss", [True, False])
def test_maximising_equals_minimising_the_negative_loss(with_loss):
    ends = []
    for sign in (1.0, -1.0):
        model = make_model()
        optimizer = LearnedOptimizer(
            model.parameters(), random_policy(), total_steps=STEPS, maximize=sign < 0
        )
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = sign * nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            before = model[0].weight.grad.clone()
            optimizer.step(loss=loss if with_loss else None)
            assert torch.equal(model[0].weight.grad, before)
        seen = optimizer.explain()[-1]["has_loss"]
        assert seen == with_loss
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_a_tensor_lr_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"Tensor lr must be 1-element, got shape \[2\]"):
        end(lr=torch.ones(2))


@pytest.mark.parametrize("policy", ["default", "adam", "momentum"])
def test_a_compiled_step_is_the_same_and_compiles_once(policy):
    ends, counter = [], CompileCounter()
    for compiled in (True, False):
        model = make_model()
        optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
        torch._dynamo.reset()
        counters.clear()

        def step(loss, optimizer=optimizer):
            optimizer.step(loss=2 * loss)

        call = torch.compile(step, backend=counter) if compiled else step
        counts = []
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            call(loss.detach())
            counts.append(counters["stats"]["unique_graphs"])
        assert set(counts) == ({1} if compiled else {0})
        ends.append(weights(model))
    assert torch.equal(*ends)


def held(optimizer, kinds):
    """Return the bytes of state entries that an optimizer keeps between steps."""
    state = [own for own in optimizer.state.values()]
    every = (own[name] for own in state for name in kinds if name in own)
    return sum(value.numel() * value.element_size() for value in every)


@pytest.mark.parametrize("policy", ["default", "adam", "momentum"])
def test_it_keeps_at_most_one_copy_of_the_gradients_beside_the_rule(policy):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    adamw = torch.optim.AdamW(make_model().parameters()).param_groups[0]["params"]
    size = sum(p.numel() * p.element_size() for p in adamw)
    rule = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}
    most = 0
    for batch in batches():
        train(model, optimizer, [batch])
        names = {name for own in optimizer.state.values() for name in own}
        assert held(optimizer, rule) <= 2 * size + 4 * len(optimizer.state)
        most = max(most, held(optimizer, names - rule))
    assert most == size + 4 * len(optimizer.state)  # and a mark
