"""Stacked copies of a user's module equal the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import optenv
from optenv import core, tasks
from tests.helpers.small_runs import (
    assert_identical,
    convolutional_module,
    generators,
    linear_module,
    module_task,
    neutral_action,
    sample_runs,
)


class Tied(nn.Module):
    """Module with a tied weight, a buffer and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.decode = nn.Linear(3, 3)
        self.again = nn.Linear(3, 3, bias=False)
        self.again.weight = self.decode.weight
        self.register_buffer("mix", torch.arange(9.0).view(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.encode(x)) @ self.mix
        return self.again(self.decode(hidden).tanh())


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "mlp": linear_module,
    "cnn": convolutional_module,
    "tied": Tied,
    "batch-norm": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    ),
}
TARGETS = torch.arange(40) % 3
LOSSES: list[tuple[str | Any, Any, Tensor]] = [
    ("cross_entropy", F.cross_entropy, TARGETS),
    ("mse", F.mse_loss, F.one_hot(TARGETS).float()),
    ("l1", F.l1_loss, F.one_hot(TARGETS).float()),
    ("bce_with_logits", F.binary_cross_entropy_with_logits, F.one_hot(TARGETS).float()),
    (F.huber_loss, F.huber_loss, F.one_hot(TARGETS).float()),
]


def inputs_of(name: str) -> Tensor:
    shape = (40, 1, 8, 8) if name == "cnn" else (40, 4)
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize(("loss", "expected", "targets"), LOSSES)
@pytest.mark.parametrize("runs", [1, 3])
def test_loss_and_gradient_equal_those_of_the_single_module(
    name: str, loss: Any, expected: Any, targets: Tensor, runs: int
) -> None:
    inputs = inputs_of(name)
    task = tasks.from_module(FACTORIES[name], inputs, targets, loss=loss, batch_size=8)
    data, params = sample_runs(task, runs)
    rows = data.batch_rows(torch.zeros(runs, dtype=torch.int64), 1, 8)
    losses, gradients = core.loss_and_grad(task, params, data.batch(rows))
    for run in range(runs):
        module = FACTORIES[name]().double()
        nn.utils.vector_to_parameters(params[run], module.parameters())
        examples = data.rows[run][rows[run]]
        target = targets[examples]
        target = target.double() if target.is_floating_point() else target
        alone = expected(module(inputs[examples]), target)
        alone.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(losses[run], alone.detach())
        torch.testing.assert_close(gradients[run], gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FACTORIES)
