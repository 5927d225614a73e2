"""Loops of supervised training in which data, batches, the loss or the network change."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from .data import digits, pretrained, waves
from .problem import (
    Problem,
    Run,
    Sample,
    normal,
    perceptron,
    rows_of,
    supervised,
    uniform,
)

__all__ = ["LOOPS"]


def _classifier(width: int = 64) -> nn.Sequential:
    return perceptron(64, width, 10, activation=nn.ReLU)


def _digit_rows(generator: Generator) -> Sample:
    inputs, targets, _ = digits()
    return rows_of(generator, inputs, targets)


def _wave_rows(generator: Generator) -> Sample:
    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        return x, waves(x) + 0.1 * normal(generator, n, 1)

    return sample


def curriculum(generator: Generator) -> Run:
    """Classify digits, of which two more classes join every 60 updates."""
    inputs, targets, held_out = digits()
    model = _classifier()

    def loss(step: int) -> Tensor:
        known = (targets < min(2 * (step // 60 + 1), 10)).nonzero()[:, 0]
        drawn = torch.randint(len(known), (64,), generator=generator)
        rows = known[drawn]
        return F.cross_entropy(model(inputs[rows]), targets[rows])

    run = supervised(model, F.cross_entropy, _digit_rows(generator), 64, held_out)
    run.loss = loss
    return run


def _permuted(generator: Generator, judged: Callable[[list[float]], float]) -> Run:
    """Classify digits whose pixels are permuted anew every 80 updates, five times."""
    others, labels = digits().held_out
    model, rows = _classifier(128), _digit_rows(generator)
    orders = [torch.randperm(64, generator=generator) for _ in range(5)]

    def loss(step: int) -> Tensor:
        inputs, targets = rows(64)
        order = orders[min(step // 80, 4)]
        return F.cross_entropy(model(inputs[:, order]), targets)

    @torch.no_grad()
    def evaluate() -> float:
        each = [F.cross_entropy(model(others[:, order]), labels) for order in orders]
        return judged([loss.item() for loss in each])

    return Run(model.parameters, loss, evaluate)


def permuted_last(generator: Generator) -> Run:
    """Learn five permuted tasks in a row; judged by the last one."""
    return _permuted(generator, lambda losses: losses[-1])


def permuted_all(generator: Generator) -> Run:
    """Learn five permuted tasks in a row; judged by the mean over all of them."""
    return _permuted(generator, lambda losses: sum(losses) / len(losses))


def hardening(generator: Generator) -> Run:
    """Classify digits under noise that grows over the run; judged at its final size."""
    updates, final = 300, 0.6
    others, labels = digits().held_out
    model, rows = _classifier(), _digit_rows(generator)

    def noisy(pictures: Tensor, size: float) -> Tensor:
        return pictures + size * torch.randn(pictures.shape, generator=generator)

    def loss(step: int) -> Tensor:
        inputs, targets = rows(64)
        return F.cross_entropy(model(noisy(inputs, final * step / updates)), targets)

    run = supervised(model, F.cross_entropy, rows, 64, (noisy(others, final), labels))
    run.loss = loss
    return run


def switch(generator: Generator) -> Run:
    """Fit a function that becomes another one in the middle; judged by the second."""
    model, rows = perceptron(3, 64, 1), _wave_rows(generator)

    def second(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.flip(-1), 1 - targets

    def loss(step: int) -> Tensor:
        inputs, targets = rows(32)
        if step >= 250:
            inputs, targets = second(inputs, targets)
        return F.mse_loss(model(inputs), targets)

    run = supervised(model, F.mse_loss, rows, 32, second(*rows(1000)))
    run.loss = loss
    return run


def growing_batches(generator: Generator) -> Run:
    """Fit a noisy function in batches that grow from 4 to 128."""
    model, rows = perceptron(3, 64, 1), _wave_rows(generator)

    def loss(step: int) -> Tensor:
        inputs, targets = rows(4 * 2 ** min(step // 80, 5))
        return F.mse_loss(model(inputs), targets)

    run = supervised(model, F.mse_loss, rows, 4)
    run.loss = loss
    return run


def _rotated(pictures: Tensor) -> Tensor:
    return pictures.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)


def _transfer(generator: Generator) -> tuple[nn.Sequential, Run]:
    """Return a network for upright digits, and a run on rotated ones."""
    model = pretrained(generator)
    inputs, targets, (others, labels) = digits()
    sample = rows_of(generator, _rotated(inputs), targets)
    held_out = _rotated(others), labels
    return model, supervised(model, F.cross_entropy, sample, 64, held_out)


def unfreezing(generator: Generator) -> Run:
    """Adapt a network to rotated digits, from the last layer down to the first."""
    model, run = _transfer(generator)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in layers[:-1]:
        layer.requires_grad_(False)

    def before_step(step: int, optimizer: Optimizer) -> None:
        if step in (100, 200):
            layers[-1 - step // 100].requires_grad_()

    run.before_step = before_step
    return run


class Growing(nn.Module):
    """Perceptron that starts with one residual block, and can get more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 1)
        blocks = [nn.Linear(width, width) for _ in range(3)]
        for block in blocks[1:]:
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)
        self.blocks, self.used = nn.ModuleList(blocks), 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks[: self.used]:
            x = x + torch.tanh(block(x))
        return self.last(x)


