"""Small trainings of every agent, which may be killed at any control step."""

from __future__ import annotations

import random

import numpy as np
import torch

from agents.rl import checkpoints, factory, training
from agents.rl.presets import PRESETS
from optenv.group import Group

#: Runs of 6 control steps, two updates each.
RUNS = {"tasks": ["quadratic", "logistic"], "updates_per_step": 2, "horizon": 6}
#: Learn soon and seldom.
FAST_DQN = {
    "learning_starts": 40, "gradient_steps": 1, "buffer_size": 1000, "batch_size": 16,
    "target_update_interval": 50,
}  # fmt: skip
FAST_PPO = {"n_epochs": 1, "batch_size": 16}

#: Agent, copies, arguments of the algorithm and arguments of the environment.
CASES = {
    "ppo": ("ppo", 4, {**FAST_PPO, "n_steps": 6}, {}),
    "ppo within episodes": ("ppo", 1, {**FAST_PPO, "n_steps": 8}, {}),
    "ppo with noise by state": ("ppo", 1, {**FAST_PPO, "n_steps": 8, "use_sde": True}, {}),
    "ppo-discrete": ("ppo-discrete", 1, {**FAST_PPO, "n_steps": 6}, {}),
    "ppo-rules": ("ppo-rules", 4, {**FAST_PPO, "n_steps": 6}, {}),
    "memoryless": ("memoryless", 4, {**FAST_PPO, "n_steps": 6}, {}),
    "rl2": ("rl2", 4, {**FAST_PPO, "n_steps": 6}, {"runs": 2, "horizon": 3}),
    "rl2 within episodes": (
        "rl2", 1, {**FAST_PPO, "n_steps": 5}, {"runs": 2, "horizon": 3}
    ),
    "dqn": ("dqn", 4, {**FAST_DQN, "train_freq": 1}, {}),
    "dqn within episodes": ("dqn", 1, {**FAST_DQN, "train_freq": 4}, {}),
    "dqn with runs that end": (
        "dqn", 1, {**FAST_DQN, "train_freq": 4}, {"on_divergence": "end"}
    ),
    "dqn-rules": ("dqn-rules", 4, {**FAST_DQN, "train_freq": 1}, {}),
    "unrolled-lr": ("unrolled-lr", 4, {}, {"tasks": "quadratic"}),
    "unrolled-rule": ("unrolled-rule", 4, {}, {"tasks": "quadratic"}),
}  # fmt: skip

NUM_ENVS = 8
TOTAL = 288


class Killed(BaseException):
    """End of a process, which nothing catches."""


def build(case, seed=3, resume=None):
    """Make the model of a case."""
    agent, copies, overrides, env = CASES[case]
    config = factory.configuration(
        agent, env_arguments={**PRESETS[agent]["env"], **RUNS, **env}, num_envs=NUM_ENVS,
        copies=copies, overrides=overrides,
    )  # fmt: skip
    return factory.build(agent, config, seed=seed, resume=resume)


def train(case, folder, *, resume=False, total=TOTAL, save_every=48, seed=3):
    """Train a case, or go on with its training; return the learned model."""
    folder.mkdir(exist_ok=True)
    file = folder / checkpoints.MODEL
    disturb_generators()  # a new process has other random states
    model = build(case, seed, file if resume else None)
    training.learn(
        model, total, folder, progress=False, save_every=save_every,
        resume=checkpoints.read(file) if resume else None,
    )  # fmt: skip
    return model


def disturb_generators():
    """Bring all global generators into states that nothing else has."""
    seed = random.SystemRandom().randrange(2**31)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def kill_after(monkeypatch, steps):
    """Raise :class:`Killed` in a control step of a group of runs, the ``steps``-th."""
    step, made = Group.step, []

    def step_or_die(group, *args, **kwargs):
        made.append(None)
        if len(made) == steps:
            raise Killed
        return step(group, *args, **kwargs)

    monkeypatch.setattr(Group, "step", step_or_die)


def note_checkpoints(monkeypatch):
    """Return a dictionary that gets the content of each checkpoint, by control steps."""
    written, save = {}, training._save_model

    def save_and_note(folder, checkpoint, model=None):
        save(folder, checkpoint, model)
        numbers, arrays = checkpoints.read(folder / checkpoints.MODEL)
        content = {name: array.tobytes() for name, array in arrays.items()}
        if model is not None:
            state = model.policy.state_dict(), model.policy.optimizer.state_dict()
            content["networks"] = repr(flat(state))
            content["steps"] = model.num_timesteps
        written[len(written)] = {**content, **numbers}

    monkeypatch.setattr(training, "_save_model", save_and_note)
    return written


def flat(value):
    """Return nested dictionaries with lists in place of tensors."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flat(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(each) for each in value]
    return value