def test_initial_parameters_equal_those_of_the_factory(name: str) -> None:
    task = tasks.from_module(FACTORIES[name], inputs_of(name).float(), TARGETS)
    seeds = [int(g.integers(2**62)) for g in generators(3)]
    params = task.init(generators(3))
    for run, seed in enumerate(seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = FACTORIES[name]()
        flat = nn.utils.parameters_to_vector(module.parameters()).detach()
        assert_identical(params[run], flat)
    assert len(params.unique(dim=0)) == 3


def test_runs_share_the_split_but_not_its_order() -> None:
    task = module_task(validation_fraction=0.25)
    assert (task.num_train, task.num_validation) == (30, 10)
    data, _ = sample_runs(task, 3)
    assert data.rows[:, :30].sort().values.equal(torch.arange(30).expand(3, 30))
    assert data.rows[:, 30:].sort().values.equal(torch.arange(30, 40).expand(3, 10))
    assert len(data.rows.unique(dim=0)) == 3
    assert len(data.order.unique()) == 3


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_environment_trains_the_modules(convolutional: bool, dtype: str) -> None:
    task = module_task(convolutional)
    env = gym.make_vec(
        "optenv/LearningRate-v0", 4, tasks=task, base_lr=1e-2, horizon=5, dtype=dtype
    )
    env.reset(seed=0)
    initial = env.groups[0][1].state.initial_loss.clone()
    for _ in range(5):
        *_, terminated, _, info = env.step(neutral_action(env))
    assert terminated.all()
    assert (info["loss"] < 0.9 * initial.numpy()).all()
    assert np.isfinite(info["validation_loss"]).all()


def test_the_users_module_and_tensors_are_not_changed() -> None:
    module, inputs = linear_module(), inputs_of("mlp").float()
    kept, examples = [p.detach().clone() for p in module.parameters()], inputs.clone()
    task = tasks.from_module(lambda: module, inputs, TARGETS)
    env = gym.make("optenv/LearningRate-v0", tasks=task, horizon=2)
    env.reset(seed=0)
    env.step(neutral_action(env))
    for old, new in zip(kept, module.parameters(), strict=True):
        assert new.device.type == "cpu"
        assert_identical(new.detach(), old)
    assert_identical(inputs, examples)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("factory", "arguments", "error", "says"),
    [
        (lambda: Tied().requires_grad_(False), {}, ValueError, "no parameters to train"),
        (Tied, {"inputs": np.zeros((40, 4))}, TypeError, "inputs must be .* got ndarray"),
        (Tied, {"targets": [0] * 40}, TypeError, r"targets must be .*Tensor, got list"),
        (Tied, {"loss": 3}, TypeError, "loss must be a name or a function, got 3"),
        (lambda: nn.Flatten(), {}, ValueError, "no parameters.*Flatten"),
        (lambda: F.relu, {}, TypeError, r"must return a torch\.nn\.Module, got <"),
        (nn.Linear(4, 3), {"inputs": torch.zeros(9, 4)}, ValueError, "length: 9 and 40"),
        (Tied(), {}, TypeError, r"not a module: give lambda: Tied\(\.\.\.\)"),
        (3, {}, TypeError, "factory must be callable, got 3"),
        (Tied, {"loss": "nll"}, ValueError, "'nll'; valid losses: cross_entropy, mse, l1"),
        (Tied, {"validation_fraction": 0.0}, ValueError, r"\(0, 1\), got 0\.0"),
        (Tied, {"validation_fraction": 1.0}, ValueError, r"\(0, 1\), got 1\.0"),
        (Tied, {"validation_fraction": "0.2"}, TypeError, "must be a number, got '0.2'"),
        (Tied, {"validation_fraction": True}, TypeError, "must be a number, got True"),
        (Tied, {"batch_size": 33}, ValueError, r"at most num_train \(32\), got 33"),
        (
            Tied,
            {"targets": torch.cat([TARGETS[:-1], torch.tensor([3])])},  # in no batch tried
            ValueError,
            "classes from 0 to 2, of which the module has outputs, got 3 at index 39",
        ),
        (Tied, {"targets": TARGETS - 1}, ValueError, r"classes from 0 to 2.*got -1 at"),
        (
            lambda: nn.Sequential(nn.LazyLinear(3)),
            {},
            ValueError,
            "parameter '0.weight' of the factory's module is not initialised",
        ),
        (
            Tied,
            {"inputs": torch.zeros(1, 4), "targets": TARGETS[:1]},
            ValueError,
            "at least two examples, .*, got 1",
        ),
    ],
)
def test_modules_and_arguments_that_do_not_fit_are_refused(
    factory: Any, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    arguments = {"inputs": inputs_of("mlp").float(), "targets": TARGETS, **arguments}
    with pytest.raises(error, match=says):
        optenv.from_module(factory, **arguments)


def test_modules_of_other_shapes_each_time_are_refused() -> None:
    widths = iter(range(1, 100))

    def factory() -> nn.Module:
        width = next(widths)
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))

    task = optenv.from_module(factory, inputs_of("mlp").float(), TARGETS)
    with pytest.raises(ValueError, match=r"same shapes each time, got \d+ and \d+"):
        task.init([np.random.default_rng(i) for i in range(2)])


def test_examples_without_a_class_are_left_out_of_the_loss() -> None:
    targets = TARGETS.clone()
    targets[::2] = -100
    task = optenv.from_module(lambda: nn.Linear(4, 3), inputs_of("mlp").float(), targets)
    env = gym.make("optenv/LearningRate-v0", tasks=task, horizon=2)
    env.reset(seed=0)
    assert np.isfinite(env.step(neutral_action(env))[4]["loss"])


@pytest.mark.parametrize("examples", [2, 10, 39, 40, 400])
def test_a_batch_is_of_at_most_all_training_examples(examples: int) -> None:
    inputs, targets = torch.randn(examples, 4), torch.arange(examples) % 3
    task = optenv.from_module(lambda: nn.Linear(4, 3), inputs, targets)
    assert task.num_train >= 1
    assert task.num_train + task.num_validation == examples
    assert task.batch_size == min(32, task.num_train)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.bool])
