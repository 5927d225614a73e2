"""Tasks, rewards, features, actions and ids are added without editing the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import optenv
from optenv import actions, changes, registration, rewards, rules, tasks, telemetry
from optenv.telemetry import FEATURES, Control, History, Losses, Probe
from tests.helpers.small_runs import (
    QUADRATIC,
    assert_identical,
    assert_same,
    random_actions,
    rollout,
)

ID, TRIAL = "optenv/LearningRate-v0", "optenv/LearningRateTrial-v0"
SHORT: dict[str, Any] = {"tasks": QUADRATIC, "horizon": 4, "updates_per_step": 3}
GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test registers."""
    for module in (tasks, rewards, telemetry.registered, actions, rules, changes.request):
        monkeypatch.setattr(module, "_REGISTERED", dict(module._REGISTERED))
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


def play(env: Any, steps: int = 4, seed: int = 0) -> list[Any]:
    return rollout(env, random_actions(env.action_space, steps), seed=seed)


def check_both(**arguments: Any) -> Any:
    """Check the single environment, and that the vector environment equals it."""
    arguments = {**SHORT, "dtype": "float64", **arguments}
    single, batch = gym.make(ID, **arguments), gym.make_vec(ID, 3, **arguments)
    check_env(single.unwrapped, skip_render_check=True)
    trajectory = random_actions(batch.action_space, 4)
    together = rollout(batch, trajectory, seed=5)
    alone = rollout(single, [action[1] for action in trajectory], seed=6)
    for (first, *rest), (observation, *others) in zip(together, alone, strict=True):
        np.testing.assert_allclose(first[1], observation, rtol=1e-6, atol=1e-7)
        if len(rest) == 4:
            np.testing.assert_allclose(rest[0][1], others[0], rtol=1e-6, atol=1e-7)
    play(gym.make(TRIAL, **arguments, runs=2), steps=8)
    return batch


# Tasks