def growing_depth(generator: Generator) -> Run:
    """Fit a noisy function by a network whose new blocks join as parameter groups."""
    model = Growing(32)

    def before_step(step: int, optimizer: Optimizer) -> None:
        if step in (150, 300):
            block = model.blocks[model.used]
            model.used += 1
            optimizer.add_param_group({"params": list(block.parameters())})

    run = supervised(model, F.mse_loss, _wave_rows(generator), 32)
    begin = [model.first, *model.blocks[:1], model.last]
    run.parameters = lambda: [p for layer in begin for p in layer.parameters()]
    run.before_step = before_step
    return run


def discriminative(generator: Generator) -> Run:
    """Adapt a network to rotated digits, with a tenth of the rate below the last layer."""
    model, run = _transfer(generator)
    run.parameters = lambda: [
        {"params": list(model[:-1].parameters()), "lr": 1e-4},
        {"params": list(model[-1].parameters())},
    ]
    return run


def twenty_steps(generator: Generator) -> Run:
    """Classify digits after twenty updates."""
    held_out = digits().held_out
    rows = _digit_rows(generator)
    return supervised(_classifier(256), F.cross_entropy, rows, 64, held_out)


def twenty_examples(generator: Generator) -> Run:
    """Adapt a network to rotated digits by 20 examples, full batch."""
    model = pretrained(generator)
    inputs, targets, (others, labels) = digits()
    of_class = [(targets == c).nonzero()[:, 0] for c in range(10)]
    drawn = [r[torch.randperm(len(r), generator=generator)[:2]] for r in of_class]
    few = torch.cat(drawn)
    batch = _rotated(inputs[few]), targets[few]
    held_out = _rotated(others), labels
    return supervised(model, F.cross_entropy, lambda n: batch, len(few), held_out)


def single_examples(generator: Generator) -> Run:
    """Classify digits in batches of one."""
    held_out = digits().held_out
    return supervised(_classifier(), F.cross_entropy, _digit_rows(generator), 1, held_out)


def accumulated_sum(generator: Generator) -> Run:
    """Fit a noisy function by gradients and losses that are summed over 64 examples."""
    model, rows = perceptron(3, 64, 1), _wave_rows(generator)

    def loss(step: int) -> Tensor:
        micro = [rows(16) for _ in range(4)]
        each = [F.mse_loss(model(x), y, reduction="sum") for x, y in micro]
        return torch.stack(each).sum()

    run = supervised(model, F.mse_loss, rows, 64)
    run.loss = loss
    return run


def accumulated_last(generator: Generator) -> Run:
    """Classify digits by the summed gradients of four batches and the last loss."""
    model, rows = _classifier(), _digit_rows(generator)

    def of_batch() -> Tensor:
        inputs, targets = rows(16)
        return F.cross_entropy(model(inputs), targets)

    def loss(step: int) -> Tensor:
        for _ in range(3):
            of_batch().backward()
        return of_batch()

    run = supervised(model, F.cross_entropy, rows, 64, digits().held_out)
    run.loss = loss
    return run


def thousandfold(generator: Generator) -> Run:
    """Fit a noisy function by a thousand times its loss; judged by the loss."""
    run = supervised(perceptron(3, 64, 1), F.mse_loss, _wave_rows(generator), 32)
    plain = run.loss
    run.loss = lambda step: 1000 * plain(step)
    return run


def plus_thousand(generator: Generator) -> Run:
    """Classify digits by the cross-entropy plus 1,000; judged by the cross-entropy."""
    held_out, rows = digits().held_out, _digit_rows(generator)
    run = supervised(_classifier(), F.cross_entropy, rows, 32, held_out)
    plain = run.loss
    run.loss = lambda step: plain(step) + 1000
    return run


def alternating(generator: Generator) -> Run:
    """Classify and reconstruct noisy digits by turns; judged by the sum of the losses."""
    others, labels = digits().held_out
    body, rows = perceptron(64, 64, 32, activation=nn.ReLU), _digit_rows(generator)
    heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 64)])

    def noisy(pictures: Tensor) -> Tensor:
        return pictures + 0.3 * torch.randn(pictures.shape, generator=generator)

    def criterion(kind: int, shown: Tensor, pictures: Tensor, classes: Tensor) -> Tensor:
        outputs = heads[kind](F.relu(body(shown)))
        if kind == 0:
            return F.cross_entropy(outputs, classes)
        return 10 * F.mse_loss(outputs, pictures)

    def loss(step: int) -> Tensor:
        pictures, classes = rows(64)
        return criterion(step % 2, noisy(pictures), pictures, classes)

    fixed = noisy(others)

    @torch.no_grad()
    def evaluate() -> float:
        return sum(criterion(kind, fixed, others, labels).item() for kind in (0, 1))

    return Run(lambda: [*body.parameters(), *heads.parameters()], loss, evaluate)


