"""States from elsewhere: each entry is checked before any is taken."""

from __future__ import annotations

import copy
import functools
import math
import random
import warnings

import pytest
import torch
from torch import Tensor, nn

from agents import LearnedLR, LearnedOptimizer
from agents.optim.clock import CLOCK
from agents.optim.state_checks import ADDED
from optenv.telemetry import observed_features
from tests.helpers.damage import ODD_VALUES, measured, paths, replaced
from tests.helpers.policies import random_policy, switching_policy

STEPS, DONE = 20, 9

POLICIES = {
    "adam": random_policy,
    "momentum": lambda: random_policy("momentum"),
    "nadam": lambda: random_policy("nadam"),
    "rmsprop": lambda: random_policy("rmsprop", memory=2),
    "orthogonal": lambda: random_policy(
        {"name": "orthogonal-adam", "power": 0.9, "refresh": 2}
    ),
    "discrete": lambda: random_policy("lion", {"kind": "discrete"}),
    "switching": switching_policy,
    "anytime": lambda: random_policy(anytime=True),
    "invariant": lambda: random_policy(features=list(observed_features("invariant"))),
    "hyperparameters": lambda: random_policy(action={"kind": "hyperparameters"}),
    "roles": lambda: random_policy(action={"kind": "roles"}),
    "layerwise": lambda: random_policy(action={"kind": "layerwise"}),
    "layerwise-trials": lambda: random_policy(action={"kind": "layerwise"}, memory=2),
}


#: Policies whose actions set more than a learning rate or a rule.
BESIDE = ("hyperparameters", "roles")


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@functools.cache
def policy_of(name):
    """Return the policy of a name, which is made once: no run changes it."""
    return POLICIES[name.removeprefix("scheduler-")]()


class Run:
    """A learned optimizer, or a scheduler of an optimizer of torch, on two parameters."""

    def __init__(self, name):
        self.params = parameters()
        policy = policy_of(name)
        total = None if policy.anytime else STEPS
        if name.startswith("scheduler-"):
            self.optimizer = torch.optim.Adam(self.params, lr=1e-3)
            self.loaded = LearnedLR(self.optimizer, total, policy)
        else:
            groups = self.params
            if policy.action.roles:
                roles = zip(self.params, ("matrices", "vectors"), strict=True)
                groups = [{"params": [p], "name": role} for p, role in roles]
            self.optimizer = self.loaded = LearnedOptimizer(
                groups, policy, total_steps=total, rollback=name == "adam"
            )

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = sum((p - 1.0).square().mean() for p in self.params)
            loss.backward()
            if self.loaded is self.optimizer:
                self.optimizer.step(loss=loss)
            else:
                self.optimizer.step()
                self.loaded.step(loss)
        assert all(p.isfinite().all() for p in self.params)
        str(self.loaded.explain())


NAMES = [*POLICIES, "scheduler-adam", "scheduler-anytime"]


@pytest.fixture(scope="module")
def states():
    found = {}
    for name in NAMES:
        run = Run(name)
        run.train(DONE)
        found[name] = copy.deepcopy(run.loaded.state_dict())
    return found


def holder(name, state):
    """Return the path of the controller in a state dictionary."""
    return ("controller",) if "controller" in state else ("param_groups", 0, "controller")


def part_at(state, path):
    for key in path:
        state = state[key]
    return state


@pytest.mark.parametrize("name", NAMES)
def test_a_state_without_damage_loads_and_trains(states, name):
    run = Run(name)
    run.loaded.load_state_dict(copy.deepcopy(states[name]))
    run.train(6)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_entry_is_named_and_nothing_is_taken(states, name):
    run, path = Run(name), holder(name, states[name])
    before = copy.deepcopy(run.loaded.state_dict())
    for key in part_at(states[name], path):
        if key in ("memory", "policy", *CLOCK, *ADDED):
            continue  # other messages, or entries that version 0.1 did not have
        if key in ("settings", "role_multipliers") and name not in BESIDE:
            continue  # likewise, where the policy sets a learning rate or a rule alone
        bad = replaced(states[name], (*path, key), None)
        with pytest.raises(ValueError, match=key):
            run.loaded.load_state_dict(bad)
    after = run.loaded.state_dict()
    assert list(paths(after)) == list(paths(before))
    for place in paths(before):
        mine, theirs = part_at(after, place), part_at(before, place)
        if isinstance(mine, Tensor):
            assert torch.equal(mine, theirs), place
        elif not isinstance(mine, (dict, list)):
            assert mine == theirs, place
    run.train(2)


