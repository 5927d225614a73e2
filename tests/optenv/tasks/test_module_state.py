"""Buffers and random numbers of a user's module are the run's own."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import optenv
from optenv import core, rules
from optenv.tasks import ModuleTask
from optenv.tasks.draws import RunDraws
from optenv.tasks.examples import Batch
from tests.helpers.small_runs import assert_identical, neutral_action, sample_runs

RNG = np.random.default_rng(0)
INPUTS = torch.from_numpy(RNG.standard_normal((40, 4)))
TARGETS = torch.arange(40) % 3
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=0.3), nn.Tanh(), nn.Linear(5, 3)
    )


def normalised_by_mean() -> nn.Module:
    """Return a module whose statistics are means over all batches."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3))


class Centred(nn.Module):
    """Linear model that assigns new values to a buffer, instead of writing in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * x.detach().mean(0)
        outputs: Tensor = self.linear(x - self.mean)
        return outputs


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.25), nn.Tanh(), nn.Linear(16, 3))


class Functional(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x.unflatten(1, (2, 2)))[0]
        return states[:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, 4, 0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(1, (2, 2))).flatten(1)[:, :3]


def both() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3)
    )


STATEFUL = [normalised, normalised_by_mean, Centred]
RANDOM: list[Callable[[], nn.Module]] = [
    dropped, lambda: Functional(4, 3), Recurrent, Attention,
]  # fmt: skip


def task_of(factory: Callable[[], nn.Module], **arguments: Any) -> ModuleTask:
    return optenv.from_module(factory, INPUTS, TARGETS, **{"batch_size": 8, **arguments})


def floating_state(module: nn.Module) -> Tensor:
    return torch.cat([b.double().flatten() for b in module.buffers()])


# Buffers


@pytest.mark.parametrize("factory", STATEFUL)
def test_training_equals_an_ordinary_loop_with_running_statistics(
    factory: Callable[[], nn.Module],
) -> None:
    task, updates = task_of(factory), 6
    data, params = sample_runs(task, 3)
    state = core.start(task, rules.get("adam"), data, params)
    lr = torch.full((updates, 3), 0.02, dtype=torch.float64)
    end = core.advance(task, rules.get("adam"), data, state, lr)
    examples = data.validation()
    evaluated = core.evaluate(task, end.params, examples, data, end.buffers)
    rows = data.batch_rows(torch.zeros(3, dtype=torch.int64), updates + 1, 8)
    for run in range(3):
        module = factory().double()
        nn.utils.vector_to_parameters(params[run], module.parameters())
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for update in range(updates + 1):  # the last one only takes loss and statistics
            batch = data.rows[run, rows[run, 8 * update : 8 * update + 8]]
            loss = F.cross_entropy(module(INPUTS[batch]), TARGETS[batch])
            optimizer.zero_grad()
            loss.backward()
            if update < updates:
                optimizer.step()
        flat = nn.utils.parameters_to_vector(module.parameters()).detach()
        torch.testing.assert_close(end.params[run], flat, **TOLERANCE)
        torch.testing.assert_close(end.latest[run], loss.detach(), **TOLERANCE)
        torch.testing.assert_close(end.buffers[run], floating_state(module), **TOLERANCE)
        module.eval()
        alone = F.cross_entropy(module(examples[0][run]), examples[1][run])
        torch.testing.assert_close(evaluated[run], alone.detach(), **TOLERANCE)


def test_only_buffers_that_training_writes_to_are_state() -> None:
    def factory() -> nn.Module:
        module = normalised()
        module.register_buffer("constant", torch.ones(7))
        return module

    task = task_of(factory)
    assert task.buffers == 2 * 5 + 1  # means, variances and the number of batches
    assert_identical(task.init_buffers(2)[1], torch.tensor([0.0] * 5 + [1.0] * 5 + [0.0]))
    assert task_of(lambda: factory().eval()).buffers == 0


class Peak(nn.Linear):
    """Linear model of inputs divided by the largest so far, from 1 on."""

    peak: Tensor

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("peak", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.peak.copy_(torch.maximum(self.peak, x.detach().abs().amax()))
        return super().forward(x / self.peak)


def test_a_buffer_that_is_written_without_changing_at_first_is_state() -> None:
    inputs = INPUTS.clamp(-0.5, 0.5)
    inputs[20] = 5.0  # not among the examples of the first pass
    task = optenv.from_module(Peak, inputs, TARGETS, batch_size=4)
    env = gym.make_vec("optenv/LearningRate-v0", 3, tasks=task, horizon=2)
    first, again = (env.reset(seed=0)[1]["initial_loss"] for _ in range(2))
    env.step(np.zeros((3, 1), np.float32))
    assert env.groups[0][1].state.run.buffers.max() == 5.0
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(env.reset(seed=0)[1]["initial_loss"], first)


class Begun(nn.Linear):
    """Linear model with a flag that the first pass of training sets."""

    begun: Tensor

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.begun.fill_(True)
        return super().forward(x)


def test_a_flag_is_state_of_a_run() -> None:
    env = gym.make_vec("optenv/LearningRate-v0", 2, tasks=task_of(Begun), horizon=2)
    env.reset(seed=0)
    assert env.groups[0][1].state.run.buffers.tolist() == [[1.0], [1.0]]


class Seldom(nn.Linear):
    """Linear model that writes to a buffer in every third pass only."""

    scale: Tensor
    passes: Tensor

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("passes", torch.tensor(0))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            if int(self.passes) % 3 == 0:
                self.scale.mul_(0.9)
        return super().forward(x) * self.scale


def test_a_buffer_that_is_written_later_is_refused() -> None:
    env = gym.make("optenv/LearningRate-v0", tasks=task_of(Seldom))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'scale' is written to, which the first passes"):
        env.step(np.zeros(1, np.float32))


def test_the_users_module_keeps_its_buffers_and_mode() -> None:
    module = both()
    before = [x.detach().clone() for x in module.state_dict().values()]
    env = gym.make("optenv/LearningRate-v0", tasks=task_of(lambda: module), horizon=2)
    env.reset(seed=0)
    env.step(neutral_action(env))
    assert_identical(list(module.state_dict().values()), before)
    assert module.training


# Random numbers


@pytest.mark.parametrize("factory", RANDOM)
def test_a_run_draws_the_same_alone_and_in_a_batch(
    factory: Callable[[], nn.Module],
) -> None:
    task, rule = task_of(factory), rules.get("sgd")
    lr = torch.full((3, 3), 0.1, dtype=torch.float64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data, params = sample_runs(task, 3)
    together = core.advance(task, rule, data, core.start(task, rule, data, params), lr)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    alone_data, alone_params = sample_runs(task, 1, seed=1)
    start = core.start(task, rule, alone_data, alone_params)
    alone = core.advance(task, rule, alone_data, start, lr[:, :1])
    torch.testing.assert_close(alone.params[0], together.params[1], **TOLERANCE)
    torch.testing.assert_close(alone.latest[0], together.latest[1], **TOLERANCE)


class Passed(nn.Module):
    """Module whose outputs are its inputs after dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.ones(())), nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.scale * self.drop(x)
        return outputs


