"""Keys of a parameter's state in the optimizer, besides the slots of its update rule."""

from __future__ import annotations

__all__ = [
    "AVERAGE",
    "BUFFERS",
    "DECIDED",
    "GOOD_PARAM",
    "OWN",
    "REMEMBERED",
    "STARTED",
]

#: Average of the parameter, if the policy sets ``average``.
AVERAGE = "average"

#: Buffers of the probe (:mod:`agents.optim.probe`); a parameter has all or none.
BUFFERS = ("last_grad", "last_step", "watched")

#: Buffer that a parameter has only while an update is measured.
STARTED = "last_param"

#: Copy of the parameter that a roll-back returns to.
GOOD_PARAM = "good_param"

#: Last decision on a tensor, for policies that act on single tensors: one vector of its
#: log-multiplier, the last requested change of it (both in nats), and its history
#: (:class:`optenv.telemetry.History`), on the CPU.
DECIDED = "decided"

#: Memory of such policies for a tensor, if they are recurrent or for trials: one vector of
#: the encoding of the last action and the policy's hidden state, on the CPU.
REMEMBERED = "remembered"

#: All of them. No slot of a rule may have one of these names.
OWN = (*BUFFERS, STARTED, GOOD_PARAM, AVERAGE, DECIDED, REMEMBERED)
