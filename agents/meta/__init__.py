"""Gradient-based meta-learners: on few-shot tasks, on streams, and on training runs."""

from .amortized import AmortizedLearner, Matching, Prototypical
from .digits import digits
from .episodes import Episodes, Examples, Family
from .few_shot import Classes, FewShot
from .glyphs import glyphs
from .learned_rates import LSLR, HypergradientLR, MetaSGD
from .learned_rule import LearnedRule
from .learner import MetaLearner
from .look_ahead import LaMAML
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .networks import ProcessNetwork
from .oml import OML, Streams
from .omniglot import omniglot
from .online import OnlineLearner, OnlineSGD, Replay, Retention
from .outer import Callback, Evaluation, Learner
from .processes import NeuralProcess
from .reptile import Reptile
from .sinusoids import Sinusoids
from .streams import DigitStream, SineStream, Stream
from .unrolled import UnrolledLR
from .unrolled_rule import UnrolledRule

__all__ = [
    "ANIL",
    "FOMAML",
    "LSLR",
    "MAML",
    "OML",
    "AmortizedLearner",
    "Callback",
    "Classes",
    "DigitStream",
    "Episodes",
    "Evaluation",
    "Examples",
    "Family",
    "FewShot",
    "HypergradientLR",
    "LaMAML",
    "LearnedRule",
    "Learner",
    "Matching",
    "MetaLSTM",
    "MetaLearner",
    "MetaSGD",
    "NeuralProcess",
    "OnlineLearner",
    "OnlineSGD",
    "ProcessNetwork",
    "Prototypical",
    "Replay",
    "Reptile",
    "Retention",
    "SineStream",
    "Sinusoids",
    "Stream",
    "Streams",
    "UnrolledLR",
    "UnrolledRule",
    "digits",
    "glyphs",
    "omniglot",
]
