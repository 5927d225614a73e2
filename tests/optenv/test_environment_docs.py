"""Docstrings of the environments are complete, and true of the environments."""

from __future__ import annotations

import doctest
import inspect
import re
from dataclasses import fields
from typing import Any

import gymnasium as gym
import pytest
import torch

import optenv
from optenv import actions, rules
from optenv.group import IDENTITY
from optenv.roles import ROLES
from optenv.rules import switching
from optenv.settings import Settings
from tests.helpers.small_runs import QUADRATIC, neutral_action, rollout

SINGLE = {optenv.LearningRateEnv: optenv.ENVIRONMENTS, optenv.TrialEnv: optenv.TRIALS}
VECTOR = {
    optenv.LearningRateVectorEnv: optenv.ENVIRONMENTS,
    optenv.TrialVectorEnv: optenv.TRIALS,
}
CLASSES: dict[Any, dict[str, Any]] = {**SINGLE, **VECTOR}
SECTIONS = [
    "Description", "Action Space", "Observation Space", "Rewards", "Starting State",
    "Episode End", "Info", "Arguments", "Version History",
]  # fmt: skip
SHORT: dict[str, Any] = {"tasks": QUADRATIC, "horizon": 2, "updates_per_step": 2}

#: One id for each control and kind of episode; those of families differ in tasks alone.
IDS = [*optenv.ENVIRONMENTS, *optenv.TRIALS]

every_class = pytest.mark.parametrize("cls", CLASSES)


def sections(cls: Any) -> dict[str, str]:
    """Text of a class docstring by heading."""
    _, *parts = re.split(r"^## ", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def table(text: str) -> dict[str, list[str]]:
    """Rows of all tables of a text by their first cell, without code marks."""
    rows = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]
    return {first: rest for first, *rest in cells}


def text_of(space: gym.Space[Any]) -> str:
    """A space as the docstrings write it."""
    if isinstance(space, gym.spaces.Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, gym.spaces.MultiDiscrete):
        return f"MultiDiscrete([{space.nvec[0]}, ..., {space.nvec[0]}])"
    shape = f"({', '.join(map(str, space.shape))}{',' * (len(space.shape) == 1)})"
    return f"Box({space.low.min():g}, {space.high.max():g}, {shape})"


@every_class
def test_docstrings_have_the_sections_of_gymnasium(cls: Any) -> None:
    assert [name for name in sections(cls) if name in SECTIONS] == SECTIONS
    assert all(text.strip() for text in sections(cls).values())


@pytest.mark.parametrize("env_id", IDS)
def test_docstrings_list_the_spaces_of_every_id(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    batch = gym.make_vec(env_id, 5).unwrapped
    for made in (env, batch):
        documented = sections(type(made))
        for name, space in (
            ("Action Space", made.action_space),
            ("Observation Space", made.observation_space),
        ):
            expected = text_of(space).replace("(5, ", "(num_envs, ")
            assert table(documented[name])[env_id][0] == expected


@every_class
def test_docstrings_are_about_the_ids_of_their_class(cls: Any) -> None:
    named = set(re.findall(r"optenv/\w+-v\d", sections(cls)["Action Space"]))
    assert named >= set(CLASSES[cls])
    for section in ("Action Space", "Observation Space"):
        rows = [row for row in table(sections(cls)[section]) if row.startswith("optenv/")]
        assert rows == list(CLASSES[cls])


def test_the_table_of_arguments_has_all_with_their_defaults() -> None:
    rows = table(sections(optenv.LearningRateEnv)["Arguments"])
    defaults = {field.name: repr(field.default) for field in fields(Settings)}
    defaults |= {"action": "of the id", "render_mode": "None"}
    documented = {name: row[0].replace('"', "'") for name, row in rows.items()}
    assert {name: documented.get(name) for name in defaults} == defaults
    assert set(documented) == {*defaults, "Argument", "-" * 10}


@pytest.mark.parametrize("cls", [*VECTOR, optenv.TrialEnv])
def test_the_tables_of_further_arguments_have_their_defaults(cls: Any) -> None:
    made = cls if cls in VECTOR else cls.vector_class
    parameters = inspect.signature(made.__init__).parameters
    rows = table(sections(cls)["Arguments"])
    for name, row in rows.items():
        if name in parameters:
            default = parameters[name].default
            expected = getattr(default, "name", repr(default).replace("'", '"'))
            assert row[0].replace("'", '"') == expected
    own = {"LearningRateVectorEnv": 5, "TrialVectorEnv": 2, "TrialEnv": 2}
    assert len(parameters.keys() & rows.keys()) == own[cls.__name__]


@pytest.mark.parametrize("env_id", IDS)
def test_the_tables_of_info_keys_are_complete(env_id: str) -> None:
    single = gym.make(env_id, **SHORT).unwrapped
    batch = gym.make_vec(env_id, 2, **SHORT).unwrapped
    for env in (single, batch):
        rows = table(sections(type(env))["Info"])
        if env_id in optenv.TRIALS:
            base = next(cls for cls in type(env).__mro__[1:] if cls in CLASSES)
            rows |= table(sections(base)["Info"])
        steps = rollout(env, [neutral_action(env)] * 2, seed=0)
        infos = [steps[0][1], *(step[4] for step in steps[1:])]
        keys = {key for info in infos for key in info if not key.startswith("_")}
        documented = {row for row in rows if row.islower()}
        named = {row: re.findall(r"(optenv/\w+)-v0", rows[row][-1]) for row in documented}
        own = {row for row, ids in named.items() if ids and ids[0] not in env_id}
        assert documented - own == keys
        assert set(infos[0]) - {f"_{key}" for key in keys} == set(IDENTITY)


def test_the_table_of_update_rules_is_in_their_order() -> None:
    rows = table(sections(optenv.LearningRateEnv)["Action Space"])
    assert tuple(name.strip("`") for name in rows["rule"]) == switching.NAMES
    assert list(map(int, rows["a // 3"])) == list(range(len(switching.NAMES)))


def test_the_table_of_hyperparameters_has_their_values() -> None:
    text = sections(optenv.LearningRateEnv)["Action Space"].partition("| Number | Role |")
    rows = table(text[0])
    action = actions.Hyperparameters().for_rule(rules.get("adam"))
    given = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    batch = given[:, None].expand(3, action.outputs)
    values = {"learning_rate": action.shift(batch), **action.hyperparameters(batch)}
    for number, name in enumerate(action.names or ()):
        documented, _, *shown = rows[str(number)]
        assert documented == name
        assert list(map(float, shown)) == pytest.approx(values[name].tolist())
    assert len([key for key in rows if key.isdigit()]) == action.outputs


def test_the_table_of_roles_is_in_their_order() -> None:
    text = sections(optenv.LearningRateEnv)["Action Space"].partition("| Number | Role |")
    rows = table(text[2])
    assert [rows[str(number)][0] for number in range(len(ROLES))] == list(ROLES)


@every_class
def test_the_examples_of_the_docstrings_run(cls: Any) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(cls, globs={})
    if cls is optenv.TrialVectorEnv:
        assert not example.examples
        return
    assert len(example.examples) >= 5
    assert doctest.DocTestRunner().run(example).failed == 0
