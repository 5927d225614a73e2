"""Averages of several policies: their outputs, descriptions and memories."""

from __future__ import annotations

import pytest
import torch

from agents import load_policy
from agents.policy.ensemble import average
from agents.policy.files import save_policy
from optenv.telemetry import FEATURES
from tests.helpers.policies import random_policy


def policies(count=3, **described):
    """Return policies of one shape with different weights."""
    made = [random_policy(seed=i, **described) for i in range(count)]
    generator = torch.Generator().manual_seed(0)
    for policy in made:
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return [policy.requires_grad_(False) for policy in made]


def observations():
    return torch.randn(50, len(FEATURES), generator=torch.Generator().manual_seed(1))


def test_outputs_are_averaged_before_they_are_clipped(tmp_path):
    members, seen = policies(), observations()
    path = save_policy(average(members), tmp_path / "merged")
    outputs = [member.members[0](seen) for member in members]
    expected = torch.stack(outputs).mean(0).clamp(-1, 1)
    torch.testing.assert_close(load_policy(path)(seen), expected)
    assert load_policy(path).description["seeds"] == [0, 1, 2]


def test_discrete_members_average_their_action_values():
    action = {"kind": "discrete"}
    members, seen = policies(action=action), observations()
    values = torch.stack([member.members[0](seen) for member in members])
    merged = average(members)(seen)
    assert torch.equal(merged, values.mean(0).argmax(-1))
    assert not torch.equal(merged, values[0].argmax(-1))


def test_averages_of_averages_average_all_members():
    members, seen = policies(), observations()
    nested = average([average(members[:2]), members[2]])
    torch.testing.assert_close(nested(seen), average(members)(seen))
    assert nested.description["seeds"] == [0, 1, 2]
    assert not {"seed", "command"} & set(nested.description)
    torch.testing.assert_close(average(members[:1])(seen), members[0](seen))


def test_policies_with_different_descriptions_are_refused():
    with pytest.raises(ValueError, match=r"different horizon cannot .* 20 and 7"):
        average([*policies(1), *policies(1, horizon=7)])
    with pytest.raises(ValueError, match="no policies"):
        average([])


@pytest.mark.parametrize("members", [0, True, "2"])
def test_a_description_with_a_wrong_number_of_members_is_refused(members):
    with pytest.raises(ValueError, match=f"members must be .* got {members!r}"):
        random_policy(members=members)


def test_an_average_has_the_memory_of_each_member():
    policy = random_policy(memory=3)
    merged = average([policy, policy])
    memory, twice = policy.blank(2), merged.blank(2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        seen = torch.randn(2, 28, generator=generator)
        expected, memory = policy.remember(seen, memory)
        found, twice = merged.remember(seen, twice)
        torch.testing.assert_close(found, expected)
    assert memory.abs().min() > 0
