"""Evaluation runs of learners that differentiate through unrolled training runs."""

from __future__ import annotations

import numpy as np
import torch

from optenv.group import Group


def reset(group, seed=0):
    """Start all runs of ``group`` with seeds ``seed``, ``seed + 1``, ..."""
    generators = [np.random.default_rng(seed + i) for i in range(group.size)]
    return group.reset(np.arange(group.size), generators, np.random.default_rng(seed))


def returns(learner, count=64):
    """Return the returns ``[count]`` of runs with the learner's current rule or policy."""
    group = Group(learner.settings, count)
    learner._begin_segment(group)
    observation, total = reset(group, seed=10**6), torch.zeros(count)
    for _ in range(group.num_steps):
        with torch.no_grad():
            result = group.step(learner.policy(observation))
        observation, total = result.observation, total + result.reward
    return total