def test_dropout_has_the_right_share_and_scale_and_differs_by_update_and_run() -> None:
    task = optenv.from_module(
        Passed, torch.ones(80, 50), torch.ones(80, 50), loss="mse", batch_size=64
    )
    data, params = sample_runs(task, 4)
    masks = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.detach())
        return F.mse_loss(outputs, targets)

    task._stacked.loss_function = loss
    task._stacked.vectorized = False
    for update in (0, 1):
        seen: list[Tensor] = []
        keys = data.keys(torch.full((4,), update))
        batch = Batch(*data.train(64), torch.empty(4, 64, 0), keys)
        task.training_loss(task.unflatten(params), batch, torch.empty(4, 0))
        masks += seen
    for mask in masks:
        kept = mask > 0
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / 0.75))
        assert abs(kept.double().mean() - 0.75) < 0.03
    flat = torch.stack(masks).flatten(1)
    off_diagonal = torch.corrcoef(flat) - torch.eye(8, dtype=flat.dtype)
    assert off_diagonal.abs().max() < 0.08  # of 3200 numbers each


@pytest.mark.parametrize("factory", [dropped, both])
def test_evaluation_does_not_drop(factory: Callable[[], nn.Module]) -> None:
    task = task_of(factory)
    data, params = sample_runs(task, 2)
    examples = data.validation()
    evaluated = core.evaluate(task, params, examples, data)
    for run in range(2):
        module = factory().double().eval()
        nn.utils.vector_to_parameters(params[run], module.parameters())
        alone = F.cross_entropy(module(examples[0][run]), examples[1][run])
        torch.testing.assert_close(evaluated[run], alone.detach(), **TOLERANCE)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(2000),
    "rand_like": torch.rand_like,
    "uniform_": lambda x: x.clone().uniform_(2.0, 4.0),
    "randn": lambda x: torch.randn(2000),
    "randn_like": torch.randn_like,
    "normal_": lambda x: x.clone().normal_(1.0, 3.0),
    "normal": lambda x: torch.normal(x, 2.0),
    "normal of size": lambda x: torch.normal(1.0, 2.0, (2000,)),
    "exponential_": lambda x: x.clone().exponential_(2.0),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.3)),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.3),
    "bernoulli_ of tensor": lambda x: x.clone().bernoulli_(torch.full_like(x, 0.3)),
    "randint": lambda x: torch.randint(3, (2000,)).float(),
    "randint from": lambda x: torch.randint(2, 9, (2000,)).float(),
    "native_dropout": lambda x: torch.native_dropout(x + 1.0, 0.3, True)[0],
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_torchs_random_functions_keep_their_distributions(name: str) -> None:
    x, keys = torch.zeros(2000), torch.arange(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.stack([DRAWS[name](x) for _ in range(3)])
    with RunDraws(keys, stacked=True):
        drawn = torch.func.vmap(DRAWS[name], randomness="different")(x.expand(3, -1))
    assert drawn.shape == expected.shape and drawn.dtype == expected.dtype
    for key, row in zip(keys, drawn, strict=True):
        with RunDraws(key[None], stacked=False):
            torch.testing.assert_close(DRAWS[name](x), row, rtol=0, atol=0)
    quantiles = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    spread = expected.std()
    for statistic in (torch.mean, torch.std):
        assert abs(statistic(drawn) - statistic(expected)) < 0.1 * spread
    if name.startswith(("rand", "uniform", "normal", "exp")) and "int" not in name:
        difference = drawn.quantile(quantiles) - expected.quantile(quantiles)
        assert difference.abs().max() < 0.2 * spread


def test_draws_of_one_pass_differ() -> None:
    with RunDraws(torch.zeros(1, dtype=torch.int64), stacked=False):
        first, second = torch.randn(500), torch.randn(500)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.15


class Counting(nn.Linear):
    """Linear model whose outputs depend on how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) / self.calls


class Growing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x[0, :1]])
        return super().forward(x)


def own_generator(outputs: Tensor, targets: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.cross_entropy(outputs + torch.randn(3, generator=generator), targets)


def numpy_noise(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs * float(np.random.default_rng().normal()), targets)


def python_noise(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a loss that hardly ever differs, though it always draws."""
    return F.cross_entropy(outputs if random.random() > 1e-9 else 2 * outputs, targets)


class Counted(nn.Linear):
    """Linear model with a counter that begins at the largest integer of a state."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("count", torch.tensor(2**24))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("factory", "loss", "says"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.RReLU()),
            "cross_entropy",
            r"'rrelu_with_noise'.*\n\(of module '1', RReLU, on the first examples\)",
        ),
        (lambda: nn.Linear(4, 3), own_generator, "'randn' draws from a generator.*leave"),
        (lambda: nn.Linear(4, 3), numpy_noise, "other than by torch"),
        (lambda: nn.Linear(4, 3), python_noise, "random numbers of Python or NumPy"),
        (lambda: Counting(4, 3), "cross_entropy", "a state that is no buffer"),
        (Counted, "cross_entropy", "integer 16777217 to buffer 'count'.* up to 16777216"),
        (Growing, "cross_entropy", r"'seen' changes its shape .* from \[1\] to \[2\]"),
    ],
)
def test_draws_and_states_that_runs_cannot_have_are_refused(
    factory: Callable[[], nn.Module], loss: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        task_of(factory, loss=loss)


# Losses without data


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(2))


def rosenbrock(module: Any) -> Tensor:
    x, y = module.position
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def poisson(module: nn.Module) -> Tensor:
    """Compute the residual of u'' = -sin at random points."""
    points = torch.rand(8, 1, dtype=next(module.parameters()).dtype).requires_grad_()
    (slope,) = torch.autograd.grad(module(points).sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    return (bend + points.sin()).square().mean()


def wave() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


def test_a_loss_without_data_is_a_function_of_the_module() -> None:
    task = optenv.from_module(Point, loss=rosenbrock)
    data, params = sample_runs(task, 3)
    state = core.start(task, rules.get("sgd"), data, params)
    x, y = params.unbind(1)
    torch.testing.assert_close(state.latest, (1 - x) ** 2 + 100 * (y - x**2) ** 2)
    slope = torch.stack([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)], 1)
    torch.testing.assert_close(state.grad, slope)
    assert task._stacked.vectorized and not task.draws


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_without_data_may_draw_points_and_take_derivatives(dtype: str) -> None:
    task = optenv.from_module(wave, loss=poisson)
    arguments = {"tasks": task, "horizon": 3, "dtype": dtype, "base_lr": 1e-2}
    batch = gym.make_vec("optenv/LearningRate-v0", 2, objective="both", **arguments)
    single = gym.make("optenv/LearningRate-v0", objective="both", **arguments)
    batch.reset(seed=3)
    single.reset(seed=4)
    for _ in range(3):
        rewards = batch.step(neutral_action(batch))[1]
        reward = single.step(neutral_action(single))[1]
        np.testing.assert_allclose(reward, rewards[1], rtol=1e-3, atol=1e-5)
    losses = batch.groups[0][1].state.loss  # on other points for each source
    assert (losses[:, 0] != losses[:, 1]).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, r"without inputs and targets.*\(module\).*got 'cross_entropy'"),
        ({"loss": rosenbrock, "targets": TARGETS}, "inputs must be .* got NoneType"),
        ({"loss": rosenbrock, "inputs": INPUTS}, "targets must be .* got NoneType"),
    ],
)
def test_a_loss_without_data_needs_a_function_and_no_data(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        optenv.from_module(Point, **arguments)


# All of it


def test_modules_with_state_and_dropout_learn() -> None:
    env = gym.make_vec(
        "optenv/LearningRate-v0", 4, tasks=task_of(both), base_lr=0.03,
        horizon=5, updates_per_step=10,
    )  # fmt: skip
    env.reset(seed=0)
    initial = env.groups[0][1].state.initial_loss.clone()
    for _ in range(5):
        *_, info = env.step(neutral_action(env))
    assert (info["loss"] < 0.8 * initial.numpy()).all()


def test_gradients_flow_through_the_updates() -> None:
    task, rule = task_of(both), rules.get("adam")
    data, params = sample_runs(task, 2)
    start = core.start(task, rule, data, params)

    def final(log_lr: Tensor) -> Tensor:
        lr = log_lr.exp().expand(3, 2)
        end = core.advance(task, rule, data, start, lr, differentiable=True)
        return end.latest.sum()  # which has the batch's statistics

    log_lr = torch.tensor([-3.0, -4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(final(log_lr), log_lr)
    for run in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[run] = 1e-5
        with torch.no_grad():
            difference = (final(log_lr + step) - final(log_lr - step)) / 2e-5
        torch.testing.assert_close(slope[run], difference, rtol=1e-5, atol=1e-7)


def test_a_task_can_be_pickled() -> None:
    task = task_of(both)
    copy = pickle.loads(pickle.dumps(task))
    for one in (task, copy):
        data, params = sample_runs(one, 2)
        state = core.start(one, rules.get("adam"), data, params)
        if one is task:
            expected = state
    assert_identical(state.grad, expected.grad)
    assert_identical(state.buffers, expected.buffers)
