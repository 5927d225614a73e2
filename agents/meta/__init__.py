"""Gradient-based meta-learners: MAML and its kin, on few-shot tasks."""

from .episodes import Episodes, Examples, Family
from .learned_rates import LearnedLR, MetaSGD
from .learner import Evaluation, MetaLearner
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .reptile import Reptile
from .sinusoids import Sinusoids

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "Episodes",
    "Evaluation",
    "Examples",
    "Family",
    "LearnedLR",
    "MetaLSTM",
    "MetaLearner",
    "MetaSGD",
    "Reptile",
    "Sinusoids",
]