@dataclass(frozen=True)
class Mean(tasks.GeneratedTask):
    """Estimate the mean of numbers."""

    size: int = 3

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.size,),)

    def examples(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        total = self.num_train + self.num_validation
        numbers = rng.standard_normal((total, self.size), np.float32) + 2
        return numbers, np.zeros(total, np.float32)

    def init(self, generators: Any) -> Tensor:
        draws = [g.standard_normal(self.size, np.float32) for g in generators]
        return torch.from_numpy(np.stack(draws))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        return (inputs - params[0].unsqueeze(1)).square().mean((-2, -1))


def sample_mean(rng: np.random.Generator, split: str) -> Mean:
    return Mean(num_train=64, size=int(rng.choice({"train": (2, 4), "test": (3,)}[split])))


def test_a_task_object_from_outside_trains_in_both_environments() -> None:
    batch = check_both(tasks=Mean(num_train=64), rule="sgd", base_lr=0.1)
    assert (batch.groups[0][1].state.potential < -0.1).all()


@pytest.mark.parametrize(("inputs", "targets"), [(-1, -1), (1, 1), (0, 1)])
def test_examples_of_another_number_are_refused(inputs: int, targets: int) -> None:
    class Odd(Mean):
        def examples(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            total = self.num_train + self.num_validation
            numbers = np.zeros((total + inputs, self.size), np.float32)
            return numbers, np.zeros(total + targets, np.float32)

    task = Odd(num_train=64)
    with pytest.raises(ValueError, match=f"got {320 + inputs} and {320 + targets}"):
        gym.make_vec(ID, 2, tasks=task).reset()


def test_a_registered_family_is_drawn_by_name_and_split() -> None:
    tasks.register("mean", sample_mean)
    check_both(tasks="mean")
    for name, sizes in (("mean", {2, 4}), ("mean/test", {3})):
        env = gym.make_vec(ID, 12, groups=12, **{**SHORT, "tasks": name})
        env.reset(seed=0)
        assert {group.task.size for _, group in env.groups} == sizes


def test_a_registered_family_is_not_part_of_train_and_test() -> None:
    before = {split: tasks.make(split) for split in tasks.SPLITS}
    tasks.register("mean", sample_mean)
    assert {split: tasks.make(split) for split in tasks.SPLITS} == before
    assert tasks.make(["train", "mean"]).sources[-1] == ("mean", "train")


def test_a_family_that_returns_no_task_is_refused() -> None:
    tasks.register("nothing", lambda rng, split: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"'nothing' must return a Task, got None"):
        gym.make(ID, **{**SHORT, "tasks": "nothing"}).reset(seed=0)


def test_families_are_mixed_with_registered_ones_in_one_vector_environment() -> None:
    tasks.register("mean", sample_mean)
    env = gym.make_vec(ID, 12, groups=12, **{**SHORT, "tasks": ["mean", "few-shot/ood"]})
    env.reset(seed=0)
    kinds = [type(group.task).__name__ for _, group in env.groups]
    assert set(kinds) == {"Mean", "FewShot"}
    _, rewards, *_ = env.step(np.zeros((12, 1), np.float32))
    assert np.isfinite(rewards).all() and (rewards != 0).all()


def test_the_guides_function_and_noisy_task_equal_the_batched_ones() -> None:
    namespace: dict[str, Any] = {"__name__": "guide"}
    exec(compile(sections()["A task"], GUIDE.name, "exec", dont_inherit=True), namespace)
    batch = check_both(tasks=namespace["Rosenbrock"](), base_lr=0.01)
    x, y = (batch.groups[0][1].state.run.params).unbind(1)
    expected = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    torch.testing.assert_close(batch.groups[0][1].state.loss[:, 0], expected)
    check_both(tasks=namespace["NoisyInputs"](inputs=4, num_train=64))


# Rewards


def relative_loss(loss: Tensor, initial_loss: Tensor) -> Tensor:
    return (loss / initial_loss - 1).mean(-1)


@pytest.mark.parametrize("sources", [("train",), ("train", "validation")])
def test_returns_are_the_decrease_of_a_registered_potential(
    sources: tuple[str, ...],
) -> None:
    rewards.register("relative", rewards.Reward(sources, relative_loss, 20.0))
    batch = check_both(reward="relative")
    total = sum(step[1] for step in play(batch)[1:])
    state = batch.groups[0][1].state
    expected = -relative_loss(state.loss, state.initial_loss)
    np.testing.assert_allclose(total, expected, rtol=1e-9)
    assert state.loss.shape == (3, len(sources))


def test_diverged_runs_get_the_worst_of_a_registered_reward() -> None:
    rewards.register("relative", rewards.Reward(("train",), relative_loss, 20.0))
    arguments = {**SHORT, "rule": "sgd", "base_lr": (1e3, 1e9), "reward": "relative"}
    env = gym.make_vec(ID, 4, **arguments, on_divergence="absorb")
    total = sum(step[1] for step in play(env)[1:])
    np.testing.assert_allclose(total, -20.0, rtol=1e-6)


def test_rewards_of_the_package_are_log_progress() -> None:
    log = rewards.Reward(None, lambda a, b: rewards.log_progress(a, b).mean(-1))
    rewards.register("log", log)
    names = ("log", "log_loss")
    ours, theirs = (play(gym.make(ID, **SHORT, reward=name)) for name in names)
    assert_same(ours, theirs)


def test_a_registered_reward_pays_for_steps_by_cost_and_baseline() -> None:
    seen: list[rewards.Step] = []

    def pay(step: rewards.Step) -> Tensor:
        seen.append(step)
        return (step.before - step.after) / step.cost_after + step.ended * step.baseline

    mine = rewards.Reward(None, of_step=pay, needs_cost=True, needs_baseline=True)
    rewards.register("mine", mine)
    batch = check_both(reward="mine", objective="validation")
    seen.clear()
    paid = [step[1] for step in play(batch)[1:]]
    assert len(seen) == len(paid) == 4
    for reward, step in zip(paid, seen, strict=True):
        assert (step.cost_after > 1).all() and (step.baseline != 0).all()
        progress = (step.before - step.after) / step.cost_after
        np.testing.assert_allclose(reward, progress + step.ended * step.baseline)
    assert (seen[0].cost_before == 1).all() and seen[-1].ended.all()


# Features


def squared_progress(
    probe: Probe, losses: Losses, history: History, control: Control
) -> Tensor:
    assert control.progress is not None
    return control.progress**2


def window_number(
    probe: Probe, losses: Losses, history: History, control: Control
) -> Tensor:
    return history.windows


def test_registered_features_follow_those_of_the_package() -> None:
    telemetry.register_feature("squared_progress", squared_progress)
    telemetry.register_feature("window_number", window_number)
    names, width = ("window_number", "squared_progress"), len(FEATURES)
    batch = check_both(features=names)
    assert batch.single_observation_space.shape == (width + 2,)
    assert batch.describe()["features"] == [*FEATURES, *names]
    for i, (observation, *_) in enumerate(play(batch)):
        np.testing.assert_allclose(observation[:, width:], [[i, (i / 4) ** 2]] * 3)


def test_observations_that_do_not_ask_for_a_feature_stay_as_they_are() -> None:
    telemetry.register_feature("window_number", window_number)
    for env_id in (*registration.ENVIRONMENTS, *registration.TRIALS):
        plain, extended = (
            gym.make(env_id, **SHORT, features=names) for names in ((), ("window_number",))
        )
        for (before, *_), (after, *_) in zip(play(plain), play(extended), strict=True):
            assert len(before) == len(after) - 1
            np.testing.assert_array_equal(np.delete(after, len(FEATURES)), before)


def test_a_registered_feature_is_finite_and_bounded() -> None:
    def broken(probe: Probe, losses: Losses, history: History, control: Control) -> Tensor:
        late = torch.where(history.windows > 0, float("nan"), 5.0)[0].item()
        return torch.tensor([1e30, -float("inf"), late]).to(probe.grad_sq)

    telemetry.register_feature("broken", broken)
    env = gym.make_vec(ID, 3, **SHORT, features=("broken",))
    for observation, *_ in play(env):
        assert observation[:, -1].tolist() == [4, -4, 4]


def test_a_feature_that_is_nan_from_the_start_is_refused() -> None:
    telemetry.register_feature("ratio", lambda probe, *_: probe.step_sq / probe.step_sq)
    env = gym.make_vec(ID, 3, **SHORT, features=("ratio",))
    with pytest.raises(ValueError, match=r"'ratio' must return numbers, got NaN .* 3 of 3"):
        env.reset(seed=0)


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(3, 1), 1.0])
def test_a_feature_of_another_shape_is_refused(value: Any) -> None:
    telemetry.register_feature("wrong", lambda *_: value)
    env = gym.make_vec(ID, 3, **SHORT, features=("wrong",))
    with pytest.raises(ValueError, match=r"'wrong' must return a tensor of shape \(3,\)"):
        env.reset(seed=0)


