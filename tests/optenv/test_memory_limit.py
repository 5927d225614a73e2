"""Environments that need more memory than there may be are refused before they take it."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from optenv import core, memory_limit, rules, tasks, windows
from optenv.group import footprint
from optenv.group.activations import graph_memory, loss_memory
from optenv.group.setup import Setup
from optenv.instances import Instance, InstanceSet
from optenv.memory_limit import (
    MemoryLimit,
    limit_of,
    machine_memory,
    refuse_beyond,
    refuse_count,
)
from optenv.settings import Settings
from optenv.telemetry import Losses
from tests.helpers.small_runs import assert_same

LEARNING_RATE, TRIAL = "optenv/LearningRate-v0", "optenv/LearningRateTrial-v0"
SMALL = tasks.Quadratic(dim=4, num_train=32, num_validation=8)
HUGE = 10**9


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a limit that no test should come near, whatever the machine has."""
    monkeypatch.setenv(memory_limit.VARIABLE, "1")


#: Arguments that ask for too much, and what the message advises to lower.
TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "updates": (
        {"updates_per_step": HUGE, "action": {"schedule": "linear"}},
        "updates_per_step",
    ),
    "a range of updates": (
        {"updates_per_step": (1, HUGE), "action": {"schedule": "linear"}},
        "updates_per_step",
    ),
    "width": ({"tasks": tasks.MLP(width=10**6, depth=2)}, "the sizes of the task MLP"),
    "width beyond int64": (
        {"tasks": tasks.MLP(width=10**11, depth=2)},
        "the sizes of the task MLP",
    ),
    "one of several tasks": (
        {"tasks": [SMALL, tasks.MLP(width=10**6, depth=2)]},
        "the sizes of the task MLP",
    ),
    "inputs": ({"tasks": tasks.MLP(inputs=10**7, depth=0)}, "num_train=1024"),
    "a matrix of the examples": (
        {"tasks": tasks.Function(function="quadratic", dim=10**5)},
        "the sizes of the task Function",
    ),
    "chances of tokens": (
        {"tasks": tasks.LanguageModel(vocabulary=10**5)},
        "the sizes of the task LanguageModel",
    ),
    "batches": (
        {"tasks": tasks.CNN(batch_size=2**19, num_train=2**19, side=16, width=64)},
        "the sizes of the task CNN",
    ),
    "changes": ({"changes": 10**8, "horizon": HUGE}, "changes=100000000"),
    "slots": (
        {"action": {"kind": "layerwise", "tensors": HUGE}},
        "the slots of the action",
    ),
    "a record of the episode": ({"horizon": HUGE, "render_mode": "ansi"}, "horizon"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
@pytest.mark.parametrize("env_id", [LEARNING_RATE, TRIAL])
def test_what_needs_too_much_memory_is_refused_before_it_takes_any(
    env_id: str, case: str
) -> None:
    arguments, advice = TOO_MUCH[case]
    if case == "slots":
        env_id = env_id.replace("/", "/Layerwise")
    if "schedule" in arguments.get("action", {}):
        arguments = {**arguments, "action": {"kind": "continuous", **arguments["action"]}}
    gym.make(env_id)  # imports what is imported at first
    torch.zeros(1, device="meta")  # so does this
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="of memory") as error:
            gym.make(env_id, **{"tasks": SMALL, **arguments})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert advice in message.partition("lower")[2]
    assert f"{memory_limit.VARIABLE}=1" in message and "max_memory" in message
    assert peak < 2**25


@pytest.mark.parametrize("env_id", [LEARNING_RATE, TRIAL])
def test_too_many_runs_are_refused_before_spaces_are_made(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"num_envs=1000000000.*TiB.*lower num_envs"):
        gym.make_vec(env_id, num_envs=HUGE, tasks=SMALL)


def test_too_many_runs_of_a_task_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a group of 4000 runs.*lower num_envs"):
        gym.make_vec(LEARNING_RATE, num_envs=4000, tasks=tasks.MLP(width=512, depth=2))


