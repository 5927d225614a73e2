"""The update rules: functions of parameters, gradient, state and learning rate.

Each returns new parameters ``[B, P]`` and a new state; :mod:`optenv.rules` says of what
shapes its arguments are, and which ``inplace=True`` overwrites: all but the gradient and
the learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .hyperparameters import HYPERPARAMETERS, LION, Hyperparameters
from .inplace import addcmul, mul, ratio, root_of, sign
from .orthogonal import orthogonalize_flat

#: Tensors ``[B, ...]``.
RuleState = tuple[Tensor, ...]


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
    buffer = _velocity(grad, state, inplace, h)
    return addcmul(params, buffer, lr, -1.0, inplace), (buffer,)


def nesterov(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r""":math:`b \leftarrow \mu b + g;\ \theta \leftarrow \theta - \eta (g + \mu b)`
    (Sutskever et al., 2013).
    """
    buffer = _velocity(grad, state, inplace, h)
    direction = grad.add(buffer, alpha=h.momentum)
    return addcmul(params, direction, lr, -1.0, inplace), (buffer,)


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


def nadam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r"""Adam with Nesterov's momentum, which warms up (Dozat, 2016).

    With :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)` of the ``momentum_decay``
    :math:`\psi`, and :math:`m` and :math:`v` of :func:`adam`:
    :math:`\theta \leftarrow \theta - \eta \left(
    \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} +
    \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i}\right) /
    (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon)`
    """
    mean, root, moments = _moments(grad, state[:3], inplace, h)
    step, product = moments[2], state[3]
    now, next_ = (
        h.beta1 * (1 - 0.5 * 0.96 ** (t * h.momentum_decay)) for t in (step, step + 1)
    )
    product = product * now
    ahead = mean * (next_ / (1 - product * next_))
    ahead = addcmul(ahead, grad, (1 - now) / (1 - product), 1.0, inplace)
    direction = ratio(ahead, root, h.eps, inplace)
    return addcmul(params, direction, lr, -1.0, inplace), (*moments, product)


def lion(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = LION,
) -> tuple[Tensor, RuleState]:
    r""":math:`\theta \leftarrow \theta - \eta\, \text{sign}(\beta_1 m + (1-\beta_1) g);\
    m \leftarrow \beta_2 m + (1-\beta_2) g` (Chen et al., 2023).

    Derivatives flow through parameters and learning rates; that of the sign is 0.
    """
    (mean,) = state
    direction = (mean * h.beta1).add_(grad, alpha=1 - h.beta1)
    mean = mean.lerp_(grad, 1 - h.beta2) if inplace else mean.lerp(grad, 1 - h.beta2)
    return addcmul(params, sign(direction, inplace), lr, -1.0, inplace), (mean,)


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
    by its approximate polar factor, as long as it
    (:func:`optenv.rules.orthogonal.orthogonalize`,
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


def _velocity(grad: Tensor, state: RuleState, inplace: bool, h: Hyperparameters) -> Tensor:
    """The buffer of momentum after another gradient."""
    buffer = mul(state[0], h.momentum, inplace)
    return buffer.add_(grad) if inplace else buffer + grad


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
