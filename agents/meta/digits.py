"""Old path of :mod:`agents.meta.families.digits`."""

from .families.digits import TEST, TRAINING, digits

__all__ = ["TEST", "TRAINING", "digits"]
