"""Costs of updates: measured times of the rules, relative to the time of a gradient."""

from __future__ import annotations

from ..checks import positive

__all__ = ["COSTS", "relative_cost"]

#: Time to update one parameter, by the name of the rule, in units of the time of one
#: multiplication in the forward pass of linear layers. ``python benchmarks/rule_costs.py``
#: measures it for layers of 64 inputs (on one thread of a CPU; repetitions differ by a
#: fifth). The values stay fixed, so that rewards by time do not change: on another CPU, all
#: were three times as large, and the ratio of orthogonal-adam, which has become cheaper
#: since, to Adam was half as large. To give your own rule a cost, add an entry. A rule that
#: actions of ``optenv/UpdateRule-v0`` choose has the same cost as the rule by itself.
COSTS: dict[str, float] = {
    "sgd": 3.8,
    "momentum": 10.3,
    "nesterov": 16.8,
    "rmsprop": 34.2,
    "adam": 51.7,
    "nadam": 71.3,
    "lion": 31.0,
    "orthogonal-adam": 527.0,
    "network": 114.0,
}

#: Number of multiplications of a gradient per multiplication of the forward pass: the
#: backward pass makes about two.
GRADIENT = 3.0


def relative_cost(
    name: str, num_params: int, work: float, batch_factor: float = 1.0
) -> float:
    """Compute the time of an update, gradient included, in units of an update of SGD.

    Args:
        name: name of the update rule.
        num_params: number of parameters of the model.
        work: multiplications in the forward pass on one batch,
            :attr:`optenv.tasks.Task.work`.
        batch_factor: size of the update's batch, relative to the batch of ``work`` and of
            the update of SGD.

    Raises:
        ValueError: the cost of the rule is not known, or not positive.
        TypeError: the cost of the rule is not a number.

    Example:
        >>> round(relative_cost("adam", num_params=1000, work=32_000), 2)
        1.48
    """
    if name not in COSTS:
        raise ValueError(
            f"the cost of rule {name!r} is not known, which the reward needs; "
            f"optenv.rules.COSTS has those of {', '.join(COSTS)}, and "
            f"optenv.rules.COSTS[{name!r}] = ... adds it"
        )
    update, reference = (
        GRADIENT * examples + num_params * positive(f"cost of rule {each!r}", COSTS[each])
        for each, examples in ((name, work * batch_factor), ("sgd", work))
    )
    return update / reference
