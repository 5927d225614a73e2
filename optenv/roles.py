"""Roles of parameters in a model: matrices, output layer, embeddings, vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ROLES", "parameters_by_role", "roles_of_shapes"]

#: Roles of parameters, in the order of their groups.
ROLES = ("matrices", "output", "embeddings", "vectors")

#: Modules whose weights are looked up by an index.
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

#: Modules that can be the output layer of a model.
_LAYERS = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def parameters_by_role(model: nn.Module) -> dict[str, list[Tensor]]:
    """Sort the parameters of a model that need gradients by their roles.

    Args:
        model: the model. A parameter that several modules share counts once, as an
            embedding if it is one anywhere.

    Returns:
        For each role of :data:`ROLES` its parameters: ``embeddings``; ``output``, the
        weight of the last layer in the order of ``model.modules()``; ``vectors``, all with
        fewer than two dimensions (biases, scales of normalisation); ``matrices``, all
        others.

    Example:
        >>> from torch import nn
        >>> from optenv.roles import parameters_by_role
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> {role: len(each) for role, each in parameters_by_role(model).items()}
        {'matrices': 1, 'output': 1, 'embeddings': 1, 'vectors': 2}
    """
    embeddings = {
        id(p)
        for module in model.modules()
        if isinstance(module, _EMBEDDINGS)
        for p in module.parameters(recurse=False)
    }
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    output = id(layers[-1].weight) if len(layers) > 1 else None
    found: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for p in model.parameters():
        if not p.requires_grad:
            continue
        if id(p) in embeddings:
            role = "embeddings"
        elif p.ndim < 2:
            role = "vectors"
        else:
            role = "output" if id(p) == output else "matrices"
        found[role].append(p)
    return found


def roles_of_shapes(shapes: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Guess the role of each parameter from the shapes of all, in order.

    Example:
        >>> from optenv.roles import roles_of_shapes
        >>> roles_of_shapes([(8, 4), (8,), (2, 8), (2,)])
        ('matrices', 'vectors', 'output', 'vectors')
    """
    roles = ["vectors" if len(shape) < 2 else "matrices" for shape in shapes]
    if roles.count("matrices") > 1:
        last = len(roles) - 1 - roles[::-1].index("matrices")
        roles[last] = "output"
    return tuple(roles)
