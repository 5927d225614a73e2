"""Parameter groups by the roles of a model's parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from agents import LearnedOptimizer
from agents.optim.roles import MatrixFlags
from optenv.roles import ROLES, parameters_by_role, roles_of_shapes
from tests.helpers.policies import random_policy


class Tied(nn.Module):
    """Language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 9)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.norm(self.hidden(self.embed(x))))


def names(model):
    by_id = {id(p): name for name, p in model.named_parameters()}
    roles = parameters_by_role(model)
    return {role: [by_id[id(p)] for p in roles[role]] for role in ROLES}


def test_tied_weights_are_embeddings_once():
    assert names(Tied()) == {
        "matrices": ["hidden.weight"],
        "output": [],
        "embeddings": ["embed.weight"],
        "vectors": ["hidden.bias", "norm.weight", "norm.bias", "out.bias"],
    }


def test_convolutions_and_recurrent_weights_are_matrices():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(4, 4), nn.Linear(4, 2)
    )
    found = names(model)
    assert found["matrices"] == ["0.weight", "2.weight_ih_l0", "2.weight_hh_l0"]
    assert found["output"] == ["3.weight"] and len(found["vectors"]) == 6


def test_the_only_layer_is_a_matrix():
    assert names(nn.Linear(4, 2))["matrices"] == ["weight"]


def test_every_parameter_that_needs_a_gradient_is_in_one_group():
    model = Tied()
    model.hidden.requires_grad_(False)
    optimizer = LearnedOptimizer.for_model(model, total_steps=20, weight_decay=0.1)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    assert len(grouped) == len({id(p) for p in grouped})


def test_only_matrices_and_output_layers_decay():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    optimizer = LearnedOptimizer.for_model(model, "adam", total_steps=20, weight_decay=0.1)
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"matrices": 0.1, "output": 0.1, "embeddings": 0.0, "vectors": 0.0}
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.arange(9)), torch.arange(9))
        loss.backward()
        optimizer.step(loss=loss)


@pytest.mark.parametrize("model", [[], None, nn.Linear])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got"):
        LearnedOptimizer.for_model(model, total_steps=20)


def test_a_model_without_trained_parameters_is_refused():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of Linear needs a gradient"):
        LearnedOptimizer.for_model(frozen, total_steps=20)


def test_an_uninitialised_parameter_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"'1\.weight' of Sequential.*forward pass first"):
        LearnedOptimizer.for_model(model, total_steps=20)
    model(torch.zeros(1, 4))
    optimizer = LearnedOptimizer.for_model(model, total_steps=20, weight_decay=0.1)
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"matrices": 0.1, "output": 0.1, "vectors": 0.0}


