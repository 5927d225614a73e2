"""The baseline of rewards: final losses of the same run under Adam with a cosine schedule.

A run of the baseline takes as many updates as the run itself. Its final losses are
therefore cached for the rest of the process, by the content of the run (initial parameters,
examples, order of batches, length), so that a reset to the same run, in whatever batch,
does not train it again. Losses computed in different batches agree up to rounding.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import core, rules
from .schedules import SCHEDULES
from .tasks.base import Task
from .tasks.examples import Data
from .windows import Boundaries

__all__ = ["BASELINE", "CACHE_SIZE", "Baseline"]

#: Update rule, learning rate and schedule of the baseline.
BASELINE: tuple[str, float, str] = ("adam", 1e-3, "cosine")

#: Number of runs whose losses are cached; the least recently used ones are dropped.
CACHE_SIZE = 16_384

#: Final losses, one for each source of examples, keyed by the fingerprint of the run.
_CACHE: dict[bytes, tuple[float, ...]] = {}

#: Function of data and runs that returns losses, ``[n, S]``.
Evaluate = Callable[[Data, core.RunState], Tensor]


class Baseline:
    """Baseline runs for the runs of a group.

    Args:
        sources: sources of the examples that losses are taken on.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = tuple(sources)
        # Examples that all runs share, and their fingerprint.
        self._shared: tuple[Tensor, Tensor, bytes] | None = None

    def final_losses(
        self,
        task: Task,
        data: Data,
        run: core.RunState,
        boundaries: np.ndarray | Boundaries,
        index: Sequence[int],
        evaluate: Evaluate,
    ) -> Tensor:
        """Return the final losses ``[n, S]`` of the baseline.

        Args:
            task: structure of the runs.
            data: examples of all runs of a batch.
            run: state of all runs of the batch; those at ``index`` have made no update.
            boundaries: updates before which control steps begin, and the length of the
                runs.
            index: indices of ``n`` runs.
            evaluate: function that computes the losses ``[n, S]`` on the sources.
        """
        # 1. Look the runs up.
        keys = self._fingerprints(task, data, run, int(boundaries[-1]), index)
        found: dict[bytes, tuple[float, ...]] = {}
        for key in keys:
            losses = _CACHE.pop(key, None)
            if losses is not None:
                found[key] = _CACHE[key] = losses  # now the one used last
        # 2. Train those that are missing, each of them once.
        missing = {key: i for key, i in zip(keys, index, strict=True) if key not in found}
        if missing:
            rows = torch.tensor([*missing.values()], device=run.params.device)
            # shared: an example keeps its row, whichever runs are selected.
            own = data.of_runs(rows)._replace(shared=True)
            trained = evaluate(own, _train(task, own, run.params[rows], boundaries))
            for key, losses in zip(missing, trained.tolist(), strict=True):
                found[key] = _CACHE[key] = tuple(losses)
        while len(_CACHE) > CACHE_SIZE:
            _CACHE.pop(next(iter(_CACHE)))
        return run.params.new_tensor([found[key] for key in keys])

    def _fingerprints(
        self,
        task: Task,
        data: Data,
        run: core.RunState,
        total_updates: int,
        index: Sequence[int],
    ) -> list[bytes]:
        """Compute a fingerprint of the content of each run.

        It includes the gradient on the first batch, which distinguishes losses that differ
        although the fields of their tasks do not.
        """
        kind = type(task)
        whole = hashlib.blake2b(digest_size=16)
        names = (kind.__module__, kind.__qualname__, repr(task))
        whole.update(repr((*names, total_updates, self.sources, BASELINE)).encode())
        if data.shared:
            whole.update(self._of_shared(data))
        fingerprints = []
        for i in index:
            one = whole.copy()
            parts = [run.params[i], run.grad[i], run.latest[i], run.buffers[i]]
            parts += (
                [data.order[i]] if data.scale is None else [data.order[i], data.scale[i]]
            )
            if data.shared:
                parts.append(data.rows[i])
            else:
                parts += [data.inputs[data.rows[i]], data.targets[data.rows[i]]]
            for part in parts:
                one.update(_content(part))
            fingerprints.append(one.digest())
        return fingerprints

    def _of_shared(self, data: Data) -> bytes:
        """Compute the fingerprint of the examples that all runs share; it is cached."""
        if self._shared is not None:
            inputs, targets, known = self._shared
            if _same(inputs, data.inputs) and _same(targets, data.targets):
                return known
        digest = hashlib.blake2b(digest_size=16)
        digest.update(_content(data.inputs))
        digest.update(_content(data.targets))
        self._shared = (data.inputs, data.targets, digest.digest())
        return digest.digest()


def _train(
    task: Task, data: Data, params: Tensor, boundaries: np.ndarray | Boundaries
) -> core.RunState:
    """Train runs of the baseline from their initial parameters ``[n, P]``."""
    name, rate, schedule = BASELINE
    rule, total = rules.get(name), int(boundaries[-1])
    run = core.start(task, rule, data, params.detach())
    for first, end in itertools.pairwise(map(int, boundaries)):
        factors = [SCHEDULES[schedule](update / total) for update in range(first, end)]
        lr = params.new_tensor(factors).unsqueeze(1) * rate
        run = core.advance(task, rule, data, run, lr.expand(-1, len(params)))
    return run


def _content(values: Tensor) -> bytes:
    """Return shape, type and values of a tensor as bytes."""
    shown = values.detach().cpu().contiguous()
    return repr((tuple(shown.shape), shown.dtype)).encode() + shown.numpy().tobytes()


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors that are both in use share their memory."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape
