"""Draw the pictures of the README and of the environments' pages.

``python docs/make_pictures.py`` needs the extra ``train``, and takes a minute. ``python
docs/make_pictures.py --only overview`` draws a single one.

- ``overview.png``, for the README: losses and learning rates on four tasks of the
  benchmark, from the runs that come with the repository.
- One picture for each environment: loss and learning rate of an episode. Actions are those
  of a shipped policy where there is one for the environment, and else those of a script.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import optenv
from agents import load_policy
from optenv import rules, telemetry
from optenv.actions import Hyperparameters, LayerwiseMultipliers, RoleMultipliers
from optenv.roles import ROLES
from optenv.rules import switching

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
STORED = DOCS.parent / "benchmarks" / "rows.jsonl.xz"

#: A function from an observation, and the number of the control step, to an action.
Act = Callable[[np.ndarray, int], Any]

#: A function without arguments to arguments of an environment, and who acts in it.
Agent = Callable[[], tuple[dict[str, Any], Act]]

#: Tasks of the overview, among them the one that is lost by most.
TASKS = ("photo-cnn", "code-lstm", "glyph-deep", "glyph-10k")
#: Arms of the overview: name in the stored runs, label, colour, line.
ARMS = (
    ("AdamW default", "AdamW, default", "#7F7F7F", "--"),
    ("AdamW tuned", "AdamW, tuned for each task", "#000000", "-"),
    ("default lr 0.001", "optenv, one setting for all", "#D55E00", "-"),
)

#: Rules of the script for UpdateRule-v0, each for a quarter of the run.
SCRIPT = ("sgd", "adam", "lion", "orthogonal-adam")


#: Colours of the roles that the perceptrons of the pictures have.
ROLE_COLORS: dict[str | None, str] = {
    "matrices": "tab:orange", "output": "tab:green", "vectors": "tab:purple",
}  # fmt: skip

#: Tensors of the perceptron in the picture of LayerwiseLearningRate-v0: weight and bias of
#: each layer, and their colours, from the inputs on.
TENSORS = 8
TENSOR_COLORS: dict[str | None, str] = {
    f"{kind} of layer {layer}": str(to_hex(colormaps["viridis"](0.3 * (layer - 1) + shade)))
    for layer in range(1, TENSORS // 2 + 1)
    for kind, shade in (("weight", 0.0), ("bias", 0.08))
}

COLORS = {
    **ROLE_COLORS, **TENSOR_COLORS, "parameter 1": "tab:orange", "parameter 2": "tab:green",
}  # fmt: skip


def overview(path: Path) -> None:
    """Draw losses and learning rates on four tasks of the benchmark."""
    with lzma.open(STORED, "rt") as file:
        rows = [json.loads(line) for line in file]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(2, len(TASKS), sharex="col", height_ratios=(3, 1.3))
    for column, task in enumerate(TASKS):
        above, below = axes[:, column]
        for arm, label, color, line in ARMS:
            runs = [r for r in rows if (r["task"], r["arm"]) == (task, arm)]
            curves = [run["curve"] for run in runs if len(run["curve"]) > 2]
            updates = [update for update, _ in curves[0]]
            losses = np.mean([[loss for _, loss in curve] for curve in curves], axis=0)
            above.plot(updates, losses, line, color=color, label=label)
            traces = [run["lr_trace"] for run in runs if len(run["lr_trace"]) > 2]
            rates = np.mean([[lr for _, lr in trace] for trace in traces], axis=0)
            below.plot([update for update, _ in traces[0]], rates, line, color=color)
        above.set(title=task, yscale="log")
        below.set(yscale="log", xlabel="update", ylim=(1e-4, 4e-2))
        for panel in (above, below):
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        label_losses(above)
    axes[0, 0].set_ylabel("validation loss")
    axes[1, 0].set_ylabel("learning rate")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(ARMS), frameon=False)  # fmt: skip
    figure.savefig(path, dpi=100)


def label_losses(axes: Axes) -> None:
    """Label a logarithmic axis of losses with plain numbers."""
    low, high = axes.get_ylim()
    wide = high > 30 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 3, 4, 5, 6, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def by_policy(name: str) -> tuple[dict[str, Any], Act]:
    """Return arguments of an environment that suit a shipped policy, and its actions."""
    policy = load_policy(name)
    memory = policy.blank(1)

    def act(observation: np.ndarray, step: int) -> Any:
        nonlocal memory
        with torch.no_grad():
            action, memory = policy.act(torch.from_numpy(observation)[None], memory)
        return action[0].numpy()

    names = ("rule", "action", "horizon", "spacing")
    return {each: policy.description[each] for each in names}, act


def by_script() -> tuple[dict[str, Any], Act]:
    """Return the script of :data:`SCRIPT`: raise the rate, hold it, and lower it."""
    horizon, up, hold, down = 40, 2, 1, 0

    def act(observation: np.ndarray, step: int) -> Any:
        rule = SCRIPT[step * len(SCRIPT) // horizon]
        move = up if step < 3 else hold if step < 30 else down if step % 2 else hold
        return 3 * switching.NAMES.index(rule) + move

    return {"horizon": horizon}, act


def by_multipliers() -> tuple[dict[str, Any], Act]:
    """Return the script for discrete actions of trials: higher in each of three runs."""

    def act(observation: np.ndarray, step: int) -> Any:
        return 3 + (step % 20 < 1 + 2 * (step // 20)) - (step % 20 > 14)

    return {"horizon": 20}, act


def by_rules() -> tuple[dict[str, Any], Act]:
    """Return the script for rules in trials: another rule in each of three runs."""

    def act(observation: np.ndarray, step: int) -> Any:
        rule = ("sgd", "adam", "orthogonal-adam")[step // 20 % 3]
        return 3 * switching.NAMES.index(rule) + (2 if step % 20 < 2 else 1)

    return {"horizon": 20}, act


def by_names() -> tuple[dict[str, Any], Act]:
    """Return the script for hyperparameters: warm up, then average more and decay less."""

    def act(observation: np.ndarray, step: int) -> Any:
        done = step % 40 / 39
        rate = 1.0 if step % 40 < 3 else 0.0 if done < 0.7 else -0.3
        beta1, beta2 = min(0.0, 4 * done - 1), done
        average = -1.0 if done < 0.5 else 2 * (done - 0.5)
        return np.array([rate, beta1, beta2, -done, -0.5, average], np.float32)

    return {"horizon": 40}, act


def by_roles() -> tuple[dict[str, Any], Act]:
    """Return the script for roles: the output layer cools down first, vectors last."""
    ends = np.array([0.6, 0.4, 0.6, 0.8])

    def act(observation: np.ndarray, step: int) -> Any:
        done = step % 40 / 39
        moves = np.where(done < 0.1, 0.4, np.where(done < ends, 0.0, -0.3))
        return moves.astype(np.float32)

    return {"horizon": 40}, act


def by_tensors() -> tuple[dict[str, Any], Act]:
    """Return the script for tensors: those near the inputs cool down first."""
    kind = {"kind": "layerwise", "tensors": TENSORS}
    ends = np.linspace(0.2, 0.9, TENSORS)

    def act(observation: np.ndarray, step: int) -> Any:
        done = step / 39
        moves = np.where(done < 0.1, 0.4, np.where(done < ends, 0.0, -0.2))
        return moves.astype(np.float32)

    return {"horizon": 40, "action": kind}, act


def by_gradient() -> tuple[dict[str, Any], Act]:
    """Return the script for updates: gradient descent with ever shorter steps."""
    first = len(telemetry.FEATURES) + 2  # after the two parameters

    def act(observation: np.ndarray, step: int) -> Any:
        return -observation[first : first + 2] * (0.25 - 0.003 * (step % 40))

    return {"horizon": 40}, act


def by_growth() -> tuple[dict[str, Any], Act]:
    """Return the script for batch sizes: small batches first, large ones at the end."""

    def act(observation: np.ndarray, step: int) -> Any:
        return step % 40 * 7 // 40

    return {"horizon": 40, "base_lr": 3e-3}, act


#: By picture: who acts in the caption, arguments and actions, and further arguments.
EPISODES: dict[str, tuple[str, Agent, dict[str, Any]]] = {
    "LearningRate": ("policy adam", lambda: by_policy("adam"), {"tasks": "digits"}),
    "DiscreteLearningRate": ("policy dqn", lambda: by_policy("dqn"), {"tasks": "digits"}),
    "UpdateRule": ("four rules by a script", by_script, {"tasks": "digits"}),
    "LearningRateTrial": (
        "policy rl2, three runs",
        lambda: by_policy("rl2"),
        {"tasks": "digits", "runs": 3, "previous_reward": "told"},
    ),
    "DiscreteLearningRateTrial": (
        "three runs by a script", by_multipliers, {"tasks": "digits", "runs": 3},
    ),
    "UpdateRuleTrial": (
        "three runs by a script", by_rules, {"tasks": "digits", "runs": 3},
    ),
    "Hyperparameters": ("a script", by_names, {"tasks": "digits"}),
    "HyperparametersTrial": (
        "two runs by a script", by_names, {"tasks": "digits", "runs": 2},
    ),
    "RoleLearningRate": ("a script", by_roles, {"tasks": "digits"}),
    "RoleLearningRateTrial": (
        "two runs by a script", by_roles, {"tasks": "digits", "runs": 2},
    ),
    "LayerwiseLearningRate": (
        "a script", by_tensors,
        {"tasks": optenv.tasks.MLP(depth=TENSORS // 2 - 1, width=32)},
    ),
    "Update": (
        "gradient descent by a script", by_gradient,
        {"tasks": optenv.tasks.Function(function="himmelblau", normalize=True)},
    ),
    "UpdateTrial": (
        "two runs by a script", by_gradient,
        {
            "tasks": optenv.tasks.Function(function="himmelblau", normalize=True),
            "runs": 2,
        },
    ),
    "BatchSize": ("a script", by_growth, {"tasks": "digits"}),
    "BatchSizeTrial": ("two runs by a script", by_growth, {"tasks": "digits", "runs": 2}),
}  # fmt: skip


def episode(name: str, seed: int = 0) -> list[dict[str, Any]]:
    """Return the ``info`` of every control step of one episode."""
    _, agent, arguments = EPISODES[name]
    described, act = agent()
    env = gym.make(f"optenv/{name}-v0", **described, **arguments)
    observation, _ = env.reset(seed=seed)
    steps: list[dict[str, Any]] = []
    done = False
    while not done:
        action = act(observation, len(steps))
        observation, _, terminated, truncated, info = env.step(action)
        steps.append({"action": action, **info})
        done = terminated or truncated
    return steps


def draw(name: str, path: Path) -> None:
    """Draw loss and learning rate of an episode over its control steps."""
    steps = episode(name)
    named = name.startswith("Hyperparameters")
    figure = Figure(figsize=(7, 5.5 if named else 4), layout="constrained")
    above, below, *third = figure.subplots(2 + named, 1, sharex=True)
    numbers = np.arange(1, len(steps) + 1)
    runs = [step.get("run", 0) for step in steps]
    for run in dict.fromkeys(runs):  # lines end where runs do
        part = [i for i in range(len(steps)) if runs[i] == run]
        above.plot(numbers[part], [steps[i]["loss"] for i in part], color="tab:blue")
        actions = np.array([steps[i]["action"] for i in part])
        controlled = "batch_size" if name.startswith("BatchSize") else "lr"
        shown = [steps[i][controlled] for i in part]
        for label, rates in _rates(name, shown, actions).items():
            color = COLORS.get(label, "tab:orange")
            label = None if run else label  # once in the legend
            below.step(numbers[part], rates, where="mid", color=color, label=label)
        for axes in third:
            _draw_settings(axes, numbers[part], actions, labelled=run == 0)
        if part[0]:
            for axes in (above, below, *third):
                axes.axvline(part[0] + 0.5, color="gray", linestyle="--", linewidth=1)
    if name.startswith("UpdateRule"):
        _label_rules(above, steps)
    above.set(ylabel="training loss", yscale="log")
    label_losses(above)
    below.set(ylabel="learning rate", yscale="log")
    if name.startswith("BatchSize"):
        below.set(ylabel="batch size")
    if name.startswith("Update") and not name.startswith("UpdateRule"):
        below.set(ylabel="update", yscale="linear")
    for axes in (above, below, *third):
        axes.grid(alpha=0.3)
    (*_, lowest) = (below, *third)
    lowest.set_xlabel("control step")
    parted = ("RoleLearningRate", "LayerwiseLearningRate")
    if name.startswith(parted) or name in ("Update", "UpdateTrial"):
        columns = len(ROLE_COLORS) if name.startswith("Role") else 2
        place = "upper right" if name.startswith("Update") else "lower left"
        below.legend(fontsize="small", ncols=columns, loc=place)
    figure.suptitle(f"optenv/{name}-v0: {EPISODES[name][0]}", fontsize="medium")
    figure.savefig(path, dpi=90)


def _rates(
    name: str, rates: list[float], actions: np.ndarray
) -> dict[str | None, np.ndarray]:
    """Return the learning rates of a run: one, or one for each role or tensor that it has.

    The log-multiplier of a part is the sum of its actions so far, times the step; they are
    far from their bound.
    """
    if name in ("Update", "UpdateTrial"):
        updates = np.sinh(6 * actions) / np.sinh(6) * np.array(rates)[:, None]
        return {f"parameter {i + 1}": each for i, each in enumerate(updates.T)}
    of_tensors = name.startswith("LayerwiseLearningRate")
    if not of_tensors and not name.startswith("RoleLearningRate"):
        return {None: np.array(rates)}
    step = (LayerwiseMultipliers if of_tensors else RoleMultipliers)().step
    s = step * actions.cumsum(0)
    of_parts = np.array(rates)[:, None] * np.exp(s - s.mean(1, keepdims=True))
    if of_tensors:
        return dict(zip(TENSOR_COLORS, of_parts.T, strict=True))
    return {role: of_parts[:, ROLES.index(role)] for role in ROLE_COLORS}


def _draw_settings(
    axes: Axes, numbers: np.ndarray, actions: np.ndarray, labelled: bool
) -> None:
    """Draw what the actions set besides the learning rate, within [-1, 1]."""
    names = Hyperparameters().for_rule(rules.get("adam")).names or ()
    for column, label in enumerate(names):
        if label != "learning_rate":
            axes.step(numbers, actions[:, column], where="mid", color=f"C{column + 1}",
                      label=label if labelled else None)  # fmt: skip
    axes.set(ylabel="action", ylim=(-1.1, 1.1))
    axes.legend(fontsize="small", ncols=5, loc="upper left")


def _label_rules(axes: Axes, steps: list[dict[str, Any]]) -> None:
    """Write the name of each rule where it begins to be in force."""
    names = [switching.NAMES[int(step["action"]) // 3] for step in steps]
    for i, rule in enumerate(names):
        if i == 0 or rule != names[i - 1]:
            axes.text(i + 1, 1.02, rule, transform=axes.get_xaxis_transform(),
                      fontsize="small", va="bottom")  # fmt: skip
            if i:
                axes.axvline(i + 0.5, color="gray", linestyle=":", linewidth=1)


def main() -> None:
    """Draw all pictures, or a single one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["overview", *EPISODES])
    only = parser.parse_args().only
    if only in (None, "overview"):
        overview(PICTURES / "overview.png")
    for name in EPISODES:
        if only in (None, name):
            draw(name, PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
