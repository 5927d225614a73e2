"""Update rules as pure functions on a batch of flat parameters.

A rule turns a gradient into new parameters. All tensors carry one leading batch
dimension ``B`` (runs); parameters are flat, ``[B, P]``. By default nothing is changed in
place, so that gradients flow through an update and a kept state stays valid; with
``inplace=True`` parameters and state are overwritten, which spares the time to allocate.

Every rule that has a namesake in ``torch.optim`` equals it (no weight decay) to float
tolerance. Hyperparameters are torch's defaults unless a specification gives others, as in
``{"name": "adam", "beta1": 0.8}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import switching
from .checks import is_number
from .inplace import addcmul, mul, ratio, root_of
from .orthogonal import orthogonalize_flat

RuleState = tuple[Tensor, ...]

#: Name of a rule, or its name and hyperparameters.
RuleSpec = str | dict[str, Any]


@dataclass(frozen=True)
class Hyperparameters:
    r"""What a rule holds fixed; the defaults are torch's.

    With a ``power`` :math:`p > 0`, the mean square decays by :math:`\min(\beta_2,
    1 - t^{-p})` at update ``t``, without bias correction, as Adafactor's does (Shazeer &
    Stern, 2018, with 0.8): it is of about the last :math:`t^p` gradients, few early in
    the run and many late.

    Raises:
        ValueError: ``eps`` is not positive, or another is not in [0, 1).
        TypeError: one is no number.
    """

    momentum: float = 0.9
    alpha: float = 0.99
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    power: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if name == "eps" and not 0 < value < math.inf:
                raise ValueError(f"eps must be positive and finite, got {value!r}")
            if name != "eps" and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
            object.__setattr__(self, name, float(value))

    def decay(self, step: Any) -> Any:
        """Decay of the mean square at update ``step``, a number or a tensor from 1 on."""
        if self.power == 0:
            return self.beta2
        grown = 1 - step**-self.power
        return (
            grown.clamp(max=self.beta2)
            if isinstance(grown, Tensor)
            else min(grown, self.beta2)
        )


HYPERPARAMETERS = Hyperparameters()


class Rule(NamedTuple):
    """An update rule.

    Attributes:
        name: the key in :data:`RULES`.
        default_lr: a usual base learning rate of the rule.
        fields: the hyperparameters that it has.
        init: ``params [B, P] -> state``, a tuple of ``[B, ...]`` tensors.
        update: ``(params [B, P], grad [B, P], state, lr [B, 1], inplace=False) -> (params,
            state)``.
        hyperparameters: what it holds fixed.
        shaped: whether an update depends on the shapes of the parameters; see :meth:`bind`.
    """

    name: str
    default_lr: float
    fields: tuple[str, ...]
    init: Callable[[Tensor], RuleState]
    update: Callable[..., tuple[Tensor, RuleState]]
    hyperparameters: Hyperparameters
    shaped: bool = False

    def bind(self, shapes: Sequence[Sequence[int]]) -> Rule:
        """The rule for parameters of these shapes; only then can a shaped rule update."""
        if not self.shaped:
            return self
        return self._replace(update=partial(self.update, shapes=shapes))

    def to_spec(self) -> RuleSpec:
        """Name, with the hyperparameters that are not torch's; :func:`get` reads it."""
        ours, default = asdict(self.hyperparameters), asdict(HYPERPARAMETERS)
        changed = {name: ours[name] for name in self.fields if ours[name] != default[name]}
        return {"name": self.name, **changed} if changed else self.name


def _no_state(params: Tensor) -> RuleState:
    return ()


def _one_buffer(params: Tensor) -> RuleState:
    return (torch.zeros_like(params),)


def _adam_state(params: Tensor) -> RuleState:
    step = torch.zeros(params.shape[0], 1, dtype=params.dtype, device=params.device)
    return torch.zeros_like(params), torch.zeros_like(params), step


