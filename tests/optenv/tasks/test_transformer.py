"""Stacked transformers equal those of torch's encoder layers with a causal mask."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv import core
from optenv.tasks import Transformer
from tests.helpers.small_runs import sample_runs


class Reference(nn.Module):
    def __init__(self, task: Transformer) -> None:
        super().__init__()
        width = task.width
        self.embedding = nn.Embedding(96, width)
        self.position = nn.Embedding(task.length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, task.heads, task.expansion * width, 0.0, "gelu",
                batch_first=True, norm_first=True,
            )
            for _ in range(task.depth)
        )  # fmt: skip
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, 96)

    def ordered(self) -> list[nn.Parameter]:
        """Return the parameters in the order of the task's shapes."""
        parts: list[nn.Module] = [self.embedding, self.position]
        found = [p for part in parts for p in part.parameters()]
        for block in self.blocks:
            attention = block.self_attn
            found += [
                *block.norm1.parameters(), attention.in_proj_weight,
                attention.in_proj_bias, *attention.out_proj.parameters(),
                *block.norm2.parameters(), *block.linear1.parameters(),
                *block.linear2.parameters(),
            ]  # fmt: skip
        return [*found, *self.norm.parameters(), *self.readout.parameters()]

    def forward(self, codes: Tensor) -> Tensor:
        length = codes.shape[1]
        hidden = self.embedding(codes) + self.position.weight
        mask = nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.readout(self.norm(hidden))


TASK = Transformer(
    width=8, heads=2, depth=2, expansion=3, length=6,
    batch_size=4, num_train=20, num_validation=8,
)  # fmt: skip


@pytest.mark.parametrize("heads", [1, 2])
def test_loss_and_gradient_equal_those_of_torchs_layers(heads: int) -> None:
    task = dataclasses.replace(TASK, heads=heads)
    data, params = sample_runs(task, 3)
    noise = torch.randn(params.shape, generator=torch.Generator().manual_seed(0))
    params = params + 0.1 * noise  # so that no scale is 1 and no bias 0
    batch = data.train(4)
    losses, gradients = core.loss_and_grad(task, params, batch)
    for run in range(3):
        module = Reference(task).double()
        ordered = module.ordered()
        assert task.shapes == tuple(tuple(p.shape) for p in ordered)
        nn.utils.vector_to_parameters(params[run], ordered)
        logits = module(batch[0][run])
        alone = F.cross_entropy(logits.flatten(0, 1), batch[1][run].flatten())
        alone.backward()
        gradient = torch.cat([p.grad.flatten() for p in ordered])
        torch.testing.assert_close(losses[run], alone.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients[run], gradient, rtol=0, atol=1e-9)


def test_a_prediction_does_not_depend_on_later_characters() -> None:
    data, params = sample_runs(TASK, 2)
    inputs, _ = data.train(4)
    changed = inputs.clone()
    changed[..., 3:] = (changed[..., 3:] + 1) % 96
    before, after = (
        TASK.logits(TASK.unflatten(params), codes).unflatten(1, (4, 6))
        for codes in (inputs, changed)
    )
    torch.testing.assert_close(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3:] != after[:, :, 3:]).any(-1).all()


def test_initially_scales_are_one_and_biases_zero() -> None:
    _, params = sample_runs(TASK, 2)
    module = Reference(TASK)
    norms = [m for m in module.modules() if isinstance(m, nn.LayerNorm)]
    scales = {id(norm.weight) for norm in norms}
    for ours, theirs in zip(TASK.unflatten(params), module.ordered(), strict=True):
        if theirs.dim() == 1:
            assert (ours == (1.0 if id(theirs) in scales else 0.0)).all()
        else:
            assert ours.std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"heads": 3}, r"heads must divide width \(32\), got 3"),
        ({"heads": 0}, "heads must be a positive integer, got 0"),
        ({"expansion": -1}, "expansion must be a positive integer, got -1"),
    ],
)
def test_impossible_structures_are_refused(arguments: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Transformer(**arguments)  # type: ignore[arg-type]
