"""Draw the pictures of the README and of the environments' pages.

``python docs/make_pictures.py`` needs the extra ``train``, and takes ten minutes.
``python docs/make_pictures.py --only LearningRate`` draws what is about one name.

- ``overview.png``, for the README: losses and learning rates on four tasks of the
  benchmark, from the runs that come with the repository.
- ``<name>.png``: an episode of an environment, as ``render_mode="rgb_array"`` draws it.
  Actions are those of a shipped policy where there is one for the environment, and else
  those of a script.
- ``<name>.gif``: a policy beside the best constant action. The policy is a shipped one, or
  PPO's after a short training. The constant action is the one of a search that has the
  highest mean return on the same runs.
- ``captions.json``: what the pages say below the pictures.
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
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from stable_baselines3 import PPO

import optenv
from agents import load_policy
from optenv import telemetry
from optenv.atomic import replacing, write_text
from optenv.rendering.picture import Comparison
from optenv.rules import switching
from optenv.sb3 import SB3VecEnv

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
    ("default lr 0.01", "optenv, one setting for all", "#D55E00", "-"),
)

#: Colours of an animation, milliseconds of a frame, and of the last.
COLORS, MILLISECONDS, PAUSE = 96, 100, 3000

#: Rules of the script for UpdateRule-v0, each for a quarter of the run.
SCRIPT = ("sgd", "adam", "lion", "orthogonal-adam")

#: Tensors of the perceptron in the pictures of LayerwiseLearningRate: weight and bias of
#: each layer.
TENSORS = 8


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
    with replacing(path) as part:
        figure.savefig(part, dpi=100)


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

    return policy.environment, act


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
        done = step % 40 / 39
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
    "LayerwiseLearningRateTrial": (
        "two runs by a script", by_tensors,
        {"tasks": optenv.tasks.MLP(depth=TENSORS // 2 - 1, width=32), "runs": 2},
    ),
    "LearningRate-Functions": (
        "policy adam on Rosenbrock's function of two parameters",
        lambda: by_policy("adam"),
        {"tasks": optenv.tasks.Function(function="rosenbrock"), "base_lr": 0.3},
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


def draw(name: str, path: Path) -> str:
    """Draw an episode, and return the caption."""
    who, agent, arguments = EPISODES[name]
    described, act = agent()
    arguments = {**described, **arguments}
    env = gym.make(f"optenv/{name}-v0", render_mode="rgb_array", **arguments)
    observation, _ = env.reset(seed=0)
    steps, done = 0, False
    while not done:
        observation, _, done, _, _ = env.step(act(observation, steps))
        steps += 1
    frame: Any = env.render()
    save([Image.fromarray(frame)], path)
    return f"An episode of `optenv/{name.split('-')[0]}-v0`: {who}."


def save(frames: list[Image.Image], path: Path) -> None:
    """Save a picture, or an animation with few colours, which keeps the file small."""
    # The colours of the last frame, which has all curves. Rare ones, such as those of text,
    # are kept too.
    count = COLORS if len(frames) > 1 else 256
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    palette = frames[-1].quantize(count, method=method, dither=dither)
    white = [level if level < 250 else 255 for level in palette.getpalette() or ()]
    palette.putpalette(white)
    few = [each.quantize(palette=palette, dither=dither) for each in frames]
    arguments: dict[str, Any] = {"optimize": True}
    if len(few) > 1:
        durations = [MILLISECONDS] * (len(few) - 1) + [PAUSE]
        arguments = {
            "save_all": True, "append_images": few[1:], "duration": durations, "loop": 0
        }  # fmt: skip
    with replacing(path) as part:
        few[0].save(part, **arguments)


# Policies beside constant actions

#: Observations ``[num_envs, F]`` to actions.
Actor = Callable[[np.ndarray], np.ndarray]

#: Runs on which returns are compared, and the seed of the first.
RUNS, SEED = 16, 1000

#: Episodes that PPO trains on, of every sub-environment.
TRAINING = 30


def shipped(name: str) -> Callable[[], Actor]:
    """Return a function that makes a shipped policy act in new runs."""

    def start() -> Actor:
        policy = load_policy(name)
        memory = policy.blank(RUNS)

        def act(observation: np.ndarray) -> np.ndarray:
            nonlocal memory
            with torch.no_grad():
                action, memory = policy.act(torch.from_numpy(observation), memory)
            return action.numpy()

        return act

    return start


def by_ppo(name: str, arguments: dict[str, Any]) -> Callable[[], Actor]:
    """Train a policy by PPO; return a function that makes it act in new runs."""
    per_tensor = name.startswith("Layerwise")
    env: Any = gym.make_vec(
        f"optenv/{name}-v0", 32 if per_tensor else 128, **arguments,
        autoreset_mode=AutoresetMode.DISABLED,
    )  # fmt: skip
    if per_tensor:
        env = optenv.PerTensor(env)
    horizon = arguments["horizon"]
    model = PPO(
        "MlpPolicy", SB3VecEnv(env), n_steps=horizon, batch_size=env.num_envs * 4,
        n_epochs=8, learning_rate=1e-3, gamma=0.99, gae_lambda=0.95, seed=0, device="cpu",
        policy_kwargs={"log_std_init": -1.0},
    )  # fmt: skip
    model.learn(TRAINING * horizon * env.num_envs)
    return lambda: lambda observation: model.predict(observation, deterministic=True)[0]


def play(env: Any, act: Actor) -> np.ndarray:
    """Play the same runs as ever, and return their returns."""
    observation, _ = env.reset(seed=SEED)
    returns, done = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not done.all():
        observation, reward, done, _, _ = env.step(act(observation))
        returns += reward
    return returns[:RUNS]


def best_constant(batch: Any) -> tuple[Any, np.ndarray, Any, int]:
    """Search for the constant action with the highest mean return.

    Returns:
        The action, its returns ``[RUNS]``, the trace of the first run, and the number of
        actions tried.
    """
    space, rng = batch.single_action_space, np.random.default_rng(0)
    found: list[tuple[float, int, Any, np.ndarray, Any]] = []

    def attempt(action: Any) -> None:
        repeated = np.stack([action] * RUNS)
        returns = play(batch, lambda _: repeated)
        trace = batch.renderer.traces[0]
        found.append((float(returns.mean()), len(found), action, returns, trace))

    if isinstance(space, spaces.Discrete):
        for action in range(int(space.n)):
            attempt(action)
    else:
        # All entries alike; others at random; and then near the best so far.
        (width,) = space.shape
        tried = [np.full(width, level) for level in np.linspace(-0.3, 0.3, 25)]
        tried += [*rng.uniform(-0.3, 0.3, (50 * (width > 1), width))]
        for action in tried:
            attempt(action.astype(space.dtype))
        for spread in (0.2, 0.1, 0.05, 0.03):
            center = max(found)[2]
            for step in rng.normal(0.0, spread, (25 if width > 1 else 5, width)):
                attempt(np.clip(center + step, -1, 1).astype(space.dtype))
    _, _, action, returns, trace = max(found)
    return action, returns, trace, len(found)


def compare(name: str, path: Path) -> str:
    """Draw a policy beside the best constant action, and return the caption."""
    who, policy, on, arguments = COMPARISONS[name]
    if policy is not None:
        arguments = {**by_policy(policy)[0], **arguments}
    start = by_ppo(name, arguments) if policy is None else shipped(policy)
    # Runs that diverge go on, so that all end at once.
    batch: Any = gym.make_vec(
        f"optenv/{name}-v0", RUNS, **arguments, on_divergence="absorb",
        autoreset_mode=AutoresetMode.DISABLED, render_mode="rgb_array", rendered=1,
    )  # fmt: skip
    # 1. The best constant action.
    action, constant, of_constant, tried = best_constant(batch)
    # 2. The policy.
    wrapped = optenv.PerTensor(batch) if name.startswith("Layerwise") else batch
    returns, of_policy = play(wrapped, start()), batch.renderer.traces[0]
    # 3. The animation, and its caption.
    drawn = Comparison(
        {f"{who}: return {returns[0]:.2f}": of_policy,
         f"best constant action: return {constant[0]:.2f}": of_constant}
    )  # fmt: skip
    numbers = [*range(0, drawn.steps, 1 + drawn.steps // 50), drawn.steps]
    save([Image.fromarray(drawn.draw(number)) for number in numbers], path)
    return (
        f"`optenv/{name}-v0` on {on}: {who} (left), and the best of {tried} constant "
        f"actions (right), `{_written(action)}`. Mean return on the same {RUNS} runs: "
        f"{returns.mean():.2f} against {constant.mean():.2f}. The first run is shown."
    )


def _written(action: Any) -> str:
    """Write an action as it would stand in a program."""
    entries = np.round(np.atleast_1d(action), 3).tolist()
    if len(set(entries)) == 1 and len(entries) > 1:
        return f"np.full({len(entries)}, {entries[0]:g})"
    text = ", ".join(f"{entry:g}" for entry in entries)
    return text if np.ndim(action) == 0 else f"[{text}]"


PPO_NAME = "PPO after a short training"

#: Arguments of runs that are short enough to train on while one waits.
SMALL: dict[str, Any] = {"tasks": optenv.tasks.MLP(width=16), "horizon": 20}

#: By animation: who acts, the shipped policy (None: one trained by PPO), the tasks in
#: words, and arguments.
COMPARISONS: dict[str, tuple[str, str | None, str, dict[str, Any]]] = {
    "LearningRate": ("policy adam", "adam", "digits", {"tasks": "digits"}),
    "DiscreteLearningRate": ("policy dqn", "dqn", "digits", {"tasks": "digits"}),
    "UpdateRule": (PPO_NAME, None, "perceptrons", SMALL),
    "Hyperparameters": (PPO_NAME, None, "perceptrons", SMALL),
    "RoleLearningRate": (PPO_NAME, None, "perceptrons", SMALL),
    "LayerwiseLearningRate": (
        PPO_NAME, None, "perceptrons with three hidden layers",
        {**SMALL, "tasks": optenv.tasks.MLP(depth=TENSORS // 2 - 1, width=16),
         "action": {"kind": "layerwise", "tensors": TENSORS}},
    ),
    "Update": (
        PPO_NAME, None, "quadratic functions of two parameters",
        {"tasks": optenv.tasks.Function(function="quadratic", normalize=True),
         "horizon": 10},
    ),
    "BatchSize": (PPO_NAME, None, "perceptrons", {**SMALL, "horizon": 10}),
    "LearningRateTrial": (
        "policy rl2", "rl2", "digits",
        {"tasks": "digits", "runs": 3, "previous_reward": "told"},
    ),
}  # fmt: skip


def main() -> None:
    """Draw all pictures, or those of one name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["overview", *EPISODES])
    parser.add_argument("--still", action="store_true", help="leave out the animations")
    arguments = parser.parse_args()
    only = arguments.only
    if only in (None, "overview"):
        overview(PICTURES / "overview.png")
    for table, write, ending in ((EPISODES, draw, "png"), (COMPARISONS, compare, "gif")):
        for name in table:
            if only in (None, name) and not (arguments.still and ending == "gif"):
                file = f"{name}.{ending}"
                store_caption(file, write(name, PICTURES / file))


def store_caption(file: str, caption: str) -> None:
    """Add the caption of a picture to those of the others."""
    stored = PICTURES / "captions.json"
    captions = json.loads(stored.read_text()) if stored.exists() else {}
    captions[file] = caption
    write_text(stored, json.dumps(captions, indent=1, sort_keys=True) + "\n")
    print(file, (PICTURES / file).stat().st_size, caption, flush=True)


if __name__ == "__main__":
    main()
