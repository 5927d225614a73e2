"""The benchmark for CUDA devices, tried on the CPU."""

from __future__ import annotations

import math

import gpu
import pytest
import torch
from torch import nn

WORD = 8


def tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(WORD, 6), nn.Tanh(), nn.Linear(6, 4))


@pytest.fixture
def results(monkeypatch) -> dict[str, gpu.Result]:
    monkeypatch.setitem(gpu.MODELS, "tiny", (tiny, lambda: torch.randn(3, WORD)))
    return gpu.compare("tiny", "default", 2 * gpu.BLOCK_STEPS, "cpu", refresh=4)


def test_every_arm_is_timed(results: dict[str, gpu.Result]) -> None:
    assert list(results) == [
        "AdamW, foreach", "AdamW, fused", "default", "default, guard='probe'"
    ]  # fmt: skip
    for result in results.values():
        assert 0 < result.step < result.update < math.inf
        assert result.total > result.step and result.memory is None


def test_ratios_are_to_the_first_arm(results: dict[str, gpu.Result]) -> None:
    times = (gpu.Result(0.002, 0.01, 1.0, None), gpu.Result(0.003, 0.02, 3.0, 2**20))
    lines = gpu.table(dict(zip(("AdamW", "ours"), times, strict=True)))
    assert lines[2].split() == [
        "ours", "3.000", "ms", "(1.50)", "20.000", "ms", "(2.00)", "3.00", "s", "(3.00)",
        "1", "MiB",
    ]  # fmt: skip


def test_the_large_transformer_has_thirty_million_parameters() -> None:
    with torch.device("meta"):
        numel = sum(p.numel() for p in gpu.large_transformer().parameters())
    assert 29e6 < numel < 31e6
