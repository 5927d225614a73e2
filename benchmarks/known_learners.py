"""Learners with which ``known_ground.py`` compares RL², and a function that plays trials.

A learner is made for a batch of trials and maps each of their observations to actions. All
learners get the same observations as RL², except :class:`Planning`, which knows the
instance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from known_envs import Trials

#: Maps observations ``[n, S + 2 S A + 1]`` to actions ``[n]``.
Learner = Callable[[np.ndarray], np.ndarray]


def play(env: Trials, make: Callable[[Trials], Learner], seed: int) -> np.ndarray:
    """Play one trial of each instance of a seed, and return the total rewards ``[n]``."""
    env.seed(seed)
    observation = env.reset()
    learner, total = make(env), np.zeros(env.num_envs)
    for _ in range(env.horizon):
        observation, rewards, _, _ = env.step(learner(observation))
        total += rewards
    return total


class Recurrent:
    """A recurrent model of Stable-Baselines3, with an empty memory at the begin of a trial.

    Args:
        env: trials to act on.
        model: model with a method ``predict``.
        deterministic: take the likeliest action instead of drawing one.
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
    """All actions with equal probability."""

    def __init__(self, env: Trials) -> None:
        self.env, self.rng = env, np.random.default_rng(1)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self.rng.integers(self.env.actions, size=len(observation))


class Counting(Random):
    """Base class that counts visits, rewards ``[n, S, A]`` and moves ``[n, S, A, S]``.

    The state that the last action of an episode leads to is not observed, nor counted.
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
        """Return actions for the current states; ``begins`` marks a new episode."""
        raise NotImplementedError


class Thompson(Counting):
    """Thompson sampling on bandits, with a Beta(1, 1) prior."""

    def choose(self, begins: bool) -> np.ndarray:
        won, pulled = self.rewards[:, 0], self.visits[:, 0]
        return self.rng.beta(1 + won, 1 + pulled - won).argmax(1)


class UCB1(Counting):
    """The arm of the highest upper confidence bound (Auer et al., 2002).

    The bound is ``mean + c sqrt(2 log t / pulls)``, where each arm begins with one success
    and one failure. It is greedy for ``c = 0``. Ties are broken at random.

    Args:
        env: bandits.
        c: factor of the exploration bonus.
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
    """Optimal planning in an assumed MDP; here it is the true one: the optimum."""

    def believed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return transitions and mean rewards to plan the next episode with."""
        return self.env.transitions, self.env.means

    def choose(self, begins: bool) -> np.ndarray:
        if begins:
            self.plan = plan(*self.believed(), self.env.steps)
        runs = np.arange(len(self.state))
        return self.plan[self.time % self.env.steps, runs, self.state]


class PSRL(Planning):
    """Posterior sampling (Strens, 2000; Osband et al., 2013): one MDP drawn an episode.

    The prior is the distribution of the instances: flat Dirichlet transitions, and mean
    rewards N(1, 1) with rewards of unit variance.
    """

    def believed(self) -> tuple[np.ndarray, np.ndarray]:
        transitions = self.rng.standard_gamma(1 + self.moves)
        transitions /= transitions.sum(-1, keepdims=True)
        precision = 1 + self.visits
        mean = (1 + self.rewards) / precision
        return transitions, self.rng.normal(mean, precision**-0.5)


def plan(transitions: np.ndarray, means: np.ndarray, steps: int) -> np.ndarray:
    """Return the optimal actions ``[steps, n, S]`` by value iteration over an episode.

    Args:
        transitions: transition probabilities ``[n, S, A, S]``.
        means: mean rewards ``[n, S, A]``.
        steps: steps of the episode.
    """
    values = np.zeros(means.shape[:2])
    best = np.empty((steps, *values.shape), int)
    for step in reversed(range(steps)):
        worth = means + np.einsum("nsat,nt->nsa", transitions, values)
        best[step], values = worth.argmax(-1), worth.max(-1)
    return best
