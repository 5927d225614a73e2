"""The description of a policy: its entries, their order, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from agents import SHIPPED, Policy, load_policy
from agents.policy import PolicySpec, save_policy
from agents.policy.ensemble import average
from optenv.settings import make
from optenv.telemetry import FEATURES, LOSS_FEATURES
from tests.helpers.policies import random_policy

DESCRIPTIONS = {
    name: json.loads(path.with_suffix(".json").read_text())
    for name, path in SHIPPED.items()
}


@pytest.mark.parametrize("name", list(SHIPPED))
def test_a_shipped_description_is_written_as_it_was_read(name):
    written = PolicySpec.from_json(DESCRIPTIONS[name]).to_json()
    assert [*written.items()] == [*DESCRIPTIONS[name].items()]


@pytest.mark.parametrize("name", list(SHIPPED))
def test_a_shipped_policy_has_as_many_weights_as_its_spec_counts(name):
    policy = load_policy(name)
    assert policy.spec.num_weights == sum(p.numel() for p in policy.parameters())


def test_entries_that_are_unknown_are_kept(tmp_path):
    policy = random_policy(note="of a user", horizon=7)
    assert policy.spec.to_json()["note"] == "of a user"
    merged = PolicySpec.merge([policy.spec, policy.spec])
    assert merged.to_json()["note"] == "of a user" and merged.horizon == 7
    path = save_policy(policy, tmp_path / "policy")
    assert load_policy(path).description["note"] == "of a user"


def test_a_change_of_a_spec_keeps_the_other_entries_and_their_order():
    spec = PolicySpec.from_json(DESCRIPTIONS["adam"])
    changed = replace(spec, horizon=7, memory=0, seeds=[1, 2]).to_json()
    expected = {**DESCRIPTIONS["adam"], "horizon": 7, "seeds": [1, 2]}
    assert [*changed.items()] == [*expected.items()]
    with pytest.raises(FrozenInstanceError):
        spec.horizon = 7


def test_optional_entries_are_left_out_at_their_defaults():
    required = {
        "feature_version": 2, "features": ["progress"], "action": {"kind": "discrete"},
        "rule": "adam", "horizon": 3, "spacing": 1.0, "total_updates": [3, 3],
        "activation": "relu", "layers": [1, 7],
    }  # fmt: skip
    assert PolicySpec(**required).to_json() == required
    assert PolicySpec(**required, anytime=True).to_json() == {**required, "anytime": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": None}, r"'layers' is None; required: feature_version, features"),
        ({"horizon": True}, "'horizon' is True; required"),
        ({"anytime": None}, "anytime must be True or False"),
        ({"memory": -1}, "memory must be an integer, at least 0, at most 4096, got -1"),
        ({"memory": 3}, r"do not lead from 31 inputs to 1 outputs"),
    ],
)
def test_an_entry_that_is_not_valid_is_quoted(changes, message):
    description = random_policy().description
    with pytest.raises(ValueError, match=message):
        PolicySpec.from_json({**description, **changes})
    with pytest.raises(ValueError, match=message):
        replace(PolicySpec.from_json(description), **changes)


def test_the_input_is_what_an_environment_shows():
    settings = make({"loss_dropout": 1.0, "action": "continuous"}).describe()
    spec = PolicySpec.from_environment(settings, hidden=[5], algorithm="X", seed=3)
    blank = len(FEATURES) - len(LOSS_FEATURES)
    assert spec.layers == [blank, 5, 1] and not spec.sees_loss
    assert (spec.algorithm, spec.seed, spec.activation) == ("X", 3, "tanh")
    trial = PolicySpec.from_environment(settings, hidden=[], memory=4, activation="relu")
    # The encoding of the previous action, its reward, and the flag of a new run
    assert trial.layers == [blank + 1 + 2 + 4, 1]
    assert trial.columns[-3:] == [len(FEATURES) + i for i in range(3)]


def test_a_policy_is_made_of_a_spec_as_of_its_description():
    description = random_policy().description
    policies = Policy(description), Policy(PolicySpec.from_json(description))
    assert policies[0].description is description
    assert policies[1].description == description
    assert policies[0].fingerprint() == policies[1].fingerprint()


def test_the_spec_of_a_policy_follows_its_description():
    policy = random_policy()
    before = policy.fingerprint()
    policy.description["total_updates"] = [5, 6]
    assert policy.spec.total_updates == [5, 6]
    assert policy.fingerprint() != before
    policy.description["command"] = "python"
    assert policy.spec.command == "python"


def test_a_comment_in_the_description_does_not_change_the_fingerprint():
    policy = random_policy()
    before = policy.fingerprint()
    policy.description |= {"command": "python", "seed": 5, "note": "later"}
    assert policy.fingerprint() == before
    with torch.no_grad():
        next(policy.parameters())[0] += 1.0
    assert policy.fingerprint() != before


@pytest.mark.parametrize(
    "entries",
    [
        {"normalisation": {"mean": [0.1] * 25, "std": [2.0] * 25, "clip": None}},
        {"output": "tanh"},
        {"output": "tanh", "output_bound": 2.0},
        {"trials": True},
        {"memory": 3, "trials": False},
        {"memory": 3, "memory_layers": 2},
    ],
    ids=lambda entries: "-".join(entries),
)
def test_an_optional_entry_changes_how_a_policy_acts_and_its_fingerprint(entries, tmp_path):
    policy = random_policy(**entries)
    path = save_policy(policy, tmp_path / "policy")
    loaded = load_policy(path)
    assert loaded.fingerprint() == policy.fingerprint()
    assert loaded.spec.num_weights == sum(p.numel() for p in policy.parameters())
    assert loaded.description | entries == loaded.description
    plain = random_policy(**({"memory": 3} if "memory" in entries else {}))
    assert policy.fingerprint() != plain.fingerprint()
    # Policies that differ in it cannot be averaged
    with pytest.raises(ValueError, match="cannot be averaged"):
        PolicySpec.merge([plain.spec, policy.spec])
    both = PolicySpec.merge([policy.spec, policy.spec])
    assert both.members == 2


def test_networks_with_several_memories_average_as_one(tmp_path):
    policy = random_policy(memory=3, memory_layers=2)
    merged = average([policy, policy])
    width = policy.spec.layers[0] - 3
    seen = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    ours, theirs = merged.blank(5), policy.blank(5)
    assert ours.shape == (5, 2, 4, 3)
    for _ in range(3):
        found, ours = merged.remember(seen, ours)
        expected, theirs = policy.remember(seen, theirs)
        torch.testing.assert_close(found, expected)
    assert not torch.equal(theirs[:, :, :2], theirs[:, :, 2:])
