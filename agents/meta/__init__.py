"""Gradient-based meta-learners: on few-shot tasks, on streams, and on training runs."""

from ..rl.unrolled import UnrolledLR
from ..rl.unrolled_rule import UnrolledRule
from .amortized import AmortizedLearner, Matching, Prototypical
from .continual.look_ahead import LaMAML
from .continual.oml import OML, Streams
from .continual.online import OnlineLearner, OnlineSGD, Replay, Retention
from .continual.streams import DigitStream, SineStream, Stream
from .digits import digits
from .families.episodes import Episodes, Examples, Family
from .families.few_shot import Classes, FewShot
from .families.omniglot import omniglot
from .families.sinusoids import Sinusoids
from .families.stroke_fonts import glyphs
from .learned_rates import LSLR, HypergradientLR, MetaSGD
from .learner import MetaLearner
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .mlp_rule import LearnedRule
from .networks import ProcessNetwork
from .outer import Callback, Evaluation, Learner
from .processes import NeuralProcess
from .reptile import Reptile

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
