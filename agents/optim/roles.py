"""Roles of a model's parameters, and the parameter groups that follow from them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["ROLES", "groups_for", "parameters_by_role"]

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


def groups_for(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups of a model, of which matrices and output layer decay.

    Args:
        model: the model.
        weight_decay: weight decay of matrices and output layer; that of embeddings and
            vectors is 0.

    Returns:
        A group for each role that has parameters, with its ``"name"``.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: no parameter of the model needs a gradient.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    groups = [
        {
            "params": params,
            "name": role,
            "weight_decay": weight_decay if role in ("matrices", "output") else 0.0,
        }
        for role, params in parameters_by_role(model).items()
        if params
    ]
    if not groups:
        raise ValueError(f"no parameter of {type(model).__name__} needs a gradient")
    return groups