def test_the_record_of_many_runs_of_a_trial_is_refused() -> None:
    env = gym.make(TRIAL, runs=HUGE, tasks=SMALL)  # without a record, nothing grows
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"record of the episodes.*runs"):
        gym.make(TRIAL, runs=HUGE, tasks=SMALL, render_mode="ansi")


def test_the_memory_of_a_run_does_not_grow_with_its_horizon() -> None:
    peaks = []
    for horizon in (10, HUGE):
        env = gym.make(LEARNING_RATE, tasks=SMALL, horizon=horizon, updates_per_step=2)
        tracemalloc.start()
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(1, np.float32))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20


def test_runs_of_a_long_horizon_begin_like_those_of_its_array_of_boundaries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps() -> list[Any]:
        env = gym.make(
            LEARNING_RATE, tasks=SMALL, horizon=300, updates_per_step=3, spacing=1.7
        )
        observation, _ = env.reset(seed=3)
        found = [observation]
        for _ in range(300):
            observation, reward, ended, _, _ = env.step(np.full(1, 0.1, np.float32))
            found += [observation, reward, ended]
        return found

    expected = steps()
    monkeypatch.setattr(windows, "_KEPT", 64)  # now they are computed where asked for
    assert_same(steps(), expected)


@pytest.mark.parametrize("spacing", [1.0, 1.7, 10.0])
@pytest.mark.parametrize(("total", "horizon"), [(7, 20), (400, 40), (10**6, 70_001)])
def test_boundaries_that_are_asked_for_are_those_of_the_array(
    total: int, horizon: int, spacing: float
) -> None:
    expected = windows.boundaries(total, horizon, spacing)
    found = windows.Boundaries(total, min(total, horizon), spacing)
    assert len(found) == len(expected)
    assert list(found) == expected.tolist()
    index = np.arange(-len(expected), len(expected))
    np.testing.assert_array_equal(found[index], expected[index])
    assert [found[i] for i in (0, 1, -2, -1)] == [expected[i] for i in (0, 1, -2, -1)]
    with pytest.raises(IndexError, match=str(len(expected))):
        found[len(expected)]


def test_batches_computed_in_parts_are_those_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for runs in (1, 3):
        generators = [np.random.default_rng(i) for i in range(runs)]
        task, rule = tasks.MLP(width=4, num_train=50, batch_size=8), rules.get("adam")
        data, params = task.sample(generators), task.init(generators)
        lr = torch.full((9, runs), 0.01)
        counts = torch.arange(7, 7 + runs)
        found = []
        for ahead in (2**18, 2 * 8 * runs):
            monkeypatch.setattr(core, "AHEAD", ahead)
            start = core.start(task, rule, data, params)
            found.append(
                [
                    core.advance(task, rule, data, start, lr),
                    core.advance(task, rule, data, start, lr, counts=counts),
                ]
            )
        assert_same(found[0], found[1])