# Actions


@dataclass(frozen=True)
class Halving(actions.Discrete):
    """Keep the learning rate, or halve it."""

    multipliers: tuple[float, ...] = (0.5, 1.0)
    kind: ClassVar[str] = "halving"


@dataclass(frozen=True)
class WithMomentum(actions.Continuous):
    """Two numbers: one moves the learning rate, one sets the momentum."""

    kind: ClassVar[str] = "with-momentum"
    sets: ClassVar[tuple[str, ...]] = ("momentum",)

    def space(self, dtype: Any = np.float32) -> gym.spaces.Box:
        return gym.spaces.Box(-1.0, 1.0, (2,), dtype)

    @property
    def outputs(self) -> int:
        return 2

    def encode(self, action: Tensor) -> Tensor:
        return action

    def shift(self, action: Tensor) -> Tensor:
        return super().shift(action[:, 0])

    def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
        return {"momentum": 0.45 * (action[:, 1] + 1)}


def test_a_registered_action_works_in_both_environments() -> None:
    actions.register(Halving)
    batch = check_both(action={"kind": "halving", "bound": 3.0})
    assert batch.single_action_space == gym.spaces.Discrete(2)
    action = batch.groups[0][1].action
    assert action == actions.make(action.to_dict()) == Halving(bound=3.0)
    batch.reset(seed=0)
    rates = [batch.step(np.array([0, 1, 0]))[-1]["lr"] for _ in range(3)]
    np.testing.assert_allclose(np.divide(*rates[1::-1]), [0.5, 1, 0.5])


