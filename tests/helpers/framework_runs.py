"""A small training run for tests of frameworks: data, model, and the loop in torch."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn
from torch.utils.data import TensorDataset

from agents import LearnedOptimizer
from tests.helpers.loops import STEPS, batches, make_model, weights
from tests.helpers.optimizers import MAKERS

BATCH, EPOCHS = 8, 3
STEPS_PER_EPOCH = STEPS // EPOCHS

#: Makers of the optimizers. If AdamW fails as well, the framework is at fault.
OPTIMIZERS = {name: MAKERS[name] for name in ("learned", "learned-anytime", "AdamW")}


def make_dataset() -> TensorDataset:
    """Return the examples of one epoch."""
    inputs, targets = zip(*islice(batches(), STEPS_PER_EPOCH), strict=True)
    return TensorDataset(torch.cat(inputs), torch.cat(targets))


class ModelWithLoss(nn.Module):
    """A classifier that returns its loss, as models of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.body, self.criterion = make_model(), nn.CrossEntropyLoss()

    def forward(self, inputs, labels):
        logits = self.body(inputs)
        return {"loss": self.criterion(logits, labels), "logits": logits}


def train_in_torch(make, parts=1, combine=lambda losses: torch.stack(losses).mean()):
    """Train in an ordinary torch loop; return the model and the optimizer.

    Args:
        make: function of the parameters that returns the optimizer.
        parts: micro-batches that each batch is divided into, for gradient accumulation.
        combine: function from the losses of a step's micro-batches to the loss that is
            given to the learned optimizer; by default their mean.
    """
    model = make_model()
    optimizer = make(model.parameters())
    inputs, targets = make_dataset().tensors
    for _ in range(EPOCHS):
        for rows in torch.arange(len(inputs)).split(BATCH):
            losses = []
            for part in rows.chunk(parts):
                loss = nn.functional.cross_entropy(model(inputs[part]), targets[part])
                (loss / parts).backward()
                losses.append(loss.detach())
            learned = isinstance(optimizer, LearnedOptimizer)
            optimizer.step(**({"loss": combine(losses)} if learned else {}))
            optimizer.zero_grad()
    return model, optimizer


def runs_are_equal(first, second):
    """Return whether two runs have equal weights, bit for bit, and equal decisions.

    Args:
        first: model and optimizer of the first run.
        second: model and optimizer of the second run.
    """
    (model, optimizer), (other_model, other_optimizer) = first, second
    if isinstance(optimizer, LearnedOptimizer):
        if optimizer.explain() != other_optimizer.explain():
            return False
    return torch.equal(weights(model), weights(other_model))


def used_losses(optimizer) -> bool:
    """Return whether every decision had a loss, and multipliers differed."""
    decisions = optimizer.explain()
    multipliers = {row["multiplier"] for row in decisions}
    return len(multipliers) > 5 and all(row["has_loss"] == 1 for row in decisions)


def counted_steps(optimizer) -> int:
    """Return the steps that the policy has counted."""
    return optimizer.param_groups[0]["controller"]["steps"]
