"""Optimizers of the arms that no package provides: Adam-HD, Orthogonal Adam, and others.

Adam's moments are computed by torch in :class:`MuonAdamW` and by the kernels of
:class:`~agents.LearnedOptimizer` in :class:`OrthogonalAdam`. :class:`AdamHD` and
:class:`ScheduleFreePlus` compute them themselves, since they need the unscaled direction of
an update, which neither returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optenv import rules
from optenv.checks import is_number, quoted
from optenv.extras import install_hint

from ...optim.kernels import update
from ...optim.roles import MatrixFlags

__all__ = [
    "AdamHD",
    "MuonAdamW",
    "OrthogonalAdam",
    "ScheduleFreePlus",
    "hidden_weights",
]


class ClosureOptimizer(Optimizer):
    """Base class of optimizers whose ``step()`` calls the closure, then :meth:`update`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; parameters without a gradient stay unchanged.

        Args:
            closure: function that re-evaluates the model and returns the loss.

        Returns:
            Result of ``closure``, or None.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self.update()
        return result

    def update(self) -> None:
        """Update the parameters, given their gradients."""
        raise NotImplementedError


class NotSaved(Optimizer):
    """Base class of optimizers with a state that ``state_dict`` would silently lose."""

    def state_dict(self) -> dict[str, Any]:
        """Not supported.

        Raises:
            NotImplementedError: always, rather than lose a part of the state.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be saved")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Not supported.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be restored")


def _check_settings(betas: tuple[float, float] = (0.0, 0.0), **settings: float) -> None:
    """Refuse decay rates outside [0, 1), and other settings below 0 or not finite.

    Raises:
        ValueError: a setting is invalid; the message quotes it.
    """
    for name, value in settings.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number of at least 0, got {quoted(value)}")
    if len(betas) != 2 or not all(is_number(b) and 0 <= b < 1 for b in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {quoted(betas)}")


class AdamHD(ClosureOptimizer):
    r"""Adam with hypergradient descent on the learning rate (Adam-HD).

    An update moves the parameters by ``-lr * d``, where ``d`` is Adam's direction with bias
    correction. The derivative of the next loss with respect to this ``lr`` is ``-g @ d``,
    where ``g`` is the next gradient. Before ``lr`` is used again, it takes a step of
    gradient descent: ``lr += hyper_lr * (g @ d)``. The product is over all parameters of a
    group. Each group has its own learning rate, in ``param_groups[i]["lr"]``. It is not
    bounded, and may become negative, as in the paper: Baydin et al., "Online Learning Rate
    Adaptation with Hypergradient Descent", ICLR 2018.

    Args:
        params: parameters, or groups of them; gradients must be dense.
        lr: initial learning rate, 1e-3 in the paper.
        hyper_lr: learning rate of the learning rate; in the paper, 1e-7 for logistic
            regression and a multilayer perceptron, 1e-8 for a VGG network.
        betas: decay rates of the moving averages of gradients and of their squares.
        eps: added to the root of the second moment.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        hyper_lr: float = 1e-7,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        _check_settings(betas, lr=lr, hyper_lr=hyper_lr, eps=eps)
        super().__init__(params, dict(lr=lr, hyper_lr=hyper_lr, betas=betas, eps=eps))

    def update(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            # 1. The inner product of this gradient and the last direction moves lr.
            products = [
                (p.grad * self.state[p]["direction"]).sum().cpu()
                for p in params
                if "direction" in self.state[p]
            ]
            if products:  # none before the first update
                group["lr"] += group["hyper_lr"] * torch.stack(products).sum().item()
            # 2. Adam's direction of this gradient moves the parameters.
            for p in params:
                self._set_direction(p, group)
                p.add_(self.state[p]["direction"], alpha=-group["lr"])

    def _set_direction(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        """Store Adam's direction of ``p``, without the learning rate, in its state."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state.update(t=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["t"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(p.grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        root = (state["square"] / (1 - beta2 ** state["t"])).sqrt_().add_(group["eps"])
        state["direction"] = (state["mean"] / root).div_(1 - beta1 ** state["t"])


class ScheduleFreePlus(NotSaved):
    r"""ScheduleFree+: Adam with averaging in place of a schedule and a Polyak step size.

    With the loss ``f`` and the gradient ``g`` at the parameters ``y``, a step is

    .. math::

        \alpha &= \gamma \max(0, f + \beta \langle g, z - x \rangle) /
            (\sqrt{\pi/2}\, \lVert g \rVert_1) \\
        z &\leftarrow z - \alpha \cdot \text{Adam}(g) \\
        x &\leftarrow (1 - c)\, x + c z, \qquad c = \alpha_{\max}^2 / \textstyle\sum
            \alpha_{\max}^2 \\
        y &\leftarrow \beta x + (1 - \beta) z

    where ``alpha_max`` is the largest step size so far. The inner product and the 1-norm
    are over all parameters. The loss has to be positive, with a minimum near 0. Defazio,
    "ScheduleFree+: Scaling Learning-Rate-Free & Schedule-Free Learning to Large Language
    Models", 2026, without its weight decay.

    The parameters are ``y`` after :meth:`train` and ``x`` after :meth:`eval`.

    Args:
        params: parameters, or groups of them; gradients must be dense.
        lr: factor of the Polyak step size, 1 in the paper.
        betas: decay rates of Adam's moving averages.
        averaging: ``beta`` above at the first step.
        averaging_end: ``beta`` after ``annealing`` steps; ``1 - beta`` falls geometrically.
        annealing: number of steps until then; 0 keeps ``averaging``.
        warmup: number of steps over which the step size rises linearly to its own.
        norm_decay: decay rate of a moving average of the 1-norm; 0 uses the norm itself.
        eps: added to the root of the second moment.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        averaging: float = 0.9,
        averaging_end: float = 0.965,
        annealing: int = 0,
        warmup: int = 0,
        norm_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        fractions = dict(
            averaging=averaging, averaging_end=averaging_end, norm_decay=norm_decay
        )
        for name, value in fractions.items():
            if not (is_number(value) and 0 <= value < 1):
                raise ValueError(f"{name} must be a number in [0, 1), got {quoted(value)}")
        counts = dict(lr=lr, annealing=annealing, warmup=warmup, eps=eps)
        _check_settings(betas, **counts)
        super().__init__(params, dict(betas=betas, **fractions, **counts))
        self._t, self._norm, self._weights, self._largest = 0, 0.0, 0.0, 0.0
        self._trains = True

    @torch.no_grad()
    def step(self, closure: None = None, *, loss: float | torch.Tensor) -> None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: argument of torch's optimizers; not called.
            loss: loss of which the gradients were computed.

        Raises:
            RuntimeError: :meth:`eval` was called and :meth:`train` was not.
        """
        if not self._trains:
            raise RuntimeError("call train() before a step, since eval() was called")
        settings = self.param_groups[0]
        beta = self._averaging()
        params = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    x=p.clone(), z=p.clone(), mean=torch.zeros_like(p),
                    square=torch.zeros_like(p),
                )  # fmt: skip
        grads = [p.grad for p in params]

        # 1. The step size: the loss, extrapolated from y to z, over the gradient's norm.
        offset = sum(
            (g * (self.state[p]["z"] - self.state[p]["x"])).sum().item()
            for p, g in zip(params, grads, strict=True)
        )
        norm = sum(torch.linalg.vector_norm(g, ord=1).item() for g in grads)
        decay = settings["norm_decay"]
        self._t += 1
        self._norm = decay * self._norm + (1 - decay) * math.sqrt(math.pi / 2) * norm
        usual = self._norm / (1 - decay**self._t)
        size = max(0.0, float(loss) + beta * offset) / usual if usual else 0.0
        size *= settings["lr"] * min(1.0, self._t / max(1, settings["warmup"]))
        self._largest = max(self._largest, size)
        weight = self._largest**2
        self._weights += weight
        share = weight / self._weights if self._weights else 1.0

        # 2. Adam moves z, its average moves x, and the parameters lie between the two.
        beta1, beta2 = settings["betas"]
        for p, g in zip(params, grads, strict=True):
            state = self.state[p]
            state["mean"].lerp_(g, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
            root = (state["square"] / (1 - beta2**self._t)).sqrt_().add_(settings["eps"])
            state["z"].addcdiv_(state["mean"], root, value=-size / (1 - beta1**self._t))
            state["x"].lerp_(state["z"], share)
            torch.lerp(state["z"], state["x"], beta, out=p)
        for group in self.param_groups:
            group["effective_lr"] = size

    def _averaging(self) -> float:
        """Return ``beta`` of the next step."""
        settings = self.param_groups[0]
        first, last = 1 - settings["averaging"], 1 - settings["averaging_end"]
        if settings["annealing"] <= 0:
            return 1 - first
        done = min(self._t / settings["annealing"], 1.0)
        return float(1 - first ** (1 - done) * last**done)

    @torch.no_grad()
    def eval(self) -> None:
        """Set the parameters to the average ``x``."""
        if self._trains:
            for p, state in self.state.items():
                state["y"] = p.clone()
                p.copy_(state["x"])
        self._trains = False

    @torch.no_grad()
    def train(self) -> None:
        """Set the parameters to ``y``, at which gradients are computed."""
        if not self._trains:
            for p, state in self.state.items():
                p.copy_(state.pop("y"))
        self._trains = True


class OrthogonalAdam(ClosureOptimizer):
    """Orthogonal Adam (:mod:`optenv.rules.orthogonal_adam`) without a policy.

    A comparison with a policy that uses the same rule separates the effect of the policy
    from the effect of the rule.

    Args:
        params: parameters, or groups of them; gradients must be dense.
        lr: learning rate.
        spec: ``"orthogonal-adam"``, or a dict with the name and hyperparameters, as for
            :func:`optenv.rules.get`.

    Raises:
        ValueError: ``lr`` is out of its range, or ``spec`` is of another rule.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        spec: rules.RuleSpec = "orthogonal-adam",
    ) -> None:
        _check_settings(lr=lr)
        rule = rules.get(spec)
        if rule.name != "orthogonal-adam":
            raise ValueError(f"spec must be of the rule 'orthogonal-adam', got {spec!r}")
        super().__init__(params, {"lr": lr, "rule": rule})

    def update(self) -> None:
        # A copy of the optimizer, which has other parameters, has no flags yet.
        flags = self.__dict__.setdefault("_matrices", MatrixFlags())
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                matrices = flags.of(self.param_groups, params)
                update(
                    group["rule"],
                    params,
                    [p.grad for p in params],
                    [self.state[p] for p in params],
                    group["lr"],
                    weight_decay=0.0,
                    matrices=matrices,
                )


def hidden_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return all weights except those of the first layer, the last, and embeddings.

    First and last are in the order of ``module.parameters()``. Parameters with fewer than
    two dimensions (biases, normalisation) are no weights.
    """
    embeddings = {
        id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)
    }
    weights = [p for p in module.parameters() if p.ndim >= 2]
    return [p for p in weights[1:-1] if id(p) not in embeddings]


class MuonAdamW(NotSaved, ClosureOptimizer):
    """Muon for the :func:`hidden_weights` of a module, AdamW for all other parameters.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Muon
    treats a convolution's weight ``[out, in, ...]`` as the matrix ``[out, in * ...]``. Its
    steps are scaled to the size of AdamW's, so that one setting serves both (Liu et al.,
    "Muon is Scalable for LLM Training", 2025). The first parameter group is Muon's, the
    second AdamW's; both follow their ``"lr"``.

    Args:
        module: the whole network, since hidden layers cannot be told from others by the
            parameters alone.
        lr: learning rate of both; the default is AdamW's.
        weight_decay: decoupled weight decay of both; the default is AdamW's.

    Raises:
        ImportError: torch has no Muon, as before 2.9.
        ValueError: torch refuses a setting.
    """

    def __init__(
        self, module: nn.Module, lr: float = 1e-3, weight_decay: float = 1e-2
    ) -> None:
        try:
            from torch.optim import Muon
        except ImportError:
            raise ImportError(
                f"Muon needs torch 2.9 or later, got {torch.__version__}; "
                + install_hint("benchmark")
            ) from None
        settings: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay)
        hidden = hidden_weights(module)
        hidden_ids = {id(p) for p in hidden}
        rest = [p for p in module.parameters() if id(p) not in hidden_ids]
        super().__init__([{"params": hidden}, {"params": rest}], settings)
        # Muon takes matrices only, so it updates views, which share the weights' memory.
        self._views = [(p, p.detach().view(len(p), -1)) for p in hidden]
        self._optimizers: list[tuple[dict[str, Any], Optimizer]] = []
        if hidden:
            matrices = [view for _, view in self._views]
            muon = Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)
            self._optimizers.append((self.param_groups[0], muon))
        if rest:
            adamw = torch.optim.AdamW(rest, fused=True, **settings)
            self._optimizers.append((self.param_groups[1], adamw))

    def update(self) -> None:
        for p, view in self._views:
            view.grad = None if p.grad is None else p.grad.view_as(view)
        for group, optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = group["lr"]
            optimizer.step()
