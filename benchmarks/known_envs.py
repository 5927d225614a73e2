"""The problems that RL² was published on (Duan et al., 2016), for ``known_ground.py``.

Bernoulli bandits and random tabular MDPs, hundreds of trials at once, in numpy. Everything
that is random in a trial is drawn when it begins, so that learners that are compared on a
seed meet the same instances and the same luck.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


class Trials(VecEnv):
    """Trials of one length: an instance each, whose episodes all begin in state 0.

    Observations ``[S + 2 S A + 1]``: state (one-hot), previous state and action (the pair
    one-hot), the same times the previous reward, and whether an episode begins. Before the
    first action of a trial, what is previous is 0; between two episodes, it is of the
    episode that ended. With the pairs of the paper's inputs in one place, a memory has
    hardly to learn where each reward belongs.

    An instance: transitions ``[n, S, A, S]``, means of rewards ``[n, S, A]``, and the luck
    of each step, ``[T, n]``.

    Args:
        num_envs: n, trials that run at once.
        states: S.
        actions: A.
        steps: of an episode.
        episodes: of a trial.
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
        """Transitions, means and luck of fresh trials."""
        raise NotImplementedError

    def pay(self, means: np.ndarray, luck: np.ndarray) -> np.ndarray:
        """Rewards ``[n]`` of actions with these means, given the luck of the step."""
        raise NotImplementedError

    def reset(self) -> np.ndarray:
        if self._seeds[0] is not None:
            self.rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self.transitions, self.means, self.luck = self.instances()
        self.fate = self.rng.random(self.luck.shape)
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
        rewards = self.pay(self.means[where], self.luck[self.time])
        self.state = (self.fate[self.time, :, None] > self.edges[where]).sum(1)
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
        num_envs: n.
        pulls: of a trial.
        arms: A.
    """

    def __init__(self, num_envs: int, pulls: int, arms: int = 5) -> None:
        super().__init__(num_envs, 1, arms, pulls)

    def instances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        means = self.rng.random((self.num_envs, 1, self.actions))
        luck = self.rng.random((self.horizon, self.num_envs))
        return np.ones((*means.shape, 1)), means, luck

    def pay(self, means: np.ndarray, luck: np.ndarray) -> np.ndarray:
        return (luck < means).astype(float)


class RandomMDPs(Trials):
    """MDPs with flat Dirichlet transitions; rewards N(mean, 1), their means N(1, 1).

    Args:
        num_envs: n.
        episodes: of a trial.
        states: S.
        actions: A.
        steps: of an episode.
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
        luck = self.rng.normal(size=(self.horizon, self.num_envs))
        return transitions, means, luck

    def pay(self, means: np.ndarray, luck: np.ndarray) -> np.ndarray:
        return means + luck
