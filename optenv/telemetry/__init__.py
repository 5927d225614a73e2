"""Telemetry: statistics of updates, and the observation computed from them.

Environment and exported optimizer both (1) record the loss of every update in
:class:`Losses`, (2) measure a :class:`Probe` of gradient and step at the last update of
each window, and (3) call :func:`observe`. They differ only in the inner product: row sums
over a batch of flat parameters, or a sum over a list of tensors.

The observation is *scale-free*: log-ratios to the run's own history, differences of losses
in units of their range, noise and usual change, cosines, relative step sizes and progress;
never a raw loss, gradient norm or parameter count. There are two exceptions, both chosen by
the user: the learning rate and the length of the run, which together say how far training
can move the parameters. Windows are fractions of the run with one probe each, whatever
their length.

Where validation losses are given, :func:`record_validation` keeps their history, a
:class:`ValidationHistory`, which is a further argument of :func:`observe`.

:data:`ALL_FEATURES` lists all features, and :data:`FEATURES` those observed by default;
:func:`register_feature` adds one from outside the package. Tensors have shape ``[B]``, one
entry per run, unless stated otherwise.
"""

from .control import Control
from .features import (
    ALL_FEATURES,
    FEATURE_VERSION,
    FEATURES,
    INVARIANT_LOSS_FEATURES,
    LOSS_FEATURE_SETS,
    LOSS_FEATURES,
    OBSERVATION_BOUND,
    POSITIVE_LOSS_FEATURES,
    VALIDATION_FEATURES,
    loss_features_of,
    observed_features,
    observes_validation,
    own_features,
)
from .history import History, relative_fall
from .observation import observe
from .registered import (
    FeatureFunction,
    check_features,
    check_known_features,
    meaning_of,
    register_feature,
    registered_among,
)
from .statistics import Losses, Probe, first_probe, log_loss, probe
from .validation import ValidationHistory, record_validation

__all__ = [
    "ALL_FEATURES",
    "FEATURES",
    "FEATURE_VERSION",
    "INVARIANT_LOSS_FEATURES",
    "LOSS_FEATURES",
    "LOSS_FEATURE_SETS",
    "OBSERVATION_BOUND",
    "POSITIVE_LOSS_FEATURES",
    "VALIDATION_FEATURES",
    "Control",
    "FeatureFunction",
    "History",
    "Losses",
    "Probe",
    "ValidationHistory",
    "check_features",
    "check_known_features",
    "first_probe",
    "log_loss",
    "loss_features_of",
    "meaning_of",
    "observe",
    "observed_features",
    "observes_validation",
    "own_features",
    "probe",
    "record_validation",
    "register_feature",
    "registered_among",
    "relative_fall",
]
