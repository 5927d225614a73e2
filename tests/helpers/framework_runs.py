"""One small training for tests of frameworks: data, model, and the loop it is in torch."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn
from torch.utils.data import TensorDataset

from agents import LearnedOptimizer
from tests.helpers.loops import STEPS, batches, make_model, weights
from tests.helpers.optimizers import MAKERS

BATCH, EPOCHS = 8, 3
EPOCH = STEPS // EPOCHS

#: Ours, as it comes; where a framework's own part is in doubt, AdamW tells.
KINDS = {name: MAKERS[name] for name in ("learned", "learned-anytime", "AdamW")}


def data() -> TensorDataset:
    """Examples of one epoch, which is a third of the steps."""
    inputs, targets = zip(*islice(batches(), EPOCH), strict=True)
    return TensorDataset(torch.cat(inputs), torch.cat(targets))


class OwnLoss(nn.Module):
    """A classifier that returns its own loss, as models of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.body, self.criterion = make_model(), nn.CrossEntropyLoss()

    def forward(self, inputs, labels):
        logits = self.body(inputs)
        return {"loss": self.criterion(logits, labels), "logits": logits}


def in_plain_torch(make, parts=1, told=lambda losses: torch.stack(losses).mean()):
    """Model and optimizer after the run in a loop of torch's own.

    Args:
        make: the optimizer, of parameters.
        parts: backward passes for each step, all of one part of the batch.
        told: the loss that ours is told, of those of the parts.
    """
    model = make_model()
    optimizer = make(model.parameters())
    inputs, targets = data().tensors
    for _ in range(EPOCHS):
        for rows in torch.arange(len(inputs)).split(BATCH):
            losses = []
            for part in rows.chunk(parts):
                loss = nn.functional.cross_entropy(model(inputs[part]), targets[part])
                (loss / parts).backward()
                losses.append(loss.detach())
            ours = isinstance(optimizer, LearnedOptimizer)
            optimizer.step(**({"loss": told(losses)} if ours else {}))
            optimizer.zero_grad()
    return model, optimizer


def is_the_same(one, other):
    """Whether two runs ended bit for bit alike, with the same story of the policy."""
    (model, optimizer), (twin, own) = one, other
    if isinstance(optimizer, LearnedOptimizer) and optimizer.explain() != own.explain():
        return False
    return torch.equal(weights(model), weights(twin))


def saw_losses_and_acted(optimizer) -> bool:
    """Whether the policy had a loss at every decision, and moved the learning rate."""
    story = optimizer.explain()
    moved = len({row["multiplier"] for row in story}) > 5
    return moved and all(row["has_loss"] == 1 for row in story)


def steps_of(optimizer) -> int:
    """Steps of the run, by the clock of the policy."""
    return optimizer.param_groups[0]["controller"]["steps"]