def sgd(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r""":math:`\theta \leftarrow \theta - \eta g`."""
    return addcmul(params, grad, lr, -1.0, inplace), state


def momentum(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r""":math:`b \leftarrow \mu b + g;\ \theta \leftarrow \theta - \eta b` (Polyak)."""
    buffer = mul(state[0], h.momentum, inplace)
    buffer = buffer.add_(grad) if inplace else buffer + grad
    return addcmul(params, buffer, lr, -1.0, inplace), (buffer,)


def rmsprop(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r""":math:`v \leftarrow \alpha v + (1-\alpha) g^2;\
    \theta \leftarrow \theta - \eta g / (\sqrt v + \epsilon)` (Tieleman & Hinton).
    """
    square = mul(state[0], h.alpha, inplace)
    square = addcmul(square, grad, grad, 1 - h.alpha, inplace)
    root = root_of(square)
    direction = ratio(grad, root, h.eps, inplace)
    return addcmul(params, direction, lr, -1.0, inplace), (square,)


def adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r"""Adam with bias correction (Kingma & Ba, 2015).

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g;\ v \leftarrow \beta_2 v +
    (1-\beta_2) g^2;\ \theta \leftarrow \theta - \frac{\eta}{1-\beta_1^t}
    \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}`
    """
    mean, root, state = _moments(grad, state, inplace, h)
    direction = ratio(mean, root, h.eps, inplace)
    lr = lr / (1 - h.beta1 ** state[2])
    return addcmul(params, direction, lr, -1.0, inplace), state


def orthogonal_adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, RuleState]:
    r"""Adam whose directions of matrices are orthogonalised.

    The direction is that of Adam with Nesterov's momentum, :math:`d = \left(
    \frac{\beta_1 m}{1-\beta_1^{t+1}} + \frac{(1-\beta_1) g}{1-\beta_1^t}\right) /
    (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon)` (Dozat, 2016). Of a matrix, it is replaced
    by its approximate polar factor, as long as it (:func:`optenv.orthogonal.orthogonalize`,
    after Muon of Jordan et al., 2024), so that learning rates of Adam serve. How long
    :math:`v` remembers can grow with the run: ``power`` of :class:`Hyperparameters`.
    """
    if shapes is None:
        raise TypeError("orthogonal-adam needs shapes: bind the rule to them first")
    mean, root, state = _moments(grad, state, inplace, h)
    step = state[2]
    ahead = mean * (h.beta1 / (1 - h.beta1 ** (step + 1)))
    ahead = addcmul(ahead, grad, (1 - h.beta1) / (1 - h.beta1**step), 1.0, inplace)
    direction = orthogonalize_flat(ratio(ahead, root, h.eps, inplace), shapes)
    return addcmul(params, direction, lr, -1.0, inplace), state


def _moments(
    grad: Tensor, state: RuleState, inplace: bool, h: Hyperparameters
) -> tuple[Tensor, Tensor, RuleState]:
    """Adam's mean, unbiased root of the mean square (which may be overwritten), state."""
    mean, square, step = state
    step = step + 1
    mean = mean.lerp_(grad, 1 - h.beta1) if inplace else mean.lerp(grad, 1 - h.beta1)
    decay = h.decay(step)
    square = mul(square, decay, inplace)
    if h.power == 0:
        square = addcmul(square, grad, grad, 1 - decay, inplace)
    else:
        square = addcmul(square, grad * grad, 1 - decay, 1.0, inplace)
    root = root_of(square)
    if h.power == 0:
        root = mul(root, (1 - h.beta2**step).rsqrt(), inplace)
    return mean, root, (mean, square, step)


_ADAM = ("beta1", "beta2", "eps")

RULES: dict[str, Rule] = {
    name: Rule(name, default_lr, fields, init, update, HYPERPARAMETERS, shaped)
    for name, default_lr, fields, init, update, shaped in (
        ("sgd", 1e-1, (), _no_state, sgd, False),
        ("momentum", 1e-2, ("momentum",), _one_buffer, momentum, False),
        ("rmsprop", 1e-3, ("alpha", "eps"), _one_buffer, rmsprop, False),
        ("adam", 1e-3, _ADAM, _adam_state, adam, False),
        ("orthogonal-adam", 1e-3, (*_ADAM, "power"), _adam_state, orthogonal_adam, True),
    )
}


#: Of environments whose actions choose among rules: which is chosen is in its state.
SWITCHING = Rule(
    "switching", 1e-3, (), switching.init, switching.update, HYPERPARAMETERS, shaped=True
)


def get(spec: RuleSpec) -> Rule:
    """Return the rule of a name, or of a dict of ``name`` and hyperparameters.

    Raises:
        ValueError: there is no such rule, or a hyperparameter is out of its range; the
            message lists what is valid.
        TypeError: the rule has no such hyperparameter, or it is no number.
    """
    fields = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = fields.pop("name", None)
    if name not in (*RULES, SWITCHING.name):
        raise ValueError(f"unknown rule {name!r}; valid rules: {', '.join(RULES)}")
    rule = RULES.get(name, SWITCHING)
    for field in fields:
        if field not in rule.fields:
            valid = ", ".join(rule.fields) or "none"
            raise TypeError(
                f"rule {name!r} has no hyperparameter {field!r}; valid: {valid}"
            )
    h = Hyperparameters(**fields)
    return rule._replace(update=partial(rule.update, h=h), hyperparameters=h)