def test_an_action_may_set_hyperparameters_of_each_run() -> None:
    actions.register(WithMomentum)
    check_both(action="with-momentum", rule="momentum")
    values = (0.1, 0.45, 0.9)
    env = gym.make_vec(ID, 3, **SHORT, action="with-momentum", rule="momentum")
    column = np.array(values) / 0.45 - 1
    controlled = [env.reset(seed=0)[0]]
    constant = np.stack([np.zeros(3), column], axis=1).astype(np.float32)
    controlled += [env.step(constant)[0] for _ in range(4)]
    for run, value in enumerate(values):
        rule = {"name": "momentum", "momentum": value}
        alone = gym.make(ID, **SHORT, rule=rule)
        fixed = [alone.reset(seed=run)[0]]
        fixed += [alone.step(np.zeros(1, np.float32))[0] for _ in range(4)]
        for ours, theirs in zip(controlled, fixed, strict=True):
            np.testing.assert_allclose(ours[run], theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "rule",
    ["momentum", "nesterov", "rmsprop", "adam", "nadam", "lion", "orthogonal-adam"],
)
def test_rules_take_hyperparameters_of_each_run(rule: str) -> None:
    h = rules.get(rule).hyperparameters

    @dataclass(frozen=True)
    class Constant(actions.Continuous):
        kind: ClassVar[str] = f"constant-{rule}"
        sets: ClassVar[tuple[str, ...]] = rules.get(rule).fields

        def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
            one = torch.ones_like(action[:, 0])
            return {name: getattr(h, name) * one for name in self.sets}

    actions.register(Constant)
    arguments = {**SHORT, "rule": rule, "dtype": "float64"}
    ours, theirs = (
        play(gym.make(ID, **arguments, action=kind))
        for kind in (Constant.kind, "continuous")
    )
    assert_same(ours, theirs, rtol=1e-6, atol=1e-9)


def test_an_action_that_sets_what_the_rule_lacks_is_refused() -> None:
    actions.register(WithMomentum)
    with pytest.raises(ValueError, match=r"sets momentum; the hyperparameters of rule 'ad"):
        gym.make(ID, action="with-momentum", rule="adam")


def test_a_decision_has_the_log_multiplier_and_its_shift() -> None:
    log_multiplier = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64)
    for action in (actions.Continuous(bound=0.6), actions.Discrete(bound=0.6)):
        batch = torch.tensor([0, 1, 0])
        decision = action.decode(batch, log_multiplier)
        assert_identical(decision.log_multiplier, action.apply(batch, log_multiplier))
        assert_identical(decision.shift, action.shift(batch).double())
        assert decision.rule is None and decision.hyperparameters == {}
    choice = actions.RuleChoice(rules=("lion", "sgd"))
    decision = choice.decode(torch.tensor([0, 3, 5]), log_multiplier)
    names = [rules.switching.NAMES[i] for i in decision.rule.tolist()]
    assert names == ["lion", "sgd", "sgd"]


# Ids


def test_a_registered_id_makes_both_environments() -> None:
    registration.register("mine/Short-v0", **SHORT, rule="sgd")
    registration.register("mine/ShortTrial-v0", trials=True, **SHORT, runs=2)
    env = gym.make("mine/Short-v0", horizon=3)
    assert isinstance(env.unwrapped, optenv.LearningRateEnv)
    assert len(play(env)) == 4
    batch = gym.make_vec("mine/ShortTrial-v0", num_envs=3)
    assert isinstance(batch, optenv.TrialVectorEnv) and batch.runs == 2
    play(batch)


# Mistakes


@dataclass(frozen=True)
class Empty(actions.Action):
    kind: ClassVar[str] = "empty"


class Bare(actions.Discrete):
    multipliers = (0.5, 1.0)
    kind = "bare"


@dataclass(frozen=True)
class OneName(WithMomentum):
    kind: ClassVar[str] = "one-name"
    sets: ClassVar[Any] = "momentum"


