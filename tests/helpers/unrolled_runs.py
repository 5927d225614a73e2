"""Runs of learners that unroll, to see what they have learned."""

from __future__ import annotations

import numpy as np
import torch

from optenv.group import Group


def reset(group, seed=0):
    generators = [np.random.default_rng(seed + i) for i in range(group.size)]
    return group.reset(np.arange(group.size), generators, np.random.default_rng(seed))


def returns(learner, count=64):
    """Returns of runs that are not learned on, with the rule as it is learned so far."""
    group = Group(learner.settings, count)
    learner._begin_segment(group)
    observation, total = reset(group, seed=10**6), torch.zeros(count)
    for _ in range(group.num_steps):
        with torch.no_grad():
            result = group.step(learner.policy(observation))
        observation, total = result.observation, total + result.reward
    return total
