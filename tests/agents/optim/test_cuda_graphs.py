"""``capturable=True``: what a CUDA graph holds, tried on the CPU by a graph of its own.

:class:`tests.helpers.cpu_graph.CpuGraph` stands in for a CUDA graph: it repeats recorded
operations on the same tensors, without Python. Kernels are also run on tensors without
data of a CUDA device. ``test_on_a_device.py`` has the test with a real graph.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents import SHIPPED, LearnedLR, LearnedOptimizer
from agents.optim import capture, kernels
from agents.optim.guard import EARLY_STEPS
from agents.optim.kernels import CAPTURABLE, KernelOptions
from optenv import rules
from tests.helpers.cpu_graph import CpuGraph
from tests.helpers.loops import make_model, weights
from tests.helpers.optimizers import shipped
from tests.helpers.policies import random_policy, switching_policy

TORCH_MODULES = [f"torch.optim.{name}" for name in ("adam", "nadam", "rmsprop")]


@pytest.fixture
def capturing(monkeypatch):
    """Let the CPU count as a device with graphs; return a context that captures."""
    is_on = [False]
    for module in (capture, *map(import_module, TORCH_MODULES)):
        name = "_get_capturable_supported_devices"
        monkeypatch.setattr(module, name, lambda *_, **__: ["cpu"])
    for module in (capture, import_module("agents.optim.optimizer")):
        monkeypatch.setattr(module, "is_capturing", lambda params: is_on[0])

    @contextmanager
    def context():
        is_on[0] = True
        try:
            yield
        finally:
            is_on[0] = False

    return context


class Run:
    """Training by steps, and by replays of a graph where the optimizer allows them."""

    def __init__(self, policy, steps=90, dtype=torch.float64, **arguments):
        self.model, self.replays = make_model(dtype), 0
        total = None if policy.anytime else steps
        arguments = {"guard": "probe", **arguments}
        self.optimizer = LearnedOptimizer(
            self.model.parameters(), policy, total_steps=total, **arguments
        )
        self.inputs, self.targets = torch.zeros(8, 6, dtype=dtype), torch.zeros(8).long()
        self.generator = torch.Generator().manual_seed(1)
        self.graph, self.loss = None, None

    def load_batch(self):
        drawn = torch.randn(8, 6, generator=self.generator, dtype=torch.float64)
        self.inputs.copy_(drawn)
        self.targets.copy_(drawn[:, :3].argmax(1))

    def backward(self):
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        loss.backward()
        return loss.detach()

    def step(self):
        """Take an ordinary step."""
        self.optimizer.zero_grad()
        self.optimizer.step(loss=self.backward())

    def capture(self, capturing):
        """Record gradients and update, which leaves everything as it was."""
        tensors = [*self.model.parameters()]
        tensors += [x for own in self.optimizer.state.values() for x in own.values()]
        kept = [tensor.detach().clone() for tensor in tensors]
        self.optimizer.zero_grad()
        self.graph = CpuGraph()
        with capturing(), self.graph:
            self.loss = self.backward()
            self.optimizer.step(loss=self.loss)
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)

    def train(self, steps, capturing=None):
        for _ in range(steps):
            self.load_batch()
            if capturing is not None and self.optimizer.can_replay():
                if self.graph is None:
                    self.capture(capturing)
                self.optimizer.replay(self.graph, loss=self.loss)
                self.replays += 1
            else:
                self.step()
        return self


def pair(policy, capturing, steps=90, **arguments):
    """Return a run of ordinary steps, and one with replays, both of ``steps`` steps."""
    plain = Run(policy, steps, **arguments).train(steps)
    return plain, Run(policy, steps, capturable=True, **arguments).train(steps, capturing)


def assert_alike(plain, replayed, least):
    assert replayed.replays >= least
    found, wanted = weights(replayed.model), weights(plain.model)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    seen, expected = (run.optimizer.explain() for run in (replayed, plain))
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected, strict=True):
        assert one["step"] == other["step"] and one["has_loss"] == other["has_loss"]
        assert one["multiplier"] == pytest.approx(other["multiplier"], rel=1e-3)
    for key, value in plain.optimizer.log_dict().items():
        assert replayed.optimizer.log_dict()[key] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("rule", CAPTURABLE)
def test_replays_between_decisions_go_where_steps_go(rule, capturing):
    policy = random_policy(rule, horizon=8)
    plain, replayed = pair(policy, capturing, weight_decay=0.1)
    assert_alike(plain, replayed, least=50)


@pytest.mark.parametrize("policy", ["default", "adam", "momentum", "anytime"])
def test_replays_of_shipped_policies_go_where_their_steps_go(policy, capturing):
    assert_alike(*pair(shipped(policy), capturing, steps=150), least=30)


@pytest.mark.parametrize("arguments", [
    {"foreach": False}, {"fused": True}, {"maximize": True}, {"max_lr": 5e-4},
    {"warmup_steps": 30}, {"dtype": torch.float32},
], ids=lambda arguments: "-".join(arguments))  # fmt: skip
@pytest.mark.filterwarnings("ignore:a loss is .* below zero:UserWarning")
def test_replays_heed_the_settings_of_the_optimizer(arguments, capturing):
    policy = random_policy("adam", horizon=8)
    assert_alike(*pair(policy, capturing, **arguments), least=50)


def test_replays_follow_a_torch_scheduler(capturing):
    ends = []
    for context in (None, capturing):
        policy = random_policy("adam", horizon=8)
        run = Run(policy, capturable=context is not None)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, 90)
        for _ in range(90):
            run.train(1, context)
            scheduler.step()
        ends.append(run)
    assert_alike(*ends, least=50)


def test_a_run_with_replays_resumes_after_another_capture(capturing):
    policy = random_policy("adam", horizon=8)
    whole = Run(policy, capturable=True).train(90, capturing)
    first = Run(policy, capturable=True).train(45, capturing)
    saved = copy.deepcopy((first.model.state_dict(), first.optimizer.state_dict()))
    second = Run(policy, capturable=True)
    second.generator = first.generator
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    with capturing(), pytest.raises(RuntimeError, match="take an ordinary step before"):
        second.backward()
        second.optimizer.step()
    second.train(1)
    second.train(44, capturing)
    assert second.replays > 20
    assert torch.equal(weights(second.model), weights(whole.model))


def test_gradients_alone_can_be_in_the_graph_with_every_guard():
    policy = shipped("default")
    plain = Run(policy, guard="step").train(60)
    run = Run(policy, guard="step")
    for _ in range(60):
        run.load_batch()
        if run.graph is None:
            run.optimizer.zero_grad()
            run.graph = CpuGraph()
            with run.graph:
                run.loss = run.backward()
        run.graph.replay()
        run.optimizer.step(loss=run.loss)
    torch.testing.assert_close(weights(run.model), weights(plain.model))


# What the graph holds.


class OnlyOnDevice(TorchDispatchMode):
    """Refuse operations with a tensor on the CPU, or whose result the host reads."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        assert all(x.device.type == "cuda" for x in tensors), operation
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", CAPTURABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "loop"])
def test_the_captured_update_reads_nothing_on_the_host(rule, dtype, foreach):
    options = KernelOptions(foreach=foreach, capturable=True)
    shapes = (4, 3), (3, 300), (5,), ()
    with FakeTensorMode(), torch.no_grad():
        params = [torch.empty(shape, dtype=dtype, device="cuda") for shape in shapes]
        grads = [torch.empty_like(p) for p in params]
        states = [{} for _ in params]
        lr = torch.empty((), device="cuda")
        arguments = {"weight_decay": 0.1, "options": options}
        kernels.allocate(rules.RULES[rule], params, states, options)
        before = [dict(state) for state in states]
        with OnlyOnDevice():
            kernels.update(rules.RULES[rule], params, grads, states, lr, **arguments)
    for state, old in zip(states, before, strict=True):
        assert state.keys() == old.keys()
        assert all(state[name] is old[name] for name in old)  # addresses stay
        assert all(value.device.type == "cuda" for value in state.values())