class Masked(nn.Linear):
    """Linear layer, some of whose weights are held at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Remove a share of the weights, the smallest."""
        size = self.weight.abs()
        self.mask.copy_(size > size.flatten().quantile(share))


def pruning(generator: Generator) -> Run:
    """Classify digits by a network that loses nine tenths of its weights on the way."""
    layers = Masked(64, 64), Masked(64, 10)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    held_out = digits().held_out
    run = supervised(model, F.cross_entropy, _digit_rows(generator), 64, held_out)

    def before_step(step: int, optimizer: Optimizer) -> None:
        if step == 150:
            for layer in layers:
                layer.prune(0.9)

    run.before_step = before_step
    return run


def self_training(generator: Generator) -> Run:
    """Classify digits by 100 labels, and by the network's own surest labels of others."""
    inputs, targets, held_out = digits()
    model = _classifier()
    labelled = rows_of(generator, inputs[:100], targets[:100])
    unlabelled = rows_of(generator, inputs[100:], targets[100:])

    def loss(step: int) -> Tensor:
        shown, classes = labelled(32)
        others, _ = unlabelled(64)
        with torch.no_grad():
            sure, pseudo = model(others).softmax(-1).max(-1)
        noisy = others + 0.2 * torch.randn(others.shape, generator=generator)
        each = F.cross_entropy(model(noisy), pseudo, reduction="none")
        known = F.cross_entropy(model(shown), classes)
        return known + (each * (sure > 0.9)).mean()

    run = supervised(model, F.cross_entropy, labelled, 32, held_out)
    run.loss = loss
    return run


def inner_step(generator: Generator) -> Run:
    """Learn weights from which one gradient step fits a sine (Finn et al., 2017)."""
    sizes = (1, 40, 40, 1)
    shapes = [(1, 40), (40,), (40, 40), (40,), (40, 1), (1,)]
    parameters = [
        nn.Parameter(torch.randn(shape) / math.sqrt(shape[0]))
        if len(shape) == 2 else nn.Parameter(torch.zeros(shape))
        for shape in shapes
    ]  # fmt: skip

    def tasks(n: int) -> tuple[Tensor, Tensor]:
        """Return inputs and values ``[n, 20, 1]`` of sines."""
        x = uniform(generator, n, 20, 1, low=-3, high=3)
        amplitude = uniform(generator, n, 1, 1, low=0.5, high=2)
        phase = uniform(generator, n, 1, 1, high=math.pi)
        return x, amplitude * torch.sin(x + phase)

    def outputs(weights: list[Tensor], x: Tensor) -> Tensor:
        for i in range(len(sizes) - 1):
            x = x @ weights[2 * i] + weights[2 * i + 1].unsqueeze(-2)
            x = torch.tanh(x) if i < len(sizes) - 2 else x
        return x

    def criterion(x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        # A copy of the weights for each task, so that all take their step at once.
        begin = [p.expand(n, *p.shape) for p in parameters]
        support = (outputs(begin, x[:, :10]) - y[:, :10]).square().mean((1, 2)).sum()
        gradients = torch.autograd.grad(support, begin, create_graph=True)
        adapted = [p - 0.05 * g for p, g in zip(begin, gradients, strict=True)]
        return F.mse_loss(outputs(adapted, x[:, 10:]), y[:, 10:])

    fixed = tasks(300)

    def evaluate() -> float:
        return criterion(*fixed).item()

    return Run(lambda: parameters, lambda step: criterion(*tasks(16)), evaluate)


LOOPS: tuple[Problem, ...] = (
    Problem("curriculum", "classes of digits join in turn", 400, curriculum),
    Problem("permuted-last", "five permuted tasks in a row, the last is judged", 400,
            permuted_last),
    Problem("permuted-all", "five permuted tasks in a row, all are judged", 400,
            permuted_all),
    Problem("hardening", "noise on digits grows over the run", 300, hardening),
    Problem("switch", "another function from the middle on", 500, switch),
    Problem("growing-batches", "batches grow from 4 to 128", 500, growing_batches),
    Problem("unfreezing", "layers of a pretrained network unfreeze in turn", 300,
            unfreezing),
    Problem("growing-depth", "blocks join the network and the optimizer", 450,
            growing_depth),
    Problem("discriminative", "lower rate for the lower layers", 300, discriminative),
    Problem("twenty-steps", "twenty updates", 20, twenty_steps),
    Problem("twenty-examples", "pretrained network, twenty examples", 100,
            twenty_examples),
    Problem("single-examples", "batches of one", 800, single_examples),
    Problem("accumulated-sum", "loss summed over four batches", 300, accumulated_sum),
    Problem("accumulated-last", "gradients of four batches, loss of the last", 300,
            accumulated_last),
    Problem("thousandfold", "loss times 1,000", 400, thousandfold),
    Problem("plus-thousand", "loss plus 1,000", 400, plus_thousand),
    Problem("alternating", "two losses by turns", 400, alternating),
    Problem("pruning", "nine tenths of the weights removed in the middle", 300, pruning),
    Problem("self-training", "pseudo-labels of the network itself", 300, self_training),
    Problem("inner-step", "gradient step within the loss (MAML)", 400, inner_step),
)  # fmt: skip
