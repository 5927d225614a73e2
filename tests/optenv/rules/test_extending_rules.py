"""A rule from outside the package: registered, in environments, and as an optimizer."""

from __future__ import annotations

import copy
import io
import pickle
import re
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from agents import LearnedOptimizer, load_policy
from agents.optim import kernels
from agents.optim.kernels.base import Kernel
from agents.optim.kernels.generic import generic_kernel
from agents.optim.state_keys import OWN
from agents.policy.files import save_policy
from optenv import rules
from optenv.rules.arithmetic import safe_sqrt
from optenv.rules.base import empty_state, zeros_state
from tests import test_parity
from tests.helpers.paths import ROOT
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import QUADRATIC

RECIPE = ROOT / "docs" / "extending_rule.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", RECIPE.read_text(), re.MULTILINE | re.DOTALL)
STEPS = 12


@dataclass(frozen=True)
class Adagrad(rules.Hyperparameters):
    eps: float = rules.positive(1e-10)
    lr_decay: float = rules.nonnegative(0.0)


def init_adagrad(params):
    return torch.zeros_like(params), params.new_zeros(len(params), 1)


def adagrad(params, grad, state, lr, inplace=False, h=Adagrad()):
    total, count = state
    total = total + grad.square()
    rate = lr / (1 + count * h.lr_decay)
    return params - rate * grad / (safe_sqrt(total) + h.eps), (total, count + 1)


def normalised(params, grad, state, lr, inplace=False, shapes=None):
    """Move each tensor by a step of the length ``lr``, with a mean of gradients."""
    (mean,) = state
    mean = mean.lerp(grad, 0.1)
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = [part / part.norm(dim=1, keepdim=True) for part in mean.split(sizes, 1)]
    return params - lr * torch.cat(parts, 1), (mean,)


def plain(params, grad, state, lr, inplace=False):
    return params - lr * grad, state


def init_centred(params):
    return (params.clone(),)


def centred(params, grad, state, lr, inplace=False):
    """Descend, and pull towards the initial parameters, which are the state."""
    (start,) = state
    return params - lr * (grad + 0.1 * (params - start)), state