@pytest.mark.parametrize("runs", [1, 2])
def test_classes_of_every_integer_type_are_the_same(dtype: torch.dtype, runs: int) -> None:
    targets = TARGETS % 2
    losses = []
    for given in (targets, targets.to(dtype)):
        task = optenv.from_module(Tied, inputs_of("mlp").float(), given)
        env = gym.make_vec("optenv/LearningRate-v0", runs, tasks=task, horizon=2)
        env.reset(seed=0)
        losses.append(env.step(neutral_action(env))[4]["loss"])
    np.testing.assert_array_equal(*losses)


def test_a_loss_that_is_no_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scalar mean over the batch, .* shape \[8\]"):
        module_task(loss=lambda x, y: F.cross_entropy(x, y, reduction="none"))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        states: Tensor = self.lstm(inputs)[0]
        return self.head(states[:, -1])


def test_modules_that_cannot_be_stacked_run_in_a_loop() -> None:
    inputs = torch.randn(40, 6, 4)
    task = optenv.from_module(Recurrent, inputs, TARGETS, batch_size=8)
    data, params = sample_runs(task, 3)
    losses, gradients = core.loss_and_grad(task, params, data.train(8))
    for run in range(3):
        module = Recurrent().double()
        nn.utils.vector_to_parameters(params[run], module.parameters())
        alone = F.cross_entropy(
            module(inputs[data.rows[run, :8]].double()), TARGETS[data.rows[run, :8]]
        )
        alone.backward()
        expected = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(losses[run], alone.detach())
        torch.testing.assert_close(gradients[run], expected)


def test_tasks_of_modules_can_be_compared() -> None:
    one, two = module_task(), module_task()
    assert one == one and one != two and len({one, two}) == 2


def half_frozen() -> nn.Module:
    module = linear_module()
    module[0].weight.requires_grad_(False)  # type: ignore[index]
    return module


def test_frozen_parameters_are_not_trained() -> None:
    inputs = inputs_of("mlp")
    task = tasks.from_module(half_frozen, inputs, TARGETS, batch_size=8)
    data, params = sample_runs(task, 3)
    assert task.shapes == ((5,), (3, 5), (3,))
    rows = data.batch_rows(torch.zeros(3, dtype=torch.int64), 1, 8)
    losses, gradients = core.loss_and_grad(task, params, data.batch(rows))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = half_frozen().double()  # all runs have the frozen weights of this one
    trained = [p for p in module.parameters() if p.requires_grad]
    for run in range(3):
        nn.utils.vector_to_parameters(params[run], trained)
        module.zero_grad()
        examples = data.rows[run][rows[run]]
        alone = F.cross_entropy(module(inputs[examples]), TARGETS[examples])
        alone.backward()
        gradient = torch.cat([p.grad.flatten() for p in trained])
        torch.testing.assert_close(losses[run], alone.detach())
        torch.testing.assert_close(gradients[run], gradient)


def test_generators_of_other_devices_are_not_seeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.cuda.is_initialized():
        before = torch.cuda.get_rng_state_all()
    else:
        monkeypatch.setattr(torch.cuda, "manual_seed_all", pytest.fail)
    cpu = torch.get_rng_state()
    module_task().init(generators(2))
    assert torch.equal(torch.get_rng_state(), cpu)
    if torch.cuda.is_initialized():
        assert_identical(torch.cuda.get_rng_state_all(), before)


