"""Old names of what :mod:`small_runs` and :mod:`policies` hold."""

from __future__ import annotations

from tests.helpers.policies import random_policy
from tests.helpers.small_runs import ENV_IDS as IDS
from tests.helpers.small_runs import ENV_RULE_PAIRS as PAIRS
from tests.helpers.small_runs import (
    MLP,
    QUADRATIC,
    assert_identical,
    assert_same,
    clone,
    convolutional_module,
    generators,
    leaves,
    linear_module,
    module_task,
    random_actions,
    rollout,
)
from tests.helpers.small_runs import RULE_NAMES as RULES
from tests.helpers.small_runs import neutral_action as keep
from tests.helpers.small_runs import sample_runs as new_runs
from tests.helpers.small_runs import start_runs as started

__all__ = [
    "IDS", "MLP", "PAIRS", "QUADRATIC", "RULES", "assert_identical", "assert_same", "clone",
    "convolutional_module", "generators", "keep", "leaves", "linear_module", "module_task",
    "new_runs", "random_actions", "random_policy", "rollout", "started",
]  # fmt: skip
