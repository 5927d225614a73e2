"""Draw the pictures of the environments' pages: ``python docs/make_pictures.py``.

Each shows loss and learning rate of a run, or of a trial, driven by a shipped policy where
there is one for the environment, and else by random actions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from matplotlib.figure import Figure

import optenv  # noqa: F401  registers the environments
from agents import Policy, load_policy

PICTURES = Path(__file__).parent / "pictures"

#: By picture: id, policy (or None), and arguments of the environment.
RUNS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "LearningRate": ("optenv/LearningRate-v0", "adam", {"tasks": "digits"}),
    "UpdateRule": ("optenv/UpdateRule-v0", None, {"tasks": "digits"}),
    "LearningRateTrial": (
        "optenv/LearningRateTrial-v0",
        "rl2",
        {"tasks": "mlp-classification/test", "runs": 3, "previous_reward": "told"},
    ),
}


def arguments_of(policy: Policy) -> dict[str, Any]:
    """Return the arguments of an environment as the policy was trained in it."""
    described = policy.description
    names = ("rule", "action", "horizon", "spacing")
    return {name: described[name] for name in names}


def episode(
    env_id: str, policy_name: str | None, arguments: dict[str, Any], seed: int = 1
) -> list[dict[str, Any]]:
    """Return the ``info`` of every control step of one episode."""
    policy = None if policy_name is None else load_policy(policy_name)
    described = {} if policy is None else arguments_of(policy)
    env = gym.make(env_id, **described, **arguments)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=seed)
    memory = None if policy is None else policy.blank(1)
    steps: list[dict[str, Any]] = []
    done = False
    while not done:
        action: Any = env.action_space.sample()
        if policy is not None and memory is not None:
            row = torch.from_numpy(observation)[None]
            with torch.no_grad():
                decided, memory = policy.act(row, memory)
            action = decided[0].numpy()
        observation, _, terminated, truncated, info = env.step(action)
        steps.append({"action": action, **info})
        done = terminated or truncated
    return steps


def draw(
    name: str, env_id: str, policy_name: str | None, arguments: dict[str, Any]
) -> None:
    """Draw loss and learning rate of an episode over its control steps."""
    steps = episode(env_id, policy_name, arguments)
    figure = Figure(figsize=(7, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    numbers = range(1, len(steps) + 1)
    above.plot(numbers, [step["loss"] for step in steps], color="tab:blue")
    above.set(ylabel="training loss", yscale="log")
    below.step(numbers, [step["lr"] for step in steps], where="pre", color="tab:orange")
    below.set(ylabel="learning rate", yscale="log", xlabel="control step")
    by = "random actions" if policy_name is None else f"policy {policy_name}"
    figure.suptitle(f"{env_id}, {by}", fontsize="medium")
    runs = [step.get("run", 0) for step in steps]
    for axes in (above, below):
        axes.grid(alpha=0.3)
        for i in range(1, len(runs)):
            if runs[i] != runs[i - 1]:  # a new run of a trial begins
                axes.axvline(i + 0.5, color="gray", linestyle="--", linewidth=1)
    figure.savefig(PICTURES / f"{name}.png", dpi=90)


if __name__ == "__main__":
    for name, run in RUNS.items():
        draw(name, *run)
