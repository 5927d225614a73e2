"""Bernoulli bandits and random tabular MDPs (Duan et al., 2016), for ``known_ground.py``.

This file only has the environments, which run hundreds of trials at once, in NumPy. All
random numbers of a trial are drawn when it begins, so that learners with the same seed get
the same instances and the same noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


class Trials(VecEnv):
    """Trials of one length, with an instance each; all episodes begin in state 0.

    Observations ``[S + 2 S A + 1]`` are the state (one-hot), the pair of previous state and
    action (one-hot), the same times the previous reward, and a flag for the begin of an
    episode. Before the first action of a trial, the previous pair and reward are 0; between
    two episodes, they are those of the episode that ended. The paper has state and action
    apart; as a pair, the network hardly has to learn where a reward belongs.

    An instance consists of transition probabilities ``[n, S, A, S]``, mean rewards
    ``[n, S, A]``, and the noise of the rewards at each step ``[T, n]``.

    Args:
        num_envs: number n of trials that run at once.
        states: number S of states.
        actions: number A of actions.
        steps: steps of an episode.
        episodes: episodes of a trial.
    """

    def __init__(
        self, num_envs: int, states: int, actions: int, steps: int, episodes: int = 1
    ) -> None:
        self.render_mode = None
        self.states, self.actions, self.steps = states, actions, steps
        self.horizon = steps * episodes
        self.rng = np.random.default_rng()
        size = (states + 2 * states * actions + 1,)
        box = spaces.Box(-np.inf, np.inf, size, np.float32)
        super().__init__(num_envs, box, spaces.Discrete(actions))

    def instances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw transitions, mean rewards and reward noise of new trials."""
        raise NotImplementedError

    def rewards(self, means: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return rewards ``[n]`` of actions with these means, given the step's noise."""
        raise NotImplementedError

    def reset(self) -> np.ndarray:
        if self._seeds[0] is not None:
            self.rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self.transitions, self.means, self.reward_noise = self.instances()
        self.transition_noise = self.rng.random(self.reward_noise.shape)
        self.edges = self.transitions.cumsum(-1)[..., :-1]
        self.time, self.total = 0, np.zeros(self.num_envs)
        self.state = np.zeros(self.num_envs, int)
        return self._observe(np.full(self.num_envs, -1), np.zeros(self.num_envs))

    def _observe(self, pairs: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        begins = np.full((self.num_envs, 1), self.time % self.steps == 0)
        pair = pairs[:, None] == np.arange(self.states * self.actions)
        state = self.state[:, None] == np.arange(self.states)
        parts = (state, pair, pair * rewards[:, None], begins)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        self.chosen = np.asarray(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        where = np.arange(self.num_envs), self.state, self.chosen
        pairs = self.state * self.actions + self.chosen
        rewards = self.rewards(self.means[where], self.reward_noise[self.time])
        self.state = (self.transition_noise[self.time, :, None] > self.edges[where]).sum(1)
        self.total += rewards
        self.time += 1
        if self.time % self.steps == 0:
            self.state = np.zeros(self.num_envs, int)
        observation = self._observe(pairs, rewards)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = self.time == self.horizon
        if done:
            for info, last, total in zip(infos, observation, self.total, strict=True):
                info["terminal_observation"] = last
                info["episode"] = {"r": total, "l": self.horizon}
            observation = self.reset()
        dones = np.full(self.num_envs, done)
        return observation, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("attributes belong to the whole batch")

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("methods belong to the whole batch")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class Bandits(Trials):
    """Bernoulli bandits whose probabilities are uniform: one state, one episode.

    Args:
        num_envs: number n of trials that run at once.
        pulls: pulls of a trial.
        arms: number A of arms.
    """

    def __init__(self, num_envs: int, pulls: int, arms: int = 5) -> None:
        super().__init__(num_envs, 1, arms, pulls)

    def instances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        means = self.rng.random((self.num_envs, 1, self.actions))
        noise = self.rng.random((self.horizon, self.num_envs))
        return np.ones((*means.shape, 1)), means, noise

    def rewards(self, means: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return (noise < means).astype(float)


class RandomMDPs(Trials):
    """MDPs with flat Dirichlet transitions; rewards N(mean, 1), their means N(1, 1).

    Args:
        num_envs: number n of trials that run at once.
        episodes: episodes of a trial.
        states: number S of states.
        actions: number A of actions.
        steps: steps of an episode.
    """

    def __init__(
        self, num_envs: int, episodes: int, states: int = 10, actions: int = 5,
        steps: int = 10,
    ) -> None:  # fmt: skip
        super().__init__(num_envs, states, actions, steps, episodes)

    def instances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (self.num_envs, self.states, self.actions)
        means = self.rng.normal(1, 1, shape)
        drawn = self.rng.exponential(size=(*shape, self.states))
        transitions = drawn / drawn.sum(-1, keepdims=True)
        noise = self.rng.normal(size=(self.horizon, self.num_envs))
        return transitions, means, noise

    def rewards(self, means: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return means + noise
