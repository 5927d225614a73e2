"""Losses of distances, orders, margins and rare or wrong labels; penalties and noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .data import digits
from .problem import Problem, Run, normal, perceptron, rows_of, supervised, uniform

__all__ = ["METRICS"]


def _views(generator: Generator, inputs: Tensor) -> Tensor:
    """Return pictures with a third of the pixels hidden, and noise."""
    kept = torch.rand(inputs.shape, generator=generator) > 0.3
    return inputs * kept + 0.1 * torch.randn(inputs.shape, generator=generator)


def info_nce(generator: Generator) -> Run:
    """Tell the two views of a digit from the views of others."""
    inputs, targets, held_out = digits()
    encoder = perceptron(64, 128, 32, activation=nn.ReLU)
    sample = rows_of(generator, inputs, targets)

    def criterion(first: Tensor, second: Tensor) -> Tensor:
        a, b = (F.normalize(encoder(views), dim=-1) for views in (first, second))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    shown = held_out[0][:256]
    pairs = [(_views(generator, part), _views(generator, part)) for part in shown.split(64)]

    def loss(step: int) -> Tensor:
        pictures, _ = sample(64)
        return criterion(_views(generator, pictures), _views(generator, pictures))

    @torch.no_grad()
    def evaluate() -> float:
        return sum(criterion(*pair).item() for pair in pairs) / len(pairs)

    return Run(encoder.parameters, loss, evaluate)


def triplet(generator: Generator) -> Run:
    """Bring noisy digits of a class closer together than those of another class."""
    inputs, targets, (others, labels) = digits()
    encoder = perceptron(64, 64, 8, activation=nn.ReLU)

    def triplets(pictures: Tensor, classes: Tensor, n: int) -> Tensor:
        """Return anchors, positives and negatives ``[3, n, 64]``."""
        order = classes.argsort(stable=True)  # class by class
        sizes = classes.bincount(minlength=10)
        first = sizes.cumsum(0) - sizes
        near = torch.randint(10, (n,), generator=generator)
        far = (near + torch.randint(1, 10, (n,), generator=generator)) % 10
        of_class = torch.stack([near, near, far])
        within = (uniform(generator, 3, n) * sizes[of_class]).long()
        drawn = pictures[order[first[of_class] + within]]
        return drawn + 0.4 * torch.randn(drawn.shape, generator=generator)

    def criterion(drawn: Tensor) -> Tensor:
        return F.triplet_margin_loss(*encoder(drawn).unbind(), margin=1.0)

    fixed = triplets(others, labels, 1000)
    return Run(
        encoder.parameters,
        lambda step: criterion(triplets(inputs, targets, 64)),
        torch.no_grad()(lambda: criterion(fixed).item()),
    )


def hinge(generator: Generator) -> Run:
    """Separate two classes by a linear machine on 128 fixed features, with its penalty."""
    frequencies, phases = normal(generator, 3, 128), uniform(generator, 128, high=6.3)
    model = nn.Linear(128, 1)

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = normal(generator, n, 3)
        side = torch.sign(torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2])
        return torch.cos(x @ frequencies + phases), side[:, None]

    def criterion(outputs: Tensor, side: Tensor) -> Tensor:
        penalty = 1e-3 * model.weight.square().sum()
        return F.relu(1 - side * outputs).mean() + penalty

    return supervised(model, criterion, sample, 64)


def focal(generator: Generator) -> Run:
    """Find a class of one example in forty by the focal loss (Lin et al., 2017)."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        rare = torch.rand(n, 1, generator=generator) < 0.025
        x = normal(generator, n, 6)
        inside = 0.4 * x + torch.tensor([1.5, -1.0, 1.0, 0.0, 0.0, 0.0])
        return torch.where(rare, inside, x), rare.float()

    def criterion(outputs: Tensor, rare: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(outputs, rare, reduction="none")
        weight = torch.where(rare > 0, 0.75, 0.25)
        return (weight * (1 - torch.exp(-entropy)) ** 2 * entropy).mean()

    return supervised(perceptron(6, 32, 32, 1), criterion, sample, 128, sample(4000))


def label_noise(generator: Generator) -> Run:
    """Learn ten classes of which 80 % of the labels are random; judged by excess risk."""
    centres = normal(generator, 10, 16)
    model = perceptron(16, 64, 10, activation=nn.ReLU)

    def sample(n: int, noise: float = 0.8) -> tuple[Tensor, Tensor]:
        classes = torch.randint(10, (n,), generator=generator)
        x = centres[classes] + 0.5 * normal(generator, n, 16)
        other = torch.randint(10, (n,), generator=generator)
        wrong = torch.rand(n, generator=generator) < noise
        return x, torch.where(wrong, other, classes)

    x, classes = sample(2000, 0.0)
    chances = 0.2 * F.one_hot(classes, 10) + 0.08

    @torch.no_grad()
    def evaluate() -> float:
        predicted = model(x).log_softmax(-1)
        return F.kl_div(predicted, chances, reduction="batchmean").item()

    run = supervised(model, F.cross_entropy, sample, 64)
    run.evaluate = evaluate
    return run


def listwise(generator: Generator) -> Run:
    """Order lists of ten documents by the Plackett-Luce likelihood (ListMLE)."""
    model = perceptron(6, 32, 32, 1)

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 10, 6, low=-1)
        relevance = torch.sin(3 * x[..., 0]) + 2 * x[..., 1] * x[..., 2] + x[..., 3]
        relevance = relevance + 0.2 * normal(generator, n, 10)
        return x, relevance.argsort(-1, descending=True)

    def criterion(outputs: Tensor, order: Tensor) -> Tensor:
        scores = outputs[..., 0].gather(-1, order)
        remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)
        return (remaining - scores).sum(-1).mean()

    return supervised(model, criterion, sample, 16)


