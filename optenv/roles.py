"""Roles of parameters in a model: matrices, output layer, embeddings, vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

__all__ = ["ROLES", "parameters_by_role", "roles_of_shapes"]

#: Roles of parameters, in the order of their parameter groups.
ROLES = ("matrices", "output", "embeddings", "vectors")

#: Modules whose weights are looked up by an index.
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

#: Modules that can be the output layer of a model.
_LAYERS = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


#: Normalisation layers of torch; others are recognised by the name of their class.
_NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_NORM_NAME = re.compile(r"Norm(\dd)?$")


def parameters_by_role(model: nn.Module) -> dict[str, list[Tensor]]:
    """Sort the parameters of a model that require gradients by their roles.

    A parametrized weight (by torch's older or newer ``weight_norm`` or ``spectral_norm``)
    counts as the weight of its layer; the magnitudes of ``weight_norm`` are vectors.

    Args:
        model: the model. A parameter that several modules share counts once, as an
            embedding if it is one in any of them.

    Returns:
        A dict from each role of :data:`ROLES` to its parameters. ``vectors`` are all with
        fewer than two dimensions (biases, scales), and those of normalisation layers,
        whatever their shape. ``output`` is the weight of the last layer in the order of
        ``model.modules()``; it is empty if that is the only layer, is frozen, or shares its
        weight with an embedding. ``embeddings`` are weights of embeddings, and ``matrices``
        all others.

    Example:
        >>> from torch import nn
        >>> from optenv.roles import parameters_by_role
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> {role: len(each) for role, each in parameters_by_role(model).items()}
        {'matrices': 1, 'output': 1, 'embeddings': 1, 'vectors': 2}
    """
    embeddings, vectors = set(), set()
    for module in model.modules():
        own = [(name, id(p)) for name, p in _own_parameters(module)]
        if isinstance(module, _EMBEDDINGS):
            embeddings |= {p for _, p in own}
        elif isinstance(module, _NORMS) or _NORM_NAME.search(type(module).__name__):
            vectors |= {p for _, p in own}
        vectors |= _magnitudes(module)
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    last = layers[-1:] if len(layers) > 1 else []
    output = {
        id(p) for each in last for name, p in _own_parameters(each) if name == "weight"
    }
    found: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for p in model.parameters():
        if not p.requires_grad:
            continue
        if id(p) in vectors:
            role = "vectors"
        elif id(p) in embeddings:
            role = "embeddings"
        elif p.ndim < 2:
            role = "vectors"
        else:
            role = "output" if id(p) in output else "matrices"
        found[role].append(p)
    return found


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters with the names under which the module uses them.

    A parametrized ``weight`` is computed from ``parametrizations.weight.original``, or, by
    torch's older functions, from ``weight_orig`` or ``weight_v``; all are named ``weight``
    here. Reading ``module.weight`` would compute it, which changes the buffers of
    ``spectral_norm``.
    """
    for name, p in module.named_parameters(recurse=False):
        yield re.sub("_(orig|v|g)$", "", name), p
    for name, each in _parametrizations(module):
        for p in each.parameters(recurse=False):
            yield name, p


def _parametrizations(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parametrizations of a module's tensors, with the tensors' names."""
    found = getattr(module, "parametrizations", None)
    if isinstance(found, nn.ModuleDict):
        yield from found.items()


def _magnitudes(module: nn.Module) -> set[int]:
    """Return the ids of a module's parameters that are magnitudes of ``weight_norm``."""
    own = dict(module.named_parameters(recurse=False))
    pairs = [(p, own.get(f"{name[:-2]}_v")) for name, p in own.items() if name[-2:] == "_g"]
    for _, each in _parametrizations(module):
        parts = dict(each.named_parameters(recurse=False))
        if parts.keys() == {"original0", "original1"}:
            pairs.append((parts["original0"], parts["original1"]))
    return {
        id(magnitude)
        for magnitude, direction in pairs
        if direction is not None
        and magnitude.ndim == direction.ndim
        and all(
            size in (1, whole)
            for size, whole in zip(magnitude.shape, direction.shape, strict=True)
        )
        and magnitude.shape != direction.shape
    }


def roles_of_shapes(shapes: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Guess the role of each parameter from the shapes of all, in order.

    Parameters with fewer than two dimensions are ``vectors``. If there are several others,
    the last of them is ``output``. The first is ``embeddings`` if it is a table ``[n, c]``,
    ``n != c``, whose rows are inputs of the next one, ``[r, c]``. The rest is ``matrices``.

    Example:
        >>> from optenv.roles import roles_of_shapes
        >>> roles_of_shapes([(8, 4), (8,), (2, 8), (2,)])
        ('matrices', 'vectors', 'output', 'vectors')
        >>> roles_of_shapes([(50, 8), (16, 8), (16,), (50, 16)])
        ('embeddings', 'matrices', 'vectors', 'output')
    """
    roles = ["vectors" if len(shape) < 2 else "matrices" for shape in shapes]
    places = [i for i, role in enumerate(roles) if role == "matrices"]
    if len(places) > 1:
        roles[places[-1]] = "output"
        first, second = (tuple(shapes[i]) for i in places[:2])
        is_table = len(first) == len(second) == 2 and first[0] != first[1] == second[1]
        if is_table:
            roles[places[0]] = "embeddings"
    return tuple(roles)
