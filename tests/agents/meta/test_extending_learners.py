"""A learner and a family from outside the package, as the recipe makes them."""

from __future__ import annotations

import re

import pytest
import torch

from agents import meta
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "extending_learner.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Names that the code of the page defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("recipe"))
        names: dict[str, object] = {}
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
            exec(compile(block, PAGE.name, "exec"), names)
        names["saved"] = {
            path.name: path.read_bytes() for path in sorted(PAGE.parent.cwd().glob("*"))
        }
    return names


def test_the_learner_of_the_recipe_learns(made):
    assert made["after"] < 0.5 * made["before"]
    assert any(name.startswith("momentum") for name in made["saved"])


def test_its_rule_is_learned_too(made):
    rule = made["learner"].rule
    assert rule.log_lr.exp().item() != pytest.approx(0.01)
    assert rule.decay.item() != pytest.approx(0.5)


def test_the_family_of_the_recipe_serves_other_learners(made):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Linear(8, 1))
    learner = meta.MAML(module, made["Lines"](), inner_lr=0.05, seed=0).learn(30)
    losses = learner.evaluate(tasks=50, steps=(0, 1)).losses.mean(1)
    assert losses[1] < losses[0]