@pytest.mark.parametrize(
    ("register", "arguments", "error", "says"),
    [
        (tasks.register, ("digits", sample_mean), ValueError, "'digits' already; taken: q"),
        (tasks.register, ("train", sample_mean), ValueError, "'train' already"),
        (tasks.register, ("a/b", sample_mean), ValueError, "a slash, got 'a/b'"),
        (tasks.register, ("", sample_mean), ValueError, "must not be empty"),
        (tasks.register, (3, sample_mean), TypeError, "must be a string, got 3"),
        (tasks.register, ("mean", Mean()), TypeError, r"\(rng, split\) -> Task, got Mean"),
        (rewards.register, ("time", rewards.REWARDS["time"]), ValueError, "'time' already"),
        (
            rewards.register,
            ("mine", relative_loss),
            TypeError,
            "optenv.rewards.Reward, got",
        ),
        (rewards.Reward, (("test",),), ValueError, r"train, validation, got \('test',\)"),
        (rewards.Reward, ((),), ValueError, r"got \(\)"),
        (rewards.Reward, (("train",), 3), TypeError, "a function or None, got 3"),
        (rewards.Reward, (("train",), None, "2"), TypeError, "a number, got '2'"),
        (rewards.Reward, (("train",), None, float("nan")), ValueError, "finite, got nan"),
        (
            rewards.Reward,
            (("train", "train"),),
            ValueError,
            "each at most once, of ",
        ),
        (rewards.Reward, ("train",), ValueError, "a tuple, each .*, got 'train'"),
        (rewards.Reward, (None, None, 5.0, 3), TypeError, "of_step must be a .*, got 3"),
        (rewards.Reward, (None, None, 5.0, None, 1), TypeError, "needs_cost .*, got 1"),
        (
            rewards.register,
            ("mine", rewards.Reward(of_step=lambda step: step.after.sum())),
            ValueError,
            r"of_step .* of shape \(3,\), got shape \(\)",
        ),
        (
            rewards.register,
            ("mine", rewards.Reward(of_step=lambda step: step.before.log())),
            ValueError,
            r"of_step .* must return finite numbers, got \[-inf, -inf, -inf\] for",
        ),
        (telemetry.register_feature, ("progress", len), ValueError, "'progress' already"),
        (telemetry.register_feature, ("mine", 3), TypeError, "must be a function, got 3"),
        (actions.register, (actions.Continuous,), ValueError, "'continuous' already"),
        (actions.register, (dict,), TypeError, "a dataclass and an Action, got <class"),
        (actions.register, (actions.Action,), TypeError, "must be a string, got None"),
        (actions.register, (Empty,), TypeError, "'empty' needs definitions of space, outp"),
        (actions.register, (Bare,), TypeError, "'bare' changes multipliers without being"),
        (actions.register, (OneName,), TypeError, "sets .* tuple of names, got 'momentum'"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(
    register: Any, arguments: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        register(*arguments)


@pytest.mark.parametrize(
    ("potential", "says"),
    [
        (lambda loss, first: (loss / first - 1).mean(), r"of shape \(3,\), got shape \(\)"),
        (lambda loss, first: loss / first - 1, r"got shape \(3, 1\)"),
        (lambda loss, first: 0.0, r"got 0\.0"),
        (lambda loss, first: (loss / first).mean(-1), r"must be 0 .*, got \[1\.0, 1\.0, 1"),
        (lambda loss, first: (loss - first).log().mean(-1), "must be finite, got"),
    ],
)
def test_a_potential_that_is_not_one_number_of_each_run_is_refused(
    potential: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        rewards.register("mine", rewards.Reward(("train",), potential))
    with pytest.raises(ValueError, match="unknown reward 'mine'"):
        rewards.get("mine")


def test_a_potential_that_becomes_nan_in_a_run_is_refused() -> None:
    def root(loss: Tensor, initial_loss: Tensor) -> Tensor:
        return (loss / initial_loss - 1).sqrt().mean(-1)

    rewards.register("root", rewards.Reward(("train",), root))
    env = gym.make(ID, **SHORT, reward="root", rule="sgd", base_lr=0.01)
    with pytest.raises(ValueError, match=r"must be finite, got \[nan\] for losses"):
        play(env)


@pytest.mark.parametrize(
    ("method", "result", "says"),
    [
        (
            "loss",
            torch.tensor(1.0),
            r"loss of Mean .* of shape \(3,\), got shape \(\)",
        ),
        ("loss", 1.0, r"of shape \(3,\), got 1\.0"),
        ("init", torch.zeros(3, 2), r"init of the Mean task .* \(3, 3\), .* got \(3, 2\)"),
        ("init", np.zeros((3, 3)), r"return a tensor of .* \(3, 3\), .*, got ndarray"),
        ("init", torch.full((3, 3), float("nan")), "initial parameters of the Mean task"),
    ],
)
def test_a_task_of_other_shapes_is_refused_at_the_first_reset(
    method: str, result: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mean, method, lambda self, *arguments: result)
    env = gym.make_vec(ID, 3, **{**SHORT, "tasks": Mean(num_train=64)})
    with pytest.raises(ValueError, match=says):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"shift": lambda self, a: a[:, :1]}, r"shift .* shape \(3,\), got shape \(3, 1\)"),
        ({"hyperparameters": lambda self, a: {}}, r"in sets, \['momentum'\], got \[\]"),
        (
            {"hyperparameters": lambda self, a: {"momentum": a[:, 1:]}},
            r"'momentum' of .* of shape \(3,\), got \(3, 1\)",
        ),
        (
            {"shift": lambda self, a: a[:, 0] * torch.inf},
            "shift of action 'with-momentum' must be finite, got ",
        ),
        (
            {"hyperparameters": lambda self, a: {"momentum": a[:, 1] * torch.nan}},
            r"momentum of action 'with-momentum' must be finite, got \[nan, nan, nan\]",
        ),
    ],
)
def test_an_action_decoded_to_what_it_must_not_be_is_refused(
    changed: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, method in changed.items():
        monkeypatch.setattr(WithMomentum, name, method)
    actions.register(WithMomentum)
    env = gym.make_vec(ID, 3, **SHORT, action="with-momentum", rule="momentum")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=says):
        env.step(env.action_space.sample())


def test_an_id_with_unknown_arguments_is_refused_at_once() -> None:
    says = "unexpected keyword argument 'horizn'; did you mean 'horizon'"
    for trials in (False, True):
        with pytest.raises(TypeError, match=says):
            registration.register("mine/Wrong-v0", trials=trials, horizn=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'runs'"):
        registration.register("mine/Wrong-v0", runs=3)
    with pytest.raises(TypeError, match="trials must be True or False, got 1"):
        registration.register("mine/Wrong-v0", trials=1)  # type: ignore[arg-type]
    for name, value in (("num_envs", 3), ("autoreset_mode", "Disabled"), ("groups", 2)):
        with pytest.raises(TypeError, match=f"{name} is chosen where .*, got {value!r}"):
            registration.register("mine/Wrong-v0", **{name: value})
    assert "mine/Wrong-v0" not in gym.registry


def test_a_name_can_be_registered_only_once() -> None:
    actions.register(Halving)
    tasks.register("mean", sample_mean)
    telemetry.register_feature("window_number", window_number)
    with pytest.raises(ValueError, match="'halving' already"):
        actions.register(Halving)
    with pytest.raises(ValueError, match="'mean' already"):
        tasks.register("mean", sample_mean)
    with pytest.raises(ValueError, match="'window_number' already"):
        telemetry.register_feature("window_number", window_number)
    with pytest.raises(ValueError, match=f"'{ID}' already; the ids of optenv: {ID}"):
        registration.register(ID)
    with pytest.raises(TypeError, match="must be a string, got 3"):
        registration.register(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (("window_numbr",), ValueError, "'window_numbr'; did you mean 'window_number'"),
        (("progress",), ValueError, "those of the package are always observed"),
        (("window_number",) * 2, ValueError, "must differ from each other"),
        ("window_number", TypeError, "a tuple of names, got 'window_number'"),
        ((3,), TypeError, r"a tuple of names, got \(3,\)"),
    ],
)
def test_features_that_are_not_registered_are_refused(
    names: Any, error: type[Exception], says: str
) -> None:
    telemetry.register_feature("window_number", window_number)
    for make in (gym.make, gym.make_vec):
        with pytest.raises(error, match=says):
            make(ID, features=names)


# The guide


def sections() -> dict[str, str]:
    """Python code of the guide by heading of the section."""
    _, *parts = re.split(r"^## ", GUIDE.read_text(), flags=re.MULTILINE)
    blocks = {
        part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL)
        for part in parts
    }
    return {heading: "\n".join(found) for heading, found in blocks.items() if found}


@pytest.mark.parametrize("heading", sections())
def test_the_blocks_of_the_guide_run(
    heading: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    name = f"{GUIDE.name}: {heading}"
    code = compile(sections()[heading], name, "exec", dont_inherit=True)
    exec(code, namespace)
    for value in namespace.values():
        if isinstance(value, (gym.Env, gym.vector.VectorEnv)):
            play(value, steps=2)


def test_the_guide_has_a_recipe_for_everything_that_can_be_registered() -> None:
    headings = ["A task", "A reward", "A feature", "An action", "An environment id"]
    assert set(headings) <= set(sections())
