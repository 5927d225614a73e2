"""Layers of a trained network, converted to the form of policy files.

A policy file has linear layers with one activation function between them. Layers that only
rescale, such as batch normalisation after training, are merged into the adjacent linear
layer; a ``tanh`` at the end squashes the action.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .spec import ACTIVATIONS

__all__ = ["JoinedLayers", "join"]

#: Layers that have no effect after training.
_IDLE = (nn.Identity, nn.Flatten, nn.Dropout)


class JoinedLayers(NamedTuple):
    """Network in the form of policy files.

    Attributes:
        linear: weight ``[out, in]`` and bias ``[out]`` of each linear layer, in float64.
        activation: name of the activation between them; None if there is only one layer.
        squashed: True if ``tanh`` squashes the output.
        bound: largest absolute output before ``tanh``; None for no bound.
    """

    linear: list[tuple[Tensor, Tensor]]
    activation: str | None
    squashed: bool
    bound: float | None

    @property
    def inputs(self) -> int:
        """Width of the network's input."""
        return self.linear[0][0].shape[1]

    @property
    def outputs(self) -> int:
        """Width of the network's output."""
        return self.linear[-1][0].shape[0]

    @property
    def hidden(self) -> list[int]:
        """Widths of the hidden layers."""
        return [len(bias) for _, bias in self.linear[:-1]]


def join(layers: Iterable[nn.Module]) -> JoinedLayers:
    """Join the layers of a network.

    Args:
        layers: layers in their order: linear layers, activations, batch normalisation, and
            ``nn.Sequential`` of these. Dropout, ``nn.Flatten`` and ``nn.Identity`` are
            skipped.

    Raises:
        ValueError: there is another layer, or more than one activation function.
    """
    flat = [layer for layer in _flatten(layers) if not isinstance(layer, _IDLE)]
    # 1. Join consecutive linear layers, up to the next activation
    linear: list[tuple[Tensor, Tensor]] = []
    functions: list[nn.Module] = []
    pending: tuple[Tensor, Tensor] | None = None
    for layer in flat:
        affine = _affine(layer)
        if affine is not None:
            pending = affine if pending is None else _compose(affine, pending)
        else:
            if pending is not None:
                linear.append(pending)
            pending = None
            functions.append(layer)
        # Two activations in a row are only valid at the end
        out_of_order = pending is not None and len(functions) > len(linear)
        if out_of_order or not (linear or pending) or _has_weights(layer, affine):
            raise ValueError(_unexpected(flat))
    if pending is not None:
        linear.append(pending)
    # 2. Activations at the end bound the output
    end = functions[len(linear) - 1 :]
    between = functions[: len(linear) - 1]
    names = [type(layer).__name__ for layer in end]
    squashed = names[-1:] == ["Tanh"]
    bound = _bound(end[0]) if names[:1] == ["Hardtanh"] else None
    known = names in ([], ["Tanh"], ["Hardtanh", "Tanh"]) or (
        names == ["Hardtanh"] and bound == 1.0  # the same as clipping
    )
    if not linear or not known or (names[:1] == ["Hardtanh"] and bound is None):
        raise ValueError(_unexpected(flat))
    return JoinedLayers(linear, _name(between), squashed, bound if squashed else None)


def _has_weights(layer: nn.Module, affine: object) -> bool:
    """Return True if a layer that is not linear has weights."""
    return affine is None and next(layer.parameters(), None) is not None


def _flatten(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers, including those within ``nn.Sequential``, in their order."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _flatten(layer)
        else:
            yield layer


def _unexpected(layers: list[nn.Module]) -> str:
    """Return the error message for layers that a policy file cannot represent."""
    return (
        "its layers must be Linear, one activation, Linear, ..., got "
        f"{[type(layer).__name__ for layer in layers]}; batch normalisation and a Tanh at "
        "the end are allowed, other layers must be left out of the training"
    )


def _affine(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of a layer that is linear after training, else None."""
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach().cpu().double()
        bias = torch.zeros(len(weight), dtype=weight.dtype, device="cpu")
        return weight, bias if layer.bias is None else layer.bias.detach().cpu().double()
    found: Any = layer
    if isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None:
        moments = found.running_mean, found.running_var
        scale, shift = found.weight, found.bias
    elif hasattr(layer, "ra_mean") and hasattr(layer, "ra_var"):  # BatchRenorm of CrossQ
        moments = found.ra_mean, found.ra_var
        scale, shift = (found.scale, found.bias) if found.affine else (None, None)
    else:
        return None
    mean, variance = (part.detach().cpu().double() for part in moments)
    factor = (variance + found.eps).rsqrt()
    if scale is not None:
        factor = factor * scale.detach().cpu().double()
    offset = -mean * factor
    if shift is not None:
        offset = offset + shift.detach().cpu().double()
    return factor.diag(), offset


def _compose(
    second: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the composition of two linear maps.

    Raises:
        ValueError: their widths do not fit.
    """
    if second[0].shape[1] != len(first[1]):
        raise ValueError(
            f"a layer of {second[0].shape[1]} inputs follows one of {len(first[1])} outputs"
        )
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def _bound(layer: nn.Module) -> float | None:
    """Return the bound of a ``Hardtanh``; None if it is not the same on both sides."""
    low, high = float(layer.min_val), float(layer.max_val)  # type: ignore[arg-type]
    return high if high == -low else None


def _name(layers: list[nn.Module]) -> str | None:
    """Return the name of the activation function of all layers; None if there are none.

    Raises:
        ValueError: the functions differ, or policy files do not support them.
    """
    probe = torch.linspace(-4, 4, 33, device="cpu")
    names = set()
    for layer in layers:
        for name, cls in ACTIVATIONS.items():
            # Its parameters, such as a slope, must have the class's defaults
            if type(layer) is cls and torch.allclose(layer(probe), cls()(probe)):
                names.add(name)
                break
        else:
            names.add(repr(layer))
    if len(names) > 1 or not names <= set(ACTIVATIONS):
        raise ValueError(
            "it has the activations "
            f"{', '.join(sorted(repr(layer) for layer in layers))}; a policy file holds "
            f"one of {', '.join(cls.__name__ for cls in ACTIVATIONS.values())}, with the "
            "defaults of torch"
        )
    return next(iter(names), None)
