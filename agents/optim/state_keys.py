"""Names of what the optimizer keeps in the state of a parameter, beside its update rule."""

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

#: Average of the parameter, if the policy sets one.
AVERAGE = "average"

#: Buffers of the probe, of which a parameter has all or none.
BUFFERS = ("last_grad", "last_step", "watched")

#: Buffer that a parameter has only while an update is measured.
STARTED = "last_param"

#: Copy of the parameter that a roll-back returns to.
GOOD_PARAM = "good_param"

#: Decision on a tensor, of policies that act on single ones: log-multiplier, last requested
#: change of it, and history (:func:`optenv.tensor_telemetry.empty_history`), on the CPU.
DECIDED = "decided"

#: Memory of such policies at a tensor, if they are of trials or recurrent: the encoding of
#: the last action on it, and the policy's hidden state, on the CPU.
REMEMBERED = "remembered"

#: All of them. No slot of a rule may have one of these names.
OWN = (*BUFFERS, STARTED, GOOD_PARAM, AVERAGE, DECIDED, REMEMBERED)