class ScaleNorm(nn.Module):
    """A normalisation that torch does not have."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))


def test_normalisation_of_any_shape_is_vectors():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.LayerNorm((4, 6, 6)), nn.RMSNorm((6, 6)), ScaleNorm(),
        nn.Linear(6, 2),
    )  # fmt: skip
    found = names(model)
    assert found["matrices"] == ["0.weight"] and found["output"] == ["4.weight"]
    assert {"1.weight", "1.bias", "2.weight", "3.scale"} < set(found["vectors"])


def test_parametrized_weights_count_as_those_of_their_layers():
    def layers(wrap):
        return nn.Sequential(
            wrap(nn.Embedding(9, 4)), wrap(nn.Linear(4, 4)), wrap(nn.Linear(4, 2))
        )

    new = "parametrizations.weight.original"
    assert names(layers(parametrizations.weight_norm)) == {
        "embeddings": [f"0.{new}1"],
        "matrices": [f"1.{new}1"],
        "output": [f"2.{new}1"],
        "vectors": [f"0.{new}0", "1.bias", f"1.{new}0", "2.bias", f"2.{new}0"],
    }
    spectral = layers(parametrizations.spectral_norm)
    before = {name: buffer.clone() for name, buffer in spectral.named_buffers()}
    found = names(spectral)
    assert found["embeddings"] == [f"0.{new}"] and found["matrices"] == [f"1.{new}"]
    assert found["output"] == [f"2.{new}"] and found["vectors"] == ["1.bias", "2.bias"]
    assert all(buffer.equal(before[name]) for name, buffer in spectral.named_buffers())
    assert parametrize.is_parametrized(spectral[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weights_of_the_older_functions_count_as_those_of_their_layers():
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Linear(4, 2))
    )
    assert names(model) == {
        "embeddings": [],
        "matrices": ["0.weight_v"],
        "output": ["1.weight_orig"],
        "vectors": ["0.bias", "0.weight_g", "1.bias"],
    }


def test_a_frozen_output_layer_leaves_its_role_empty():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    found = names(model)
    assert found["matrices"] == ["0.weight", "1.weight"] and not found["output"]


# Parameters that are taken for matrices.


def language_model():
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 9))


def taken(groups):
    """Return the flags of all parameters, in order."""
    params = [p for group in groups for p in group["params"]]
    return MatrixFlags().of(groups, params)


def test_all_but_embeddings_vectors_and_the_last_layer_are_taken_for_matrices():
    model = language_model()  # table, hidden weight and bias, weight and bias of the output
    assert taken([{"params": [*model.parameters()]}]) == [False, True, False, False, False]


def test_a_role_in_a_groups_name_says_what_are_matrices():
    model = language_model()
    optimizer = LearnedOptimizer.for_model(model, total_steps=9)
    found = {
        group["name"]: set(MatrixFlags().of(optimizer.param_groups, group["params"]))
        for group in optimizer.param_groups
    }
    assert found == {
        "matrices": {True}, "output": {False}, "embeddings": {False}, "vectors": {False}
    }  # fmt: skip


@pytest.mark.parametrize("flag", [True, False])
def test_a_groups_own_setting_comes_before_its_name_and_shapes(flag):
    params = [*language_model().parameters()]
    groups = [{"params": params, "name": "matrices", "matrices": flag}]
    assert set(taken(groups)) == {flag}


@pytest.mark.parametrize("matrices", [None, True, False])
def test_matrices_that_are_not_taken_for_such_follow_adam(matrices):
    """A first step of Adam moves all numbers equally far; that of a matrix does not."""
    torch.manual_seed(0)
    model = language_model()
    before = [p.detach().clone() for p in model.parameters()]
    policy = random_policy("orthogonal-adam")
    optimizer = LearnedOptimizer(
        model.parameters(), policy, total_steps=20, matrices=matrices
    )
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    moved = [(p - old).abs() for p, old in zip(model.parameters(), before, strict=True)]
    by_adam = [bool(step.max() < 1.001 * step.min()) for step in moved]
    expected = {
        None: [True, False, True, True, True],
        True: [False, False, True, False, True],
        False: [True] * 5,
    }[matrices]
    assert by_adam == expected


def test_partitioned_parameters_are_not_guessed_about_and_a_warning_says_so():
    model, policy = language_model(), random_policy("orthogonal-adam")
    settings = {"policy": policy, "total_steps": 20, "partitioned": True}
    with pytest.warns(
        UserWarning, match="cannot be told from other matrices: give matrice"
    ):
        optimizer = LearnedOptimizer(model.parameters(), **settings)
    flags = MatrixFlags(partitioned=True).of(optimizer.param_groups, [*model.parameters()])
    assert all(flags)
    LearnedOptimizer(model.parameters(), matrices=True, **settings)  # nothing to guess
    LearnedOptimizer.for_model(model, **settings)
    LearnedOptimizer([nn.Parameter(torch.zeros(5))], **settings)


def test_groups_changed_by_hand_are_looked_at_again():
    flags, model = MatrixFlags(), language_model()
    groups = [{"params": [*model.parameters()]}]
    flags.of(groups, groups[0]["params"])
    added = nn.Parameter(torch.zeros(3, 3))
    groups[0]["params"].append(added)
    assert flags.of(groups, [added]) == [False]  # the last one is the output
    assert flags.of(groups, [model[3].weight]) == [True]


def test_complex_parameters_are_no_matrices():
    params = [nn.Parameter(torch.zeros(3, 3)) for _ in range(3)]
    params.insert(1, nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64)))
    assert taken([{"params": params}]) == [True, False, True, False]


def test_a_flag_that_is_none_is_refused():
    parameters = language_model().parameters()
    with pytest.raises(TypeError, match="matrices must be True, False or None, got 'all'"):
        LearnedOptimizer(parameters, total_steps=9, matrices="all")


@pytest.mark.parametrize(
    ("shapes", "initials"),
    [
        ([(8, 4), (8,), (2, 8)], "mvo"),
        ([(50, 8), (16, 8), (16,), (50, 16)], "emvo"),
        ([(8, 8), (16, 8), (2, 16)], "mmo"),  # a square is taken for no table
        ([(4, 1, 3, 3), (8, 4, 3, 3), (10, 72)], "mmo"),
        ([(5, 5)], "m"),
        ([(5,), ()], "vv"),
    ],
)
def test_roles_are_guessed_from_shapes(shapes, initials):
    assert "".join(role[0] for role in roles_of_shapes(shapes)) == initials
