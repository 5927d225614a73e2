"""Roles of parameters: groups of a model by role, and flags of matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from optenv.roles import ROLES, parameters_by_role, roles_of_shapes
from optenv.rules import Rule

from ..utils.warning import warn_user

__all__ = ["MatrixFlags", "groups_for"]

#: Rules that depend on shapes, but treat matrices and vectors alike.
ALL_ALIKE = ("network",)


def groups_for(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups of a model by role; matrices and output layer get decay.

    Args:
        model: the model.
        weight_decay: weight decay of matrices and output layer; embeddings and vectors
            have none.

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


class MatrixFlags:
    """Flags of the parameters, in all groups, that a rule may treat as matrices.

    The flag of a group is its setting ``"matrices"``, or follows from its name, if that is
    a role. Otherwise roles are guessed from the shapes of all parameters, in order
    (:func:`optenv.roles.roles_of_shapes`). If other processes hold further parameters,
    nothing is guessed, and all may be matrices.

    Args:
        partitioned: whether other processes hold further parameters.
    """

    def __init__(self, partitioned: bool = False) -> None:
        self.partitioned = partitioned
        self._flags: dict[Tensor, bool] = {}

    def note_change(self) -> None:
        """Drop the flags, after a change of the groups."""
        self._flags.clear()

    def of(self, groups: Sequence[Mapping[str, Any]], params: list[Tensor]) -> list[bool]:
        """Return the flags of ``params``, which are parameters of the groups."""
        try:
            return [self._flags[p] for p in params]
        except KeyError:  # the groups are new, or have been changed by hand
            self._flags = _matrix_flags(groups, self.partitioned)
            return [self._flags[p] for p in params]

    def warn_of_guess(self, rule: Rule, groups: Sequence[Mapping[str, Any]]) -> None:
        """Warn if embeddings and output layer cannot be told from other matrices."""
        if not self.partitioned or not rule.shaped or rule.name in ALL_ALIKE:
            return
        unknown = (group for group in groups if _given(group) is None)
        if any(p.dim() > 1 for group in unknown for p in group["params"]):
            warn_user(
                "with partitioned=True, embeddings and output layers cannot be told from "
                "other matrices: give matrices=True or False, for all or by group, or name "
                "groups by roles, as LearnedOptimizer.for_model does"
            )


def _given(group: Mapping[str, Any]) -> bool | None:
    """Return the flag of a group's parameters; None if the group does not set it."""
    name, given = group.get("name"), group.get("matrices")
    if given is None and isinstance(name, str) and name in ROLES:
        return name == "matrices"
    return given


def _matrix_flags(
    groups: Sequence[Mapping[str, Any]], partitioned: bool
) -> dict[Tensor, bool]:
    params = [p for group in groups for p in group["params"]]
    # To a rule, a complex parameter is a vector of real numbers.
    shapes = [(p.numel(),) if p.is_complex() else tuple(p.shape) for p in params]
    guessed = dict(zip(params, roles_of_shapes(shapes), strict=True))
    flags = {}
    for group in groups:
        given = _given(group)
        for p in group["params"]:
            may_be = partitioned or guessed[p] == "matrices"
            flags[p] = may_be if given is None else given
    return flags
