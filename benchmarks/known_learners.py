"""What RL² is compared with in ``known_ground.py``, and the play of a trial.

A learner is made for a batch of trials and maps each observation of theirs to actions. All
but the two that are told the instance see what RL² sees, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from known_envs import Trials

#: Observations ``[n, S + 2 S A + 1]`` to actions ``[n]``.
Learner = Callable[[np.ndarray], np.ndarray]


def play(env: Trials, make: Callable[[Trials], Learner], seed: int) -> np.ndarray:
    """Total reward ``[n]`` of one trial of each instance that the seed draws."""
    env.seed(seed)
    observation = env.reset()
    learner, total = make(env), np.zeros(env.num_envs)
    for _ in range(env.horizon):
        observation, rewards, _, _ = env.step(learner(observation))
        total += rewards
    return total


class Recurrent:
    """A recurrent model of SB3's, its memory empty when the trial begins.

    Args:
        env: of the trials.
        model: what ``predict`` belongs to.
        deterministic: the likeliest action, instead of one drawn.
    """

    def __init__(self, env: Trials, model: Any, deterministic: bool) -> None:
        self.model, self.deterministic = model, deterministic
        self.memory: Any = None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        actions, self.memory = self.model.predict(
            observation, self.memory, deterministic=self.deterministic
        )
        return actions


class Random:
    """Every action as likely."""

    def __init__(self, env: Trials) -> None:
        self.env, self.rng = env, np.random.default_rng(1)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self.rng.integers(self.env.actions, size=len(observation))


class Counting(Random):
    """Counts of what was seen: visits and rewards ``[n, S, A]``, moves ``[n, S, A, S]``.

    The state that the last action of an episode leads to is not seen, nor counted.
    """

    def __init__(self, env: Trials) -> None:
        super().__init__(env)
        shape = (env.num_envs, env.states, env.actions)
        self.visits, self.rewards = np.zeros(shape), np.zeros(shape)
        self.moves = np.zeros((*shape, env.states))
        self.time = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        states, pairs = self.env.states, self.env.states * self.env.actions
        ends = states, states + pairs, states + 2 * pairs
        now, pair, earned, _ = np.split(observation, ends, axis=1)
        state = now.argmax(1)
        if self.time:
            where = np.arange(len(state)), *divmod(pair.argmax(1), self.env.actions)
            self.visits[where] += 1
            self.rewards[where] += earned.sum(1)
            if not observation[0, -1]:
                self.moves[(*where, state)] += 1
        self.state = state
        chosen = self.choose(begins=bool(observation[0, -1]))
        self.time += 1
        return chosen

    def choose(self, begins: bool) -> np.ndarray:
        """Actions in the states that runs are in."""
        raise NotImplementedError


class Thompson(Counting):
    """Thompson sampling on bandits: the best arm of a draw from Beta(1, 1)'s posterior."""

    def choose(self, begins: bool) -> np.ndarray:
        won, pulled = self.rewards[:, 0], self.visits[:, 0]
        return self.rng.beta(1 + won, 1 + pulled - won).argmax(1)


class UCB1(Counting):
    """The arm of the highest bound, after one success and one failure of each.

    ``mean + c sqrt(2 log t / pulls)`` (Auer et al., 2002, with a factor); greedy where c
    is 0. Ties are broken at random.

    Args:
        env: bandits.
        c: how optimistic it is.
    """

    def __init__(self, env: Trials, c: float) -> None:
        super().__init__(env)
        self.c = c

    def choose(self, begins: bool) -> np.ndarray:
        pulls = 2 + self.visits[:, 0]
        bonus = np.sqrt(2 * np.log(self.time + 1) / pulls)
        bound = (1 + self.rewards[:, 0]) / pulls + self.c * bonus
        return (bound + 1e-9 * self.rng.random(bound.shape)).argmax(1)


class Planning(Counting):
    """Acts on an MDP that it takes for true: here the true one, which is the optimum."""

    def believed(self) -> tuple[np.ndarray, np.ndarray]:
        """Transitions and means to plan the next episode with."""
        return self.env.transitions, self.env.means

    def choose(self, begins: bool) -> np.ndarray:
        if begins:
            self.plan = plan(*self.believed(), self.env.steps)
        runs = np.arange(len(self.state))
        return self.plan[self.time % self.env.steps, runs, self.state]


class PSRL(Planning):
    """Posterior sampling (Strens, 2000; Osband et al., 2013): a draw for each episode.

    The prior is what instances are drawn from: flat Dirichlet, and N(1, 1) with rewards of
    unit variance.
    """

    def believed(self) -> tuple[np.ndarray, np.ndarray]:
        transitions = self.rng.standard_gamma(1 + self.moves)
        transitions /= transitions.sum(-1, keepdims=True)
        precision = 1 + self.visits
        mean = (1 + self.rewards) / precision
        return transitions, self.rng.normal(mean, precision**-0.5)


def plan(transitions: np.ndarray, means: np.ndarray, steps: int) -> np.ndarray:
    """Best actions ``[steps, n, S]`` by value iteration over an episode.

    Args:
        transitions: ``[n, S, A, S]``.
        means: of rewards, ``[n, S, A]``.
        steps: of the episode.
    """
    values = np.zeros(means.shape[:2])
    best = np.empty((steps, *values.shape), int)
    for step in reversed(range(steps)):
        worth = means + np.einsum("nsat,nt->nsa", transitions, values)
        best[step], values = worth.argmax(-1), worth.max(-1)
    return best
