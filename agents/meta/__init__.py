"""Meta-learners of few-shot tasks, of streams of tasks, and of training runs.

Few-shot learners (:data:`LEARNERS`) learn on a family of tasks: gradient-based ones, which
share one inner loop, and amortized ones, which need none. Online learners
(:data:`ONLINE_LEARNERS`) learn from a stream of tasks; :class:`OML` meta-learns initial
parameters for them. :class:`UnrolledLR` and :class:`UnrolledRule` differentiate through
training runs, and are re-exported from :mod:`agents.rl`.
"""

from ..rl.unrolled import UnrolledLR
from ..rl.unrolled_rule import UnrolledRule
from .amortized import AmortizedLearner, Matching, NeuralProcess, Prototypical
from .continual.la_maml import LaMAML
from .continual.oml import OML, Streams
from .continual.online import OnlineLearner, OnlineSGD, Replay, Retention
from .continual.streams import DigitStream, SineStream, Stream
from .digits import digits
from .families.episodes import Episodes, Examples, Family
from .families.few_shot import Classes, FewShot
from .families.omniglot import omniglot
from .families.sinusoids import Sinusoids
from .families.stroke_fonts import glyphs
from .inner import InnerRule
from .learned_rates import LSLR, HypergradientLR, MetaSGD
from .learner import MetaLearner
from .maml import ANIL, FOMAML, MAML
from .meta_lstm import MetaLSTM
from .mlp_rule import LearnedRule
from .networks import ProcessNetwork
from .outer import Callback, Evaluation, Learner
from .reptile import Reptile

__all__ = [
    "ANIL",
    "FOMAML",
    "LEARNERS",
    "LSLR",
    "MAML",
    "OML",
    "ONLINE_LEARNERS",
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
    "InnerRule",
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

#: Few-shot learners by name. ``tests/agents/meta/test_learner_contract.py`` tests what all
#: of them guarantee.
LEARNERS: dict[str, type[Learner]] = {
    cls.__name__: cls
    for cls in (
        *(MAML, FOMAML, ANIL, MetaSGD, LSLR, HypergradientLR, MetaLSTM, LearnedRule),
        *(Reptile, OML, Prototypical, Matching, NeuralProcess),
    )
}

#: Learners of one stream, by name.
ONLINE_LEARNERS: dict[str, type[OnlineLearner]] = {
    cls.__name__: cls for cls in (OnlineSGD, Replay, LaMAML)
}