def distillation(generator: Generator) -> Run:
    """Imitate the softened outputs of a frozen random network, by the divergence."""
    teacher = perceptron(10, 64, 8)
    temperature = 2.0

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = normal(generator, n, 10)
        with torch.no_grad():
            return x, torch.softmax(20 * teacher(x) / temperature, -1)

    def criterion(outputs: Tensor, soft: Tensor) -> Tensor:
        predicted = (outputs / temperature).log_softmax(-1)
        return temperature**2 * F.kl_div(predicted, soft, reduction="batchmean")

    return supervised(perceptron(10, 64, 8, activation=nn.ReLU), criterion, sample, 64)


def adversarial(generator: Generator) -> Run:
    """Classify digits that a step along the sign of the gradient has changed (FGSM)."""
    inputs, targets, held_out = digits()
    model = perceptron(64, 64, 10, activation=nn.ReLU)
    sample = rows_of(generator, inputs, targets)

    def criterion(pictures: Tensor, classes: Tensor) -> Tensor:
        shown = pictures.clone().requires_grad_()
        clean = F.cross_entropy(model(shown), classes)
        (gradient,) = torch.autograd.grad(clean, shown)
        return F.cross_entropy(model(pictures + 0.1 * gradient.sign()), classes)

    return Run(
        model.parameters,
        lambda step: criterion(*sample(64)),
        lambda: criterion(*held_out).item(),
    )


def private(generator: Generator) -> Run:
    """Classify digits with clipped gradients and noise on them, as for privacy."""
    inputs, targets, held_out = digits()
    model = perceptron(64, 32, 10, activation=nn.ReLU)
    size, limit, noise = 32, 1.0, 0.5
    sample = rows_of(generator, inputs, targets)

    def clipped(parameter: nn.Parameter, example: Tensor, scale: Tensor) -> Tensor:
        total = (example * scale.view(-1, *[1] * parameter.dim())).sum(0)
        drawn = torch.randn(total.shape, generator=generator)
        return (total + limit * noise * drawn) / size

    def loss(step: int) -> Tensor:
        """Return the loss, whose gradients are those of the clipped examples with noise."""
        pictures, classes = sample(size)
        named = dict(model.named_parameters())

        def of_example(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            outputs = torch.func.functional_call(model, weights, (x[None],))
            return F.cross_entropy(outputs, y[None])

        each = torch.func.vmap(torch.func.grad(of_example), in_dims=(None, 0, 0))
        detached = {name: p.detach() for name, p in named.items()}
        examples = each(detached, pictures, classes)
        squares = torch.stack([g.flatten(1).square().sum(1) for g in examples.values()])
        scale = (limit / squares.sum(0).sqrt()).clamp(max=1.0)
        with torch.no_grad():
            value = F.cross_entropy(model(pictures), classes)
            gradients = [clipped(named[name], g, scale) for name, g in examples.items()]
        # A linear form with these gradients, and the value of the loss.
        form = sum((p * g).sum() for p, g in zip(named.values(), gradients, strict=True))
        assert isinstance(form, Tensor)
        return value + form - form.detach()

    run = supervised(model, F.cross_entropy, sample, size, held_out)
    run.loss = loss
    return run


def lasso(generator: Generator) -> Run:
    """Recover ten of 200 coefficients from 100 rows by the absolute penalty, full batch."""
    truth = torch.zeros(200)
    truth[:10] = torch.tensor([0.5, -0.5]).repeat(5)
    x = normal(generator, 100, 200)
    y = x @ truth + 0.1 * normal(generator, 100)
    weights = nn.Parameter(0.1 * torch.randn(200))

    def loss(step: int) -> Tensor:
        return (x @ weights - y).square().mean() / 2 + 0.05 * weights.abs().sum()

    return Run(lambda: [weights], loss, torch.no_grad()(lambda: loss(0).item()))


METRICS: tuple[Problem, ...] = (
    Problem("info-nce", "two views of digits, contrastive", 300, info_nce),
    Problem("triplet", "distances between noisy digits, margin loss", 300, triplet),
    Problem("hinge", "linear support vector machine with its penalty", 500, hinge),
    Problem("focal", "class of one example in 40, focal loss", 400, focal),
    Problem("label-noise", "ten classes, 80 % of the labels random", 400, label_noise),
    Problem("listwise", "orders of ten documents, ListMLE", 400, listwise),
    Problem("distillation", "softened outputs of a frozen network", 500, distillation),
    Problem("adversarial", "digits changed along the gradient (FGSM)", 300, adversarial),
    Problem("private", "digits, gradients clipped by example and with noise", 300, private),
    Problem("lasso", "sparse linear regression with an absolute penalty", 500, lasso),
)
