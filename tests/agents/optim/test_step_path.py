"""A gradient goes through a step in one direction, and through few functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import agents
from agents.optim.kernels.base import Step
from agents.optim.tensors import GradientBatch
from tests.helpers.loops import make_model

PACKAGE = f"{Path(agents.__file__).parent}/"
FUNCTIONS = 10


def holds_gradients(value: Any, grads: set[int]) -> bool:
    """Return whether a list, a batch or a step holds one of the gradients."""
    if isinstance(value, GradientBatch | Step):
        return holds_gradients(value.grads, grads)
    return isinstance(value, list) and any(id(each) in grads for each in value)


def path_of(step: Callable[[], None], grads: list[Tensor]) -> list[str]:
    """List the package's functions that gradients are passed to in a step, in order."""
    ids, path = {id(grad) for grad in grads}, []

    def profile(frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name.startswith("<") or code.co_name.endswith("_"):
            return  # a comprehension, or arithmetic of the kernel on lists of tensors
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = [frame.f_locals.get(name) for name in names]
        is_container = isinstance(given[0] if given else None, GradientBatch | Step)
        if is_container:  # an accessor of the batch itself
            return
        if any(holds_gradients(value, ids) for value in given) or code.co_name in (
            "step",  # where gradients are found in the parameters ...
            "collect",  # ... and put into a batch
        ):
            path.append(code.co_qualname)

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return path


@pytest.mark.parametrize("policy", ["adam", "momentum", "anytime", "default"])
@pytest.mark.parametrize("at_decision", [True, False])
def test_a_gradient_passes_few_functions_and_each_once(policy, at_decision):
    model = make_model()
    total = None if policy == "anytime" else 60
    optimizer = agents.LearnedOptimizer(model.parameters(), policy, total_steps=total)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    grads = [p.grad for p in model.parameters()]
    paths = []
    for _ in range(30):
        before = len(optimizer.explain())
        path = path_of(lambda: optimizer.step(loss=1.0), grads)
        if (len(optimizer.explain()) > before) == at_decision:
            paths.append(path)
    assert paths
    for path in paths:
        assert len(path) == len(set(path)), path
        assert len(path) <= FUNCTIONS, path