def test_a_kernel_that_reads_on_the_host_is_found_out():
    options = KernelOptions()  # counts on the CPU
    with FakeTensorMode(), torch.no_grad():
        params = [torch.empty(3, device="cuda")]
        states = [{}]
        kernels.allocate(rules.RULES["adam"], params, states, options)
        with pytest.raises(AssertionError), OnlyOnDevice():
            kernels.update(
                rules.RULES["adam"], params, params, states, 0.1, weight_decay=0.0
            )


def test_the_graph_holds_the_update_and_nothing_of_the_controller(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    run.train(20)
    before = copy.deepcopy(run.optimizer.state_dict()), weights(run.model)
    run.load_batch()
    run.capture(capturing)
    assert torch.equal(weights(run.model), before[1])
    after = run.optimizer.state_dict()
    assert after["param_groups"][0]["controller"]["steps"] == 20
    assert str(after) == str(before[0])


# What is refused.


def made(policy=None, **arguments):
    arguments = {"capturable": True, "guard": "probe", "total_steps": 90, **arguments}
    policy = random_policy("adam", horizon=8) if policy is None else policy
    return LearnedOptimizer(make_model().parameters(), policy, **arguments)


@pytest.mark.parametrize(("arguments", "match"), [
    ({"guard": "step"}, "capturable=True needs guard='probe', got guard='step'"),
    ({"rollback": True}, "capturable=True and rollback=True exclude each other"),
    ({"policy": random_policy("network")}, "rules sgd, .* policy's is 'network'"),
    ({"policy": switching_policy()}, "rules sgd, .* policy's is 'switching'"),
])  # fmt: skip
def test_what_cannot_be_captured_is_refused_at_construction(arguments, match):
    with pytest.raises(ValueError, match=match):
        made(**arguments)


@pytest.mark.parametrize("policy", SHIPPED)
def test_shipped_policies_can_be_captured_but_for_the_learned_rule(policy):
    if policy == "unrolled-rule":
        with pytest.raises(ValueError, match="policy's is 'network'"):
            made(shipped(policy))
    else:
        assert made(shipped(policy)).param_groups[0]["capturable"]


@pytest.mark.parametrize(("policy", "ordinary"), [("default", 88), ("anytime", 454)])
def test_few_of_ten_thousand_steps_are_no_replays(policy, ordinary):
    total = None if policy == "anytime" else 10_000
    optimizer = made(shipped(policy), total_steps=total)
    state = optimizer._controller_state()
    allowed = 0
    for state["steps"] in range(10_000):
        allowed += optimizer.can_replay()
    assert 10_000 - allowed == ordinary


def test_capturable_is_a_flag_of_the_whole_optimizer():
    with pytest.raises(TypeError, match="capturable must be True or False, got 1"):
        made(capturable=1)
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="capturable is of the whole optimizer"):
        made(capturable=False).add_param_group({"params": [weight], "capturable": True})


