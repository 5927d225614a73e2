"""Operations recorded on the CPU and repeated, as a CUDA graph does on its device."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CpuGraph(TorchDispatchMode):
    """The operations within ``with graph:``, which :meth:`replay` repeats without Python.

    As in a CUDA graph, all tensors keep their addresses, intermediate ones too, and a
    number that the host reads is an error. Unlike there, recording executes.
    """

    def __init__(self):
        super().__init__()
        self._calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("the host reads a number while a graph is captured")
        result = operation(*args, **(kwargs or {}))
        self._calls.append((operation, args, kwargs or {}, tree_leaves(result)))
        return result

    def __len__(self):
        return len(self._calls)

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, recorded in self._calls:
            again = tree_leaves(operation(*args, **kwargs))
            for old, new in zip(recorded, again, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
