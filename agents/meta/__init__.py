"""Gradient-based meta-learners: MAML and its kin, on few-shot tasks."""

from .episodes import Episodes, Examples, Family
from .few_shot import Classes, FewShot
from .glyphs import glyphs
from .learned_rates import LearnedLR, MetaSGD
from .learner import Evaluation, MetaLearner
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .omniglot import omniglot
from .reptile import Reptile
from .sinusoids import Sinusoids

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "Classes",
    "Episodes",
    "Evaluation",
    "Examples",
    "Family",
    "FewShot",
    "LearnedLR",
    "MetaLSTM",
    "MetaLearner",
    "MetaSGD",
    "Reptile",
    "Sinusoids",
    "glyphs",
    "omniglot",
]