def test_devices_without_graphs_are_refused_before_anything_changes():
    model = make_model()
    optimizer = LearnedOptimizer(
        model.parameters(), "adam", total_steps=90, capturable=True, guard="probe"
    )
    before = str(optimizer.state_dict())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"one device of cuda, .*, got cpu; leave"):
        optimizer.step()
    assert str(optimizer.state_dict()) == before
    assert torch.equal(weights(model), weights(make_model()))


def test_a_step_that_cannot_be_captured_says_what_to_do(capturing):
    run = Run(random_policy("adam")).train(20)
    with capturing(), pytest.raises(RuntimeError, match="with capturable=True"):
        run.step()
    run = Run(random_policy("adam"), capturable=True)
    run.model[2].bias.requires_grad_(False)
    run.train(EARLY_STEPS - 1)
    with capturing(), pytest.raises(RuntimeError, match="take 10 ordinary steps before"):
        run.step()
    run.train(1)
    run.model[2].bias.requires_grad_(True)
    match = r"1 parameters .* no update before"
    with capturing(), pytest.raises(RuntimeError, match=match):
        run.step()


def test_a_step_that_a_scheduler_drives_is_not_captured(capturing):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    LearnedLR(optimizer, total_steps=90)
    with capturing(), pytest.raises(RuntimeError, match="capture the gradients alone"):
        optimizer.step()


def test_a_group_that_does_not_move_is_not_captured(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    still = nn.Parameter(torch.ones(2))
    run.optimizer.add_param_group({"params": [still], "lr": 0.0})
    still.grad = torch.ones(2)
    for _ in range(20):
        run.load_batch()
        run.optimizer.step(loss=run.backward())
    assert not run.optimizer.can_replay()
    match = r"learning rate of param_groups\[1\] is 0"
    with capturing(), pytest.raises(RuntimeError, match=match):
        run.optimizer.step(loss=run.backward())


def test_replays_are_refused_where_the_policy_must_see_the_step(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    assert not run.optimizer.can_replay()
    allowed = []
    for _ in range(90):
        allowed.append(run.optimizer.can_replay())
        run.load_batch()
        if not allowed[-1] and run.graph is not None:
            with pytest.raises(RuntimeError, match="whenever can_replay"):
                run.optimizer.replay(run.graph)
        if allowed[-1] and run.graph is None:
            run.capture(capturing)
        run.step()
    decisions = [int(each["step"]) for each in run.optimizer.explain()]
    early = set(range(EARLY_STEPS))
    around = {*decisions, *(step - 1 for step in decisions), 89} | early
    assert {step for step in range(90) if not allowed[step]} - {89} == around - {-1, 89}


def test_a_step_after_a_skipped_one_is_no_replay(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    run.train(EARLY_STEPS)
    while run.optimizer.can_replay():
        run.train(1)
    run.load_batch()
    run.optimizer.zero_grad()
    loss = run.backward()
    run.model[0].weight.grad[0, 0] = float("nan")
    run.optimizer.step(loss=loss)
    assert run.optimizer.skipped == 1 and not run.optimizer.can_replay()


def test_a_graph_of_state_that_was_replaced_is_refused(capturing):
    def loaded(run):
        run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))

    def joined(run):
        run.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})

    def again(run):
        run.optimizer.new_run()
        run.train(20)

    for change in (loaded, joined, again):
        run = Run(random_policy("adam", horizon=8), capturable=True)
        run.train(20)
        while not run.optimizer.can_replay():
            run.train(1)
        with pytest.raises(RuntimeError, match=r"no step .* has been captured"):
            run.optimizer.replay(CpuGraph())
        run.capture(capturing)
        change(run)
        while not run.optimizer.can_replay():
            run.train(1)
        before = weights(run.model), run.optimizer.log_dict()["step"]
        with pytest.raises(RuntimeError, match="capture the graph anew"):
            run.optimizer.replay(run.graph)
        assert torch.equal(weights(run.model), before[0])
        assert run.optimizer.log_dict()["step"] == before[1]


def test_a_replay_that_fails_does_not_count(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    run.train(20)
    while not run.optimizer.can_replay():
        run.train(1)
    run.capture(capturing)
    steps = run.optimizer.log_dict()["step"]

    class Broken:
        def replay(self):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run.optimizer.replay(Broken())
    assert run.optimizer.log_dict()["step"] == steps
    with pytest.raises(ValueError, match="loss must be a scalar"):
        run.optimizer.replay(run.graph, loss=torch.ones(2))


def test_states_with_and_without_capturable_load_into_each_other(capturing):
    policy = random_policy("nadam", horizon=8)
    for capturable in (True, False):
        first = Run(policy, capturable=capturable).train(20)
        other = Run(policy, capturable=not capturable)
        other.model.load_state_dict(first.model.state_dict())
        other.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
        assert ("capturable" in other.optimizer.param_groups[0]) is not capturable
        other.generator.set_state(first.generator.get_state())
        ends = [weights(run.train(20).model) for run in (first, other)]
        torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_a_copy_is_in_no_graph(capturing):
    run = Run(random_policy("adam", horizon=8), capturable=True)
    run.train(20)
    while not run.optimizer.can_replay():
        run.train(1)
    run.capture(capturing)
    clone = copy.deepcopy(run.optimizer)
    assert clone.can_replay()
    with pytest.raises(RuntimeError, match=r"no step .* has been captured"):
        clone.replay(run.graph)