BAD_ENTRIES = {
    "steps": [-1, 1.5, None, "9", True, 10**30],
    "total_steps": [0, -3, None, 2.5, "20", 10**400],
    "schedule": ["never", 3, ["auto"]],
    "warmup_steps": [-1, None, 0.5],
    "origin": [(0,), (30, 0.5), (0, 2.0), (0, math.nan), None, 3, (-1, 0.0)],
    "fall": [(3, 3, 1.0), (3, 2, 1.0), (30, 40, 1.0), (3, 9, 5.0), 1, (1, 2)],
    "mean_square": [-1.0, math.nan, math.inf, None],
    "early_peak": [-1.0, math.nan, math.inf, None],
    "loss_shift": [math.nan, -math.inf, "1"],
    "probing": [None, 2, "yes"],
    "log_multiplier": [
        0.0, torch.zeros(2), torch.full((1,), 4.0), torch.tensor([math.nan]),
        torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float16),
    ],
    "highest": [torch.full((1,), 99.0), torch.zeros(1, dtype=torch.float64), None],
    "chosen": [0, -2, 100, None],
    "scale": [-1.0, 1e300, math.nan, "1"],
    "new_run": [2.0, None, math.nan],
    "memory": [torch.zeros(1, 1, 2, 3), None, torch.zeros(1)],
    "losses": [None, {}, {"seen": -1.0, "mean": 0.0, "deviation": 0.0}, [1, 2, 3]],
    "history": [None, {}, 3],
    "trace": [torch.zeros(20, 27), torch.zeros(0, 28), torch.full((20, 28), 99.0), None],
}  # fmt: skip


@pytest.mark.parametrize("key", BAD_ENTRIES)
def test_a_bad_entry_of_the_controller_is_quoted(states, key):
    for name in ("adam", "scheduler-adam"):
        run = Run(name)
        for value in BAD_ENTRIES[key]:
            path = (*holder(name, states[name]), key)
            bad = replaced(states[name], path, lambda _, value=value: value)
            with pytest.raises(ValueError, match=f"controller: {key}.* must be|has no"):
                run.loaded.load_state_dict(bad)
        run.train(1)


#: By policy and key: what the actions of the policy set, and values that none can have.
BAD_SETTINGS = {
    ("hyperparameters", "settings"): [
        torch.zeros(1, 4), torch.zeros(1, 5).double(), torch.full((1, 5), math.nan), None,
        torch.tensor([[1.5, 0.999, 0.01, 3.0, 0.0]]),  # beta1
        torch.tensor([[0.9, -0.1, 0.01, 3.0, 0.0]]),  # beta2
        torch.tensor([[0.9, 0.999, -1.0, 3.0, 0.0]]),  # weight decay
        torch.tensor([[0.9, 0.999, 0.01, 1e9, 0.0]]),  # threshold of clipping
        torch.tensor([[0.9, 0.999, 0.01, 3.0, 1.1]]),  # exponent of the average
    ],
    ("hyperparameters", "grad_mean_square"): [-1.0, math.nan, math.inf, None, "1"],
    ("hyperparameters", "role_multipliers"): [torch.zeros(1, 4), None, 0.0],
    ("roles", "role_multipliers"): [
        torch.zeros(1, 3), torch.zeros(4), torch.full((1, 4), 3.1), None, [0.0] * 4,
        torch.full((1, 4), math.nan), torch.zeros(1, 4, dtype=torch.int64),
    ],
    ("roles", "settings"): [torch.zeros(1, 1), None],
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), BAD_SETTINGS)
def test_a_bad_entry_of_what_actions_set_is_named(states, name, key):
    run = Run(name)
    for value in BAD_SETTINGS[name, key]:
        path = (*holder(name, states[name]), key)
        bad = replaced(states[name], path, lambda _, value=value: value)
        with pytest.raises(ValueError, match=f"controller: {key}.* must be"):
            run.loaded.load_state_dict(bad)
    run.train(1)


@pytest.mark.parametrize("value", [None, lambda _: "heads"], ids=["missing", "unknown"])
def test_a_saved_group_without_a_role_is_refused(states, value):
    run = Run("roles")
    bad = replaced(states["roles"], ("param_groups", 1, "name"), value)
    with pytest.raises(ValueError, match=r"param_groups\[1\]: .* must be named matrices, "):
        run.loaded.load_state_dict(bad)
    run.train(1)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(4, 3), torch.zeros(3, 4).double(), torch.full((3, 4), math.inf), 1.0],
    ids=["shape", "dtype", "infinite", "number"],
)
def test_a_bad_average_of_a_parameter_is_named(states, value):
    run = Run("hyperparameters")
    bad = replaced(states["hyperparameters"], ("state", 0, "average"), lambda _: value)
    with pytest.raises(ValueError, match=r"state\[0\]: average must"):
        run.loaded.load_state_dict(bad)
    run.train(1)


def test_an_average_that_is_missing_or_not_the_policys_is_refused(states):
    missing = replaced(states["hyperparameters"], ("state", 0, "average"), None)
    with pytest.raises(ValueError, match=r"state\[0\] has .* but no \['average'\]"):
        Run("hyperparameters").loaded.load_state_dict(missing)
    foreign = copy.deepcopy(states["roles"])
    foreign["state"][0]["average"] = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"state\[0\] must be entries .*got \['average'\]"):
        Run("roles").loaded.load_state_dict(foreign)


