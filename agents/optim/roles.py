"""Parameter groups of a model, one for each role of its parameters."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from optenv.roles import parameters_by_role

__all__ = ["groups_for"]


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
        ValueError: no parameter of the model needs a gradient, or one is not initialised.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    for name, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} of {type(model).__name__} is not initialised, so that "
                "its role is not known: run one forward pass first"
            )
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