RULES = (
    rules.Rule("adagrad", 1e-2, init_adagrad, adagrad, Adagrad(), ("sum", "step")),
    rules.Rule("normalised", 1e-2, zeros_state, normalised, slots=("mean",), shaped=True),
    rules.Rule("centred", 1e-2, init_centred, centred, slots=("start",)),
    rules.Rule("plain", 5e-2, empty_state, plain),
)
NAMES = [rule.name for rule in RULES]
every_rule = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register the rules for a test."""
    monkeypatch.setattr(rules, "_REGISTERED", {})
    monkeypatch.setattr(kernels, "KERNELS", dict(kernels.KERNELS))
    for rule in RULES:
        assert rules.register(rule) is rule


def train(optimizer, params, steps, seed=0):
    """Step along random gradients that pull towards zero."""
    for t in steps:
        generator = torch.Generator().manual_seed(100 * seed + t)
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (p.detach() + noise.to(p.dtype)).to(p.dtype)
        optimizer.step()


def test_the_recipe_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = BLOCKS
    exec(compile(block, str(RECIPE), "exec"), {})
    assert "exp_avg_var" in capsys.readouterr().out


def test_a_registered_rule_is_found_by_its_name_alone():
    for rule in RULES:
        assert rules.get(rule.name).name == rule.name
        assert rules.get(rule.name).to_spec() == rule.name
        assert rule.name not in rules.RULES and rule.name not in kernels.KERNELS
    assert list(rules.RULES)[:2] == ["sgd", "momentum"]
    with pytest.raises(ValueError, match=r"unknown rule 'adagrd'; .*network, adagrad"):
        rules.get("adagrd")


def test_its_hyperparameters_are_specified_and_checked_like_ours():
    spec = {"name": "adagrad", "lr_decay": 0.5}
    assert rules.get(spec).to_spec() == spec
    assert rules.get(spec).hyperparameters == Adagrad(lr_decay=0.5)
    with pytest.raises(ValueError, match="lr_decay must be at least 0 and finite, got -1"):
        rules.get({"name": "adagrad", "lr_decay": -1})
    with pytest.raises(TypeError, match="'alpha'; valid: eps, lr_decay"):
        rules.get({"name": "adagrad", "alpha": 0.5})
    with pytest.raises(TypeError, match="'eps'; valid: none"):
        rules.get({"name": "plain", "eps": 0.5})


@every_rule
def test_single_and_batched_environments_agree(name):
    arguments = {"rule": name, "tasks": QUADRATIC, "horizon": 5}
    env = gym.make("optenv/LearningRate-v0", **arguments)
    batch = gym.make_vec("optenv/LearningRate-v0", num_envs=2, **arguments)
    observation, _ = env.reset(seed=3)
    observations, _ = batch.reset(seed=[3, 4])
    np.testing.assert_allclose(observation, observations[0], rtol=1e-5, atol=1e-6)
    for shift in (0.5, -0.25, 1.0):
        action = np.full(1, shift, np.float32)
        observation, reward, *_ = env.step(action)
        observations, rewards, *_ = batch.step(np.stack([action, action]))
        np.testing.assert_allclose(observation, observations[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reward, rewards[0], rtol=1e-4, atol=1e-5)


@every_rule
@pytest.mark.parametrize("task", ["mlp", "cnn"])
def test_the_optimizer_equals_the_environment(name, task, tmp_path, monkeypatch):
    monkeypatch.setitem(test_parity.BASE_LR, name, rules.get(name).default_lr)
    made = test_parity.make_task(task)
    policy = load_policy(save_policy(random_policy(name), tmp_path / "policy"))
    expected, *run = test_parity.walk_environment(made, policy, "float64")
    found = test_parity.walk_optimizer(made, policy, *run)
    for step, expected_step in zip(found, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-8, atol=1e-8)


def test_a_rule_that_torch_has_equals_torchs():
    params = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(()))]
    others = copy.deepcopy(params)
    theirs, states = torch.optim.Adagrad(others, lr=0.1, lr_decay=0.05), [{}, {}]
    rule = rules.get({"name": "adagrad", "lr_decay": 0.05})
    for t in range(STEPS):
        generator = torch.Generator().manual_seed(t)
        grads = [torch.randn(p.shape, generator=generator) for p in params]
        kernels.update(rule, [p.data for p in params], grads, states, 0.1, weight_decay=0.0)
        for p, grad in zip(others, grads, strict=True):
            p.grad = grad
        theirs.step()
    torch.testing.assert_close(params, others)
    assert states[0]["sum"].shape == (4, 3)
    assert states[0]["step"].tolist() == [STEPS]


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("way", ["state_dict", "pickle"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(name, dtype, way):
    def start():
        shapes = ((4, 3), (3,), (1,), ())
        return [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]

    params, policy = start(), random_policy(name)
    optimizer = LearnedOptimizer(params, policy, total_steps=STEPS)
    train(optimizer, params, range(STEPS // 2))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    if way == "state_dict":
        other = LearnedOptimizer(resumed, policy, total_steps=STEPS)
        other.load_state_dict(torch.load(saved))
    else:
        other = pickle.loads(pickle.dumps(optimizer))
        resumed = other.param_groups[0]["params"]
    for slot in rules.get(name).slots:
        kept = [each.state[p][slot] for each, (p, *_) in
                ((optimizer, params), (other, resumed))]  # fmt: skip
        assert torch.equal(*kept) and kept[0].dtype == kept[1].dtype
        assert kept[0].dtype != torch.bfloat16
    for each, its in ((optimizer, params), (other, resumed)):
        train(each, its, range(STEPS // 2, STEPS))
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, torch.ones_like(p))


@every_rule
def test_memory_format_does_not_matter(name):
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(torch.ones(2, 3, 4, 4).contiguous(memory_format=layout))
        optimizer = LearnedOptimizer([p], random_policy(name), total_steps=STEPS)
        train(optimizer, [p], range(STEPS))
        ends.append(p.detach())
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0], torch.ones(2, 3, 4, 4), rtol=1e-4)


@pytest.mark.parametrize("name", list(rules.RULES))
def test_the_generic_kernel_moves_like_the_rules_own(name):
    shapes = ((4, 3), (3,), ())
    rule, ends = rules.get(name), []
    for kernel in (kernels.KERNELS[name], generic_kernel(rule)):
        kernels.KERNELS[name] = kernel
        params, states = [torch.ones(shape) for shape in shapes], [{} for _ in shapes]
        for t in range(STEPS):
            generator = torch.Generator().manual_seed(t)
            grads = [torch.randn(shape, generator=generator) for shape in shapes]
            kernels.update(rule, params, grads, states, 0.01, weight_decay=0.1)
        ends.append(params)
    for own, generic in zip(*ends, strict=True):
        torch.testing.assert_close(own, generic, rtol=1e-4, atol=1e-6)


def test_a_registered_kernel_takes_the_place_of_the_generic_one():
    def double(step):
        torch._foreach_add_(step.params, step.grads, alpha=-2 * step.lr)

    kernels.register("plain", Kernel(double))
    params, grads = [torch.ones(3)], [torch.ones(3)]
    kernels.update(rules.get("plain"), params, grads, [{}], 0.1, weight_decay=0.0)
    assert params[0].tolist() == pytest.approx([0.8] * 3)
    with pytest.raises(ValueError, match="'plain' has a kernel already"):
        kernels.register("plain", Kernel(double))
    with pytest.raises(TypeError, match="kernel must be an"):
        kernels.register("centred", double)


@pytest.mark.parametrize("name", ["adam", "switching", "adagrad"])
def test_a_taken_name_is_refused(name):
    rule = rules.Rule(name, 1e-2, empty_state, plain)
    with pytest.raises(ValueError, match=f"rule '{name}' already; taken: sgd, .*plain"):
        rules.register(rule)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"name": ""}, TypeError, "must be a non-empty string, got ''"),
        ({"default_lr": 0.0}, ValueError, "default_lr of rule 'mine' must be positive"),
        ({"slots": ()}, ValueError, r"slots .* must be 2 different names, .*got \(\)"),
        ({"slots": ("a", "a")}, ValueError, "must be 2 different names"),
        ({"init": lambda p: (p[0], p)}, ValueError, r"must be tensors \[B, P\] or"),
        ({"init": 3}, TypeError, "init of rule 'mine' must be a function, got 3"),
        ({"init": lambda p: p}, TypeError, "must return a tuple of tensors, got tensor"),
        ({"init": lambda p: ()}, ValueError, "slots .* must be 0 different names"),
        ({"update": None}, TypeError, "update of rule 'mine' must be a function, got None"),
        (
            {"update": lambda p, g, s, lr, h=None: p},
            ValueError,
            r"must return \(params, state\), .*\[\(2, 3\), \(2, 3\), \(2, 1\)\], got tens",
        ),
        (
            {"update": lambda p, g, s, lr, h=None: (p[0], s)},
            ValueError,
            r"got tensors of shapes \[\(3,\), \(2, 3\), \(2, 1\)\]",
        ),
        (
            {"update": lambda p, g, s, lr, h=None: p @ g},
            ValueError,
            r"fails on params of shape \(2, 3\): RuntimeError",
        ),
        ({"update": lambda p, g, s, lr: (p, s)}, ValueError, "fails .* argument 'h'"),
        ({"shaped": 1}, TypeError, "shaped .* must be True or False, got 1"),
        ({"slots": "ab"}, TypeError, "must be a tuple of names, got 'ab'"),
        ({"slots": ("sum", 3)}, TypeError, r"must be a tuple of names, got \('sum', 3\)"),
        ({"hyperparameters": {"eps": 1.0}}, TypeError, "must be an optenv.rules.Hyper"),
        ({"hyperparameters": Adagrad(eps=0.5)}, ValueError, "must be the defaults of"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(changed, error, message):
    arguments = {
        "name": "mine", "default_lr": 0.1, "init": init_adagrad, "update": adagrad,
        "hyperparameters": Adagrad(), "slots": ("sum", "step"),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        rules.register(rules.Rule(**{**arguments, **changed}))
    assert rules.register(rules.Rule(**arguments)).name == "mine"


def test_a_slot_that_the_optimizer_needs_is_refused():
    slot = OWN[0]
    rules.register(rules.Rule("mine", 0.1, zeros_state, centred, slots=(slot,)))
    p = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([p], random_policy("mine"), total_steps=STEPS)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=f"cannot have slots .*{slot}.*reserved"):
        optimizer.step()


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match=r"must be an optenv\.rules\.Rule, got 'adagrad'"):
        rules.register("adagrad")