@pytest.mark.parametrize("runs", [1, 3])
def test_few_losses_of_a_long_window_are_kept_and_its_statistics_are_the_same(
    runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = [np.random.default_rng(i) for i in range(runs)]
    rule, data, params = rules.get("adam"), SMALL.sample(generators), SMALL.init(generators)
    start = core.start(SMALL, rule, data, params)
    lr = torch.full((21, runs), 0.01)
    of, most, found = Losses.of, [], []

    def noted(losses: Any, before: Any = None) -> Any:
        most.append(len(losses))
        return of(losses, before)

    monkeypatch.setattr(Losses, "of", noted)
    for kept in (100, 5, 7):
        monkeypatch.setattr(core, "LOSSES_KEPT", kept)
        found.append(core.advance(SMALL, rule, data, start, lr))
    assert most == [21, 1, 7]
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_a_window_of_a_constant_schedule_takes_no_more_memory_if_it_is_longer() -> None:
    def parts(updates: int) -> dict[str, int]:
        setup = Setup.of(Settings(tasks=SMALL, updates_per_step=updates))
        return footprint.estimate(setup, SMALL, 64, 40 * updates, False).parts

    assert parts(10**4) == parts(10**7)


def test_a_batch_of_more_examples_than_are_computed_ahead_counts_whole() -> None:
    def places(runs: int) -> int:
        setup = Setup.of(Settings(tasks=SMALL))
        found = footprint.estimate(setup, SMALL, runs, 400, False)
        return found.parts[footprint.UPDATES]

    assert places(2**16) > 7 * places(2**13) > 0


def test_a_run_has_no_more_updates_than_can_be_counted() -> None:
    with pytest.raises(ValueError, match=f"at most {windows.MAX_UPDATES}.*horizon=40"):
        gym.make(LEARNING_RATE, updates_per_step=10**12)


@pytest.mark.parametrize("size", [{"depth": HUGE}, {"num_validation": HUGE}])
def test_tasks_that_would_not_end_are_refused(size: dict[str, int]) -> None:
    (name,) = size
    with pytest.raises(ValueError, match=rf"{name} must be at most \d+, got {HUGE}"):
        tasks.MLP(**{"width": 4, **size})


FAMILIES = [*tasks.FAMILIES, *tasks.MORE_FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_examples_is_known_before_they_are_drawn(family: str) -> None:
    for seed in range(4):
        task = tasks.make(family).draw(np.random.default_rng(seed))
        data = task.sample([np.random.default_rng(seed)])
        assert data.shared == task.shares_examples
        total = task.num_train + task.num_validation
        used = (data.inputs[:total], data.targets[:total])
        bytes_of_one = sum(x[:1].numel() * x.element_size() for x in used)
        assert 0.5 * bytes_of_one <= 4 * task.example_numbers <= 3 * bytes_of_one


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_take_less_memory_than_the_rough_bound(family: str) -> None:
    setup = Setup.of(Settings(tasks=family))
    task = setup.sampler.draw(np.random.default_rng(5))
    found = footprint.estimate(setup, task, 2, 400, False)
    parameters = found.parts[footprint.PARAMETERS]
    if isinstance(task, tasks.PolicyGradient):
        task = tasks.PolicyGradient(steps=5)  # it takes thousands of operations
    measured = loss_memory(setup, task, 2, math.inf)
    assert measured > 0.9 * parameters
    assert measured - parameters <= footprint.rough_loss_memory(setup, task, 2)


class Wide(tasks.Quadratic):
    """Quadratic whose loss squares a million copies of its parameters."""

    def loss(
        self, params: tuple[torch.Tensor, ...], inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        (own,) = params
        return (own.repeat(1, 10**6).square() * 1e-6).sum(1)


def test_the_memory_of_losses_is_that_of_the_tensors_that_they_keep() -> None:
    setup = Setup.of(Settings(tasks=SMALL))
    one, many = (loss_memory(setup, Wide(dim=4), runs, math.inf) for runs in (1, 1000))
    copy = 4 * 10**6 * 4  # bytes
    assert 2 * copy < one < 6 * copy
    assert many == pytest.approx(1000 * one, rel=1e-3)


def test_a_measurement_ends_where_it_has_found_enough() -> None:
    setup = Setup.of(Settings(tasks=SMALL))
    found = loss_memory(setup, Wide(dim=4), 1000, 10**9)
    assert 10**9 < found < loss_memory(setup, Wide(dim=4), 1000, math.inf)


def test_losses_that_take_too_much_are_refused_by_their_measured_memory() -> None:
    with pytest.raises(ValueError, match=r"GiB for losses and their gradients.*num_envs"):
        gym.make_vec(LEARNING_RATE, num_envs=1000, tasks=Wide(dim=4))


CONSTANT = torch.ones(300)


@pytest.mark.parametrize("made", [lambda: torch.ones(300), lambda: CONSTANT])
def test_the_memory_of_an_own_loss_counts_what_it_makes(made: Any) -> None:
    """Numbers that no multiplication of matrices tells of, and constants on the CPU."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        distances = (outputs[:, None] - targets[None, :]).abs()
        return (distances.unsqueeze(-1) * made()).mean()

    def task(batch_size: int) -> tasks.ModuleTask:
        examples = torch.randn(100, 4), torch.randn(100, 1)
        return tasks.from_module(
            lambda: torch.nn.Linear(4, 1), *examples, loss=loss, batch_size=batch_size
        )

    pairs = 4 * 60 * 60 * 300  # bytes
    setup = Setup.of(Settings(tasks=task(60)))
    assert 2 * pairs < loss_memory(setup, task(60), 1, math.inf) < 4 * pairs
    with pytest.raises(ValueError, match="MiB for losses and their gradients"):
        gym.make_vec(LEARNING_RATE, num_envs=100, tasks=task(60), max_memory=0.5)
    gym.make_vec(LEARNING_RATE, num_envs=4, tasks=task(60), max_memory=0.5).close()


class Looks(tasks.Quadratic):
    """Quadratic whose loss looks at values, and so needs some."""

    def loss(
        self, params: tuple[torch.Tensor, ...], inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        loss = super().loss(params, inputs, targets)
        return loss if bool(loss.max() > 0) else 0.0 * loss

    @property
    def work(self) -> int:
        return 10**12  # so that the rough bound does not tell enough


def test_a_task_that_cannot_be_measured_is_not_refused() -> None:
    env = gym.make(LEARNING_RATE, tasks=Looks(dim=4), horizon=2)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))


# The limit.


def test_the_limit_is_of_the_argument_the_variable_or_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert limit_of(2.5) == MemoryLimit(2.5 * 2**30, "max_memory=2.5")
    assert limit_of() == MemoryLimit(2**30, f"{memory_limit.VARIABLE}=1")
    monkeypatch.delenv(memory_limit.VARIABLE)
    assert limit_of().size == memory_limit.SHARE * machine_memory()
    monkeypatch.setenv(memory_limit.VARIABLE, "")
    assert limit_of().size == memory_limit.SHARE * machine_memory()
    assert limit_of(math.inf).size == math.inf


@pytest.mark.parametrize("text", ["much", "2GB", "-1", "0", "nan"])
def test_a_variable_that_is_no_limit_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(memory_limit.VARIABLE, text)
    with pytest.raises(ValueError, match=f"{memory_limit.VARIABLE} must be a"):
        gym.make(LEARNING_RATE, tasks=SMALL)


def test_the_limit_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    whole = machine_memory.__wrapped__()
    (tmp_path / "some").write_text("123456789\n")
    (tmp_path / "max").write_text("max\n")
    for name, expected in (("some", 123456789), ("max", whole), ("none", whole)):
        monkeypatch.setattr(memory_limit, "_GROUP_FILES", (str(tmp_path / name),))
        assert machine_memory.__wrapped__() == expected


def test_a_limit_can_be_raised_by_the_argument_and_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(**arguments: Any) -> gym.Env[Any, Any]:
        action = {"kind": "continuous", "schedule": "linear"}
        arguments |= {"updates_per_step": 3 * 10**7, "action": action}
        return gym.make(LEARNING_RATE, tasks=SMALL, **arguments)

    with pytest.raises(ValueError, match="updates_per_step"):
        make()
    make(max_memory=100)
    make(max_memory=math.inf)
    monkeypatch.setenv(memory_limit.VARIABLE, "100")
    make()
    with pytest.raises(ValueError, match=r"max_memory=0\.5"):
        make(max_memory=0.5)


def test_a_refusal_says_what_needs_most_and_what_to_lower() -> None:
    limit = MemoryLimit(2**30, "max_memory=1")
    parts = {"one": 3 * 2**30, "two": 2**30, "three": 2**20}
    with pytest.raises(ValueError) as error:
        refuse_beyond(limit, "it", parts, {"one": ["a", "b"], "two": ["b"]})
    assert str(error.value) == (
        "it would need about 4 GiB of memory (3 GiB for one, 1 GiB for two), and the limit "
        "is 1 GiB (max_memory=1); lower a or b, or raise the limit by max_memory=... or "
        "the environment variable OPTENV_MAX_MEMORY, both in GiB"
    )
    refuse_beyond(limit, "it", {"one": 2**30}, {})


def test_a_number_of_things_is_refused_in_words() -> None:
    with pytest.raises(ValueError) as error:
        refuse_count("count", 2**21, "the things", 2**10)
    assert str(error.value) == (
        "count=2097152 would need about 2 GiB of memory (2 GiB for the things), and the "
        "limit is 1 GiB (OPTENV_MAX_MEMORY=1); lower count=2097152, or raise the limit by "
        "the environment variable OPTENV_MAX_MEMORY, in GiB"
    )
    refuse_count("count", 2**20, "the things", 2**10)


def test_too_many_instances_are_refused_before_one_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"count=1000000000 would need .* the instances"):
        InstanceSet.sample(["cnn/train", "train"], HUGE)


# Graphs of updates that are differentiated.


def test_the_graph_of_an_update_grows_with_runs_and_counts_by_updates() -> None:
    setup = Setup.of(Settings(tasks=SMALL, updates_per_step=10))
    one, many = (graph_memory(setup, SMALL, runs) for runs in (1, 100))
    assert 90 * one < many < 110 * one and one > 4 * SMALL.num_params
    assert graph_memory(setup, Looks(dim=4), 1) == 0

    def graph(segment: int) -> int:
        found = footprint.check(setup, SMALL, 2, 400, False, {}, segment=segment)
        return found.parts.get(footprint.GRAPH, 0)

    assert graph(0) == 0 and graph(8) == pytest.approx(8 * graph(1), rel=1e-3)
    assert graph(10**6) == graph(40)  # no more than the run


def test_groups_to_differentiate_are_refused_before_one_is_made() -> None:
    settings = Settings(tasks=SMALL, horizon=HUGE)
    for arguments, advice in (
        ((HUGE, 2, 8), "lower groups=1000000000 or size=2"),
        ((8, HUGE, 8), "size=1000000000"),
        ((8, 2, HUGE), "differentiated at once.*lower segment or num_envs"),
    ):
        with pytest.raises(ValueError, match=advice):
            footprint.check_unrolled(settings, *arguments)


# What an environment needs.


def test_the_memory_of_an_environment_is_that_of_all_groups() -> None:
    def needed(num_envs: int, groups: int) -> dict[str, int]:
        env: Any = gym.make_vec(
            LEARNING_RATE, num_envs=num_envs, groups=groups, tasks=SMALL
        ).unwrapped
        with pytest.raises(gym.error.ResetNeeded, match="memory"):
            env.memory()
        env.reset(seed=0)
        return env.memory()

    one, four, grouped = needed(1, 1), needed(4, 1), needed(4, 4)
    assert sum(four.values()) > 3 * sum(one.values())
    # The groups hold as much, and work one after the other.
    assert sum(one.values()) < sum(grouped.values()) < sum(four.values())


def test_groups_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = tasks.Quadratic(dim=64, num_train=2000)
    env = gym.make_vec(LEARNING_RATE, num_envs=6, groups=3, tasks=[large, SMALL])
    env.reset(seed=0)
    needed = sum(env.unwrapped.memory().values()) / 2**30
    with pytest.raises(ValueError, match=f"max_memory={needed / 4:g}"):
        env = gym.make_vec(
            LEARNING_RATE, num_envs=60, groups=30, tasks=[large, SMALL],
            max_memory=needed / 4,
        )  # fmt: skip
        env.reset(seed=0)


def test_an_instance_that_is_too_large_is_refused() -> None:
    huge = Instance("mine", "train", 0, tasks.MLP(width=10**6, depth=2), seed=0)
    with pytest.raises(ValueError, match="the sizes of the task MLP"):
        gym.make(LEARNING_RATE, instances=[huge])
    env = gym.make(LEARNING_RATE, tasks=SMALL)
    with pytest.raises(ValueError, match="the sizes of the task MLP"):
        env.reset(seed=0, options={"instance": huge})


@pytest.mark.parametrize(
    "name", ["base_lr", "horizon", "max_memory", "max_work", "reparametrize", "spacing"]
)
def test_integers_that_no_float_can_hold_are_refused(name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} must "):
        gym.make(LEARNING_RATE, tasks=SMALL, **{name: 10**400})


def test_more_bytes_than_a_float_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PiB of memory.*lower count="):
        memory_limit.refuse_count("count", 10**400, "the things", 1)