@pytest.mark.parametrize("name", ["inputs", "targets"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_data_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    arguments = {"inputs": torch.zeros(40, 4), "targets": torch.zeros(40, 3)}
    arguments[name][37, 1] = value
    with pytest.raises(ValueError, match=rf"^{name} must be finite.* {value} at index 37"):
        optenv.from_module(linear_module, loss="mse", **arguments)


def test_parameters_that_are_not_finite_are_refused_by_name() -> None:
    def broken() -> nn.Module:
        module = nn.Linear(4, 3)
        nn.init.constant_(module.bias, torch.nan)
        return module

    with pytest.raises(ValueError, match="parameter 'bias' of the factory's module"):
        optenv.from_module(broken, inputs_of("mlp").float(), TARGETS)


def test_data_too_large_for_the_type_of_the_runs_are_refused() -> None:
    inputs = inputs_of("mlp")
    inputs[2, 0] = 1e300
    task = optenv.from_module(lambda: linear_module().double(), inputs, TARGETS)
    with pytest.raises(ValueError, match=r"inputs of the ModuleTask .*beyond .*float32"):
        gym.make("optenv/LearningRate-v0", tasks=task).reset(seed=0)


class Broken(tasks.MLP):
    def examples(self, rng: np.random.Generator) -> Any:
        inputs, targets = super().examples(rng)
        inputs[-1] = np.nan
        return inputs, targets


def test_a_users_task_with_data_that_are_not_finite_is_refused() -> None:
    env = gym.make("optenv/LearningRate-v0", tasks=Broken(num_train=40))
    with pytest.raises(ValueError, match="inputs of the Broken task must be finite"):
        env.reset(seed=0)


FIXED: dict[str, Callable[[], nn.Module]] = {
    "batch-norm": lambda: normalised().eval(),
    "dropout": lambda: dropped().eval(),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.1).eval(),
}


@pytest.mark.parametrize("name", FIXED)
def test_modules_in_eval_mode_are_trained_as_they_are(name: str) -> None:
    inputs, factory = inputs_of("mlp"), FIXED[name]
    task = optenv.from_module(factory, inputs, TARGETS, batch_size=8)
    data, params = sample_runs(task, 3)
    losses, _ = core.loss_and_grad(task, params, data.train(8))
    for run in range(3):
        module = factory().double()
        nn.utils.vector_to_parameters(params[run], module.parameters())
        examples = data.rows[run, :8]
        alone = F.cross_entropy(module(inputs[examples]), TARGETS[examples])
        torch.testing.assert_close(losses[run], alone.detach())


class Sequence(nn.Module):
    """Recurrent layer, or one with attention, whose last place is classified."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return self.head((found[0] if isinstance(found, tuple) else found)[:, -1])


class Attention(nn.Module):
    """Two heads of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.into(x).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


def convolving() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(144, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("factory", "shape", "work"),
    [
        (lambda: nn.Linear(4, 3), (4,), 4 * 3),
        (convolving, (1, 8, 8), 36 * 9 * 4 + 144 * 3),
        (lambda: Sequence(nn.LSTM(4, 6, batch_first=True), 6), (5, 4), 5 * 24 * 10 + 18),
        (lambda: Sequence(nn.GRU(4, 6, batch_first=True), 6), (5, 4), 5 * 18 * 10 + 18),
        # Queries, keys, values and outputs; two products of places; the head.
        (lambda: Sequence(Attention(), 4), (5, 4), 5 * 4 * 16 + 2 * 5 * 5 * 4 + 12),
    ],
    ids=["linear", "cnn", "lstm", "gru", "attention"],
)
def test_the_work_of_a_module_is_counted_not_estimated(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], work: int
) -> None:
    targets = torch.arange(40) % 3
    task = optenv.from_module(factory, torch.randn(40, *shape), targets, batch_size=8)
    before = torch.get_rng_state()
    assert task.work == 8 * work
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_of_the_module_alone_has_work_too() -> None:
    def loss(module: nn.Module) -> Tensor:
        points = torch.rand(16, 1)
        return (module(points) - module(points + 1.0)).square().mean()

    # Every use of the weights counts.
    assert optenv.from_module(lambda: nn.Linear(1, 1), loss=loss).work == 2 * 16

    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.Parameter(torch.ones(5))

    task = optenv.from_module(Scales, loss=lambda m: m.scales.square().sum())
    assert task.work == 5  # without matrix products, the estimate


@pytest.mark.parametrize("runs", [1, 2])
def test_a_loss_of_another_type_counts_in_that_of_the_run(runs: int) -> None:
    def in_double(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets).double()

    inputs, targets = torch.randn(40, 4), torch.arange(40) % 3
    task = optenv.from_module(lambda: nn.Linear(4, 3), inputs, targets, loss=in_double)
    env = gym.make_vec("optenv/LearningRate-v0", runs, tasks=task, horizon=2)
    env.reset(seed=0)
    info = env.step(np.zeros((runs, 1), np.float32))[4]
    assert np.isfinite(info["loss"]).all()
    assert env.groups[0][1].state.run.latest.dtype == torch.float32


def test_a_loss_without_a_gradient_is_refused_by_name() -> None:
    def errors(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(-1) != targets).float().mean()

    inputs, targets = torch.randn(40, 4), torch.arange(40) % 3
    task = optenv.from_module(lambda: nn.Linear(4, 3), inputs, targets, loss=errors)
    with pytest.raises(ValueError, match="loss of ModuleTask does not depend on the param"):
        gym.make("optenv/LearningRate-v0", tasks=task).reset()
