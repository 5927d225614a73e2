"""Pages that are drawn from the code: environments, features, rules, policies, presets.

They are written to ``docs/generated/`` before each build, so that they say what the
installed code does.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym

import optenv
from agents import SHIPPED, load_policy
from agents.rl.presets import PRESETS
from optenv import rules, telemetry
from optenv.env import LearningRateEnv
from optenv.settings import Settings
from optenv.trials import TrialEnv

#: Ids of each page about environments, the class whose docstring it shows, and a picture.
PAGES = {
    "learning-rate": (
        "Learning rates",
        ["optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"],
        LearningRateEnv,
    ),
    "update-rule": ("Update rules", ["optenv/UpdateRule-v0"], LearningRateEnv),
    "trials": ("Trials", list(optenv.TRIALS), TrialEnv),
}

#: Keys of a policy's description that its card shows, and their meanings.
CARD = {
    "algorithm": "learned by",
    "command": "made by",
    "timesteps": "control steps of the training",
    "seeds": "seeds of its members",
    "rule": "update rule",
    "action": "action",
    "horizon": "decisions in a run",
    "total_updates": "lengths of the runs that it was trained on, in updates",
    "anytime": "needs no `total_steps`",
    "layers": "sizes of the layers, from the observation to the action",
    "memory": "numbers in its memory (LSTM)",
    "sha256": "hash of its weights",
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def features() -> str:
    """Write the table of observation features."""
    rows = [
        (i, f"`{name}`", meaning, "yes" if name in telemetry.LOSS_FEATURES else "")
        for i, (name, meaning) in enumerate(telemetry.FEATURES.items())
    ]
    return table(("number", "name", "meaning", "needs a loss"), rows)


def arguments() -> str:
    """Write the table of the environments' arguments, with types and defaults."""
    described = _attributes(Settings)
    rows = [
        (f"`{each.name}`", f"`{each.type}`", f"`{each.default!r}`", described[each.name])
        for each in fields(Settings)
    ]
    return table(("argument", "type", "default", "meaning"), rows)


def _attributes(cls: type) -> dict[str, str]:
    """Read the ``Attributes`` section of a docstring in Google's style."""
    text = inspect.getdoc(cls) or ""
    section = text.split("Attributes:\n", 1)[1].split("\n\n", 1)[0]
    entries = re.split(r"\n(?=    \w)", "\n" + section)[1:]
    described = {}
    for entry in entries:
        name, meaning = entry.strip().split(":", 1)
        described[name.strip()] = _markdown(" ".join(meaning.split()))
    return described


def _markdown(text: str) -> str:
    """Turn reStructuredText roles and literals into Markdown code."""
    text = re.sub(r":(?:class|func|data|mod|meth|attr):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def rule_table() -> str:
    """Write the table of update rules."""
    rows = []
    for name, rule in rules.RULES.items():
        h = ", ".join(f"`{k}={getattr(rule.hyperparameters, k)}`" for k in rule.fields)
        summary = (inspect.getdoc(getattr(rule.update, "func", rule.update)) or "").split(
            "\n\n"
        )[0]
        rows.append((f"`{name}`", _markdown(_inline_math(summary)), rule.default_lr, h))
    return table(("name", "update", "default learning rate", "hyperparameters"), rows)


def _inline_math(text: str) -> str:
    return re.sub(r":math:`([^`]+)`", lambda m: f"${m[1]}$", text)


def presets() -> str:
    """Write the table of presets."""
    rows = [
        (f"`{name}`", preset["class"], f"`{preset['env_id']}`",
         f"`{_rule_name(preset['env'].get('rule', 'switching'))}`",
         f"{preset['timesteps']:,}", preset["candidates"])
        for name, preset in PRESETS.items()
    ]  # fmt: skip
    head = ("preset", "algorithm", "environment", "rule", "control steps", "trainings")
    return table(head, rows)


def _rule_name(spec: Any) -> str:
    return spec["name"] if isinstance(spec, dict) else spec


def environment_page(title: str, ids: Sequence[str], cls: type) -> str:
    """Write the page of some environments, from the docstring of their class."""
    rows = []
    for name in ids:
        env = gym.make(name, disable_env_checker=True)
        rows.append((f"`{name}`", f"`{env.action_space}`", f"`{env.observation_space}`"))
    picture = ids[0].split("/")[1].removesuffix("-v0")
    text = _demoted(inspect.getdoc(cls) or "")
    return "\n".join(
        [
            f"# {title}",
            "",
            table(("id", "action space", "observation space"), rows),
            f"![A run of {ids[0]}](../../pictures/{picture}.png)",
            "",
            _markdown(text),
            "",
            "## All arguments",
            "",
            arguments(),
        ]
    )


def _demoted(docstring: str) -> str:
    """Keep a docstring in Markdown as it is, apart from examples in doctest form."""
    return re.sub(
        r"```python\n(>>> .*?)\n\n```", r"```pycon\n\1\n```", docstring, flags=re.S
    )


def policy_card(name: str, prose: dict[str, tuple[str, str]]) -> str:
    """Write the model card of a shipped policy."""
    policy = load_policy(name)
    described = json.loads(Path(f"{SHIPPED[name]}").with_suffix(".json").read_text())
    rows = [(meaning, _value(described[key])) for key, meaning in CARD.items()
            if key in described and described[key] not in (False, 0)]  # fmt: skip
    weights = sum(p.numel() for p in policy.parameters())
    _, use = prose.get(name, ("", ""))
    return "\n".join(
        [
            f"# `{name}`",
            "",
            f"{use[:1].upper()}{use[1:]}." if use else "",
            "",
            "```python",
            "from agents import LearnedOptimizer",
            "",
            _usage(name, policy.anytime),
            "```",
            "",
            table(("", ""), [*rows, ("weights", f"{weights:,}")]),
            "",
            "How good it is beside the others, and its limits: [all policies](index.md).",
            "",
            "It observes "
            + (
                "all features of the telemetry."
                if set(described["features"]) == set(telemetry.FEATURES)
                else "these features: "
                + ", ".join(f"`{each}`" for each in described["features"])
                + "."
            ),
            "",
        ]
    )


def _usage(name: str, anytime: bool) -> str:
    length = "" if anytime else ", total_steps=1000"
    return (
        "import torch\n\nmodel = torch.nn.Linear(10, 2)\n"
        f'optimizer = LearnedOptimizer(model.parameters(), "{name}"{length})'
    )


def _value(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def policies_prose(readme: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """Read the README of the policies: its text, and for each policy how and what for."""
    text = readme.read_text()
    prose = {
        name: (learned.strip(), use.strip())
        for name, learned, _, use in re.findall(
            r"^\| `([\w-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE
        )
    }
    return text, prose


def write(folder: Path) -> None:
    """Write all generated pages and tables into ``folder``."""
    made = {
        "features.md": features(),
        "arguments.md": arguments(),
        "rules.md": rule_table(),
        "presets.md": presets(),
    }
    for page, (title, ids, cls) in PAGES.items():
        made[f"environments/{page}.md"] = environment_page(title, ids, cls)
    text, prose = policies_prose(
        Path(str(next(iter(SHIPPED.values())))).parent / "README.md"
    )
    cards = "\n".join(["", "```{toctree}", ":maxdepth: 1", "", *SHIPPED, "```", ""])
    made["policies/index.md"] = text + cards
    for name in SHIPPED:
        made[f"policies/{name}.md"] = policy_card(name, prose)
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != content:
            path.write_text(content)


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "generated"))
    return {"parallel_read_safe": True}
