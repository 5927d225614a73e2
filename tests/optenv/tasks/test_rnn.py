"""Stacked recurrent networks equal torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv import core
from optenv.tasks import RNN, rnn
from tests.helpers.small_runs import sample_runs

LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Reference(nn.Module):
    def __init__(self, task: RNN) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, task.embedding)
        self.recurrent = LAYERS[task.cell](
            task.embedding, task.width, task.depth, batch_first=True
        )
        self.readout = nn.Linear(task.width, 96)

    def forward(self, codes: Tensor) -> Tensor:
        return self.readout(self.recurrent(self.embedding(codes))[0])


def test_every_cell_is_compared_with_torch() -> None:
    assert set(LAYERS) == set(rnn.CELLS)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("depth", [1, 2])
def test_loss_and_gradient_equal_those_of_torchs_layers(cell: str, depth: int) -> None:
    task = RNN(
        cell=cell, depth=depth, width=7, embedding=5, length=6,
        batch_size=4, num_train=20, num_validation=8,
    )  # fmt: skip
    data, params = sample_runs(task, 3)
    batch = data.train(4)
    losses, gradients = core.loss_and_grad(task, params, batch)
    for run in range(3):
        module = Reference(task).double()
        assert task.shapes == tuple(tuple(p.shape) for p in module.parameters())
        nn.utils.vector_to_parameters(params[run], module.parameters())
        logits = module(batch[0][run])
        alone = F.cross_entropy(logits.flatten(0, 1), batch[1][run].flatten())
        alone.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(losses[run], alone.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients[run], gradient, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cell", LAYERS)
def test_initial_parameters_are_distributed_as_torchs(cell: str) -> None:
    task = RNN(cell=cell, width=32, embedding=16, init_spread=0.0)
    _, params = sample_runs(task, 4)
    torch.manual_seed(0)
    module = Reference(task)
    for ours, theirs in zip(task.unflatten(params), module.parameters(), strict=True):
        assert ours.std() == pytest.approx(theirs.std().item(), rel=0.2)
        assert ours.abs().max() == pytest.approx(theirs.abs().max().item(), rel=0.3)


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown cell 'rnn'; valid: elman, gru, lstm"):
        RNN(cell="rnn")