BAD_SLOTS = {
    "exp_avg": [torch.zeros(4, 3), torch.full((3, 4), math.nan), 1.0, None,
                torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4).double(),
                torch.full((3, 4), 1e38)],
    "exp_avg_sq": [torch.full((3, 4), -1.0), torch.full((3, 4), math.inf)],
    "step": [torch.tensor(-1.0), torch.zeros(2), torch.tensor(math.nan), "3",
             torch.tensor(0.5)],
    "last_grad": [torch.zeros(3), None],
    "last_step": [torch.zeros(3, 4, dtype=torch.int32)],
    "watched": [torch.tensor(2.0), None],
    "good_param": [torch.zeros(3, 3), torch.full((3, 4), math.nan)],
}  # fmt: skip


@pytest.mark.parametrize("key", BAD_SLOTS)
def test_a_bad_entry_of_a_parameter_is_named(states, key):
    run = Run("adam")
    for value in BAD_SLOTS[key]:
        bad = replaced(states["adam"], ("state", 0, key), lambda _, value=value: value)
        with pytest.raises(ValueError, match=rf"state\[0\]: {key}"):
            run.loaded.load_state_dict(bad)
    run.train(1)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("state", 7), {}, r"state must be of the 2 parameters .*got \[7\]"),
        (("state", 0, "momentum_buffer"), torch.zeros(3, 4), r"state\[0\] must be entries"),
        (("param_groups", 0, "lr"), "high", r"param_groups\[0\]: lr must be a number"),
        (("param_groups", 0, "lr"), math.nan, r"param_groups\[0\]: lr must be at least 0"),
        (("param_groups", 0, "effective_lr"), None, r"param_groups\[0\]: effective_lr"),
        (("param_groups", 0, "params"), None, r"param_groups\[0\]: params must be"),
        (("param_groups",), {}, "must have a dictionary 'state' and a list"),
        (("param_groups", 0), 3, r"param_groups\[0\] must be a dictionary: 3"),
        (("state",), None, "must have a dictionary 'state'"),
    ],
)
def test_a_state_of_another_structure_is_refused(states, path, value, says):
    bad = copy.deepcopy(states["adam"])
    inner = bad
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    run = Run("adam")
    with pytest.raises(ValueError, match=says):
        run.loaded.load_state_dict(bad)
    run.train(1)


def test_a_state_without_one_of_its_slots_is_refused(states):
    bad = replaced(states["adam"], ("state", 1, "exp_avg_sq"), None)
    with pytest.raises(ValueError, match=r"state\[1\] has .* but no \['exp_avg_sq'\]"):
        Run("adam").loaded.load_state_dict(bad)


# Random damage.


def damage(generator, part):
    """Return a damaged copy of a part of a state."""
    if not isinstance(part, Tensor):
        return generator.choice(ODD_VALUES)
    kind = generator.randrange(7)
    if kind == 0:
        return part.flatten()[:-1]
    if kind == 1:
        return part.to(generator.choice([torch.float16, torch.float64, torch.int64]))
    if kind == 2:
        return part * generator.choice([-1.0, 1e3, 1e19, 1e30, 1e300])
    if kind == 3:
        return part[None]
    if kind == 4:
        return generator.choice(ODD_VALUES)
    part = part.clone().reshape(-1)
    if part.numel():
        value = generator.choice([math.nan, math.inf, -1.0, 0.0, 2.0, 1e38])
        part[generator.randrange(part.numel())] = value
    return part


def reshaped(generator, part):
    damaged = damage(generator, part)
    same = isinstance(damaged, Tensor) and isinstance(part, Tensor)
    if same and damaged.dim() == 1 and damaged.numel() == part.numel():
        return damaged.reshape(part.shape)
    return damaged


def check_damage(states, count, seed):
    """Load damaged states, and count those that load."""
    generator, loaded = random.Random(seed), 0
    places = {name: list(paths(states[name]))[1:] for name in NAMES}
    for i in range(count):
        name = NAMES[i % len(NAMES)]
        path = generator.choice(places[name])
        leave_out = generator.random() < 0.1
        change = None if leave_out else lambda part: reshaped(generator, part)
        bad = replaced(states[name], path, change)
        run = Run(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of another length
                run.loaded.load_state_dict(bad)
        except ValueError as error:
            assert len(str(error)) < 3000
            continue
        loaded += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of skipped steps, and ends of runs
            try:
                run.train(3)
            except Exception as error:
                raise AssertionError(f"{name}, {path}, {seed}, {i}") from error
    return loaded


@pytest.mark.parametrize("seed", range(6))
def test_damaged_states_are_refused_or_train(states, seed):
    assert check_damage(states, 60, seed) > 0


@pytest.mark.slow
def test_ten_thousand_damaged_states_are_refused_or_train(states):
    with measured(seconds=900.0, mebibytes=512):
        loaded = check_damage(states, 10_000, 100)
    print(f"{loaded} of 10,000 damaged states loaded and trained")
