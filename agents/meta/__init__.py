"""Gradient-based meta-learners: MAML and its kin, on few-shot tasks."""

from .amortized import AmortizedLearner, Matching, NeuralProcess, Prototypical
from .digits import digits
from .episodes import Episodes, Examples, Family
from .few_shot import Classes, FewShot
from .glyphs import glyphs
from .learned_rates import HypergradientLR, LearnedLR, MetaSGD
from .learned_rule import LearnedRule
from .learner import MetaLearner
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .networks import ProcessNetwork
from .omniglot import omniglot
from .outer import Evaluation, Learner
from .reptile import Reptile
from .sinusoids import Sinusoids

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "AmortizedLearner",
    "Classes",
    "Episodes",
    "Evaluation",
    "Examples",
    "Family",
    "FewShot",
    "HypergradientLR",
    "LearnedLR",
    "LearnedRule",
    "Learner",
    "Matching",
    "MetaLSTM",
    "MetaLearner",
    "MetaSGD",
    "NeuralProcess",
    "ProcessNetwork",
    "Prototypical",
    "Reptile",
    "Sinusoids",
    "digits",
    "glyphs",
    "omniglot",
]
