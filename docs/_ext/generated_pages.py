"""Generate pages from the code: environments, features, rules, presets, policies, API.

They are written to ``docs/generated/`` before each build, so that they say what the code
does. Files at the top of that folder are included in pages that are written by hand; those
in its subfolders are pages of their own. ``python docs/_ext/generated_pages.py`` writes
them without a build, for readers of the sources.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium import spaces

import agents
import agents.meta
import optenv
from agents import SHIPPED, load_policy
from agents.rl.presets import PRESETS
from optenv import actions, rules, telemetry
from optenv.atomic import write_text
from optenv.recording.columns import ACTION, OBSERVATION, names_of
from optenv.settings import Settings

# Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def markdown(text: str) -> str:
    """Turn reStructuredText literals and roles into those of MyST; fences stay."""
    text = re.sub(r"(?<!`)``(?!`)", "`", text)
    text = re.sub(r":math:`([^`]+)`", lambda m: f"${' '.join(m[1].split())}$", text)
    return re.sub(r":(class|func|data|mod|meth|attr):`([^`]+)`", r"{py:\1}`\2`", text)


def restructured(lines: str) -> str:
    """Write text in reStructuredText as a part of a Markdown page."""
    return f"```{{eval-rst}}\n{lines}\n```\n"


def described(cls: type, section: str) -> dict[str, str]:
    """Read a section of a docstring in Google's style: meanings by name, in Markdown."""
    text = inspect.getdoc(cls) or ""
    _, found, rest = text.partition(f"{section}:\n")
    if not found:
        return {}
    body = re.split(r"\n\n(?=\S)", rest)[0]
    entries = re.split(r"\n(?=    [\w*])", "\n" + body)[1:]
    pairs = (entry.strip().split(":", 1) for entry in entries)
    return {name.strip(): markdown(" ".join(text.split())) for name, text in pairs}


# Environments

#: Pages about environments: title, ids, and the class whose docstring is shown.
ENVIRONMENT_PAGES: dict[str, tuple[str, Sequence[str], type[Any]]] = {
    "learning-rate": (
        "Learning rates",
        ["optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"],
        optenv.LearningRateEnv,
    ),
    "update-rule": ("Update rules", ["optenv/UpdateRule-v0"], optenv.LearningRateEnv),
    "hyperparameters": (
        "Hyperparameters",
        ["optenv/Hyperparameters-v0"],
        optenv.LearningRateEnv,
    ),
    "role-learning-rate": (
        "Learning rates of roles",
        ["optenv/RoleLearningRate-v0"],
        optenv.LearningRateEnv,
    ),
    "layerwise-learning-rate": (
        "Learning rates of tensors",
        ["optenv/LayerwiseLearningRate-v0"],
        optenv.LearningRateEnv,
    ),
    "update": ("Updates", ["optenv/Update-v0"], optenv.LearningRateEnv),
    "batch-size": ("Batch sizes", ["optenv/BatchSize-v0"], optenv.LearningRateEnv),
    "trials": ("Trials", list(optenv.TRIALS), optenv.TrialEnv),
    "batches": (
        "Batches of runs",
        list(optenv.ENVIRONMENTS),
        optenv.LearningRateVectorEnv,
    ),
    "trial-batches": ("Batches of trials", list(optenv.TRIALS), optenv.TrialVectorEnv),
}


PICTURES = Path(__file__).parents[1] / "pictures"


def pictures_of(env_id: str) -> list[str]:
    """Show the pictures about an environment, with captions (``docs/make_pictures.py``)."""
    captions = json.loads((PICTURES / "captions.json").read_text())
    name = env_id.split("/")[1].removesuffix("-v0")
    files = [f"{name}.gif", f"{name}.png", f"{name}-Functions.png"]
    return [
        f":::{{figure}} ../../pictures/{file}\n:alt: {name}\n\n{captions[file]}\n:::\n"
        for file in files
        if file in captions
    ]


def environment_page(title: str, ids: Sequence[str], cls: type[Any]) -> str:
    """Write the page of some environments, from the docstring of their class."""
    single = issubclass(cls, gym.Env)
    rows = []
    for name in ids:
        env = gym.make(name, disable_env_checker=True) if single else gym.make_vec(name, 3)
        rows.append((f"`{name}`", f"`{env.action_space}`", f"`{env.observation_space}`"))
    pictures = [shown for name in ids if single for shown in pictures_of(name)]
    # Examples in doctest form are no programs, and are highlighted as sessions.
    text = re.sub(r"```python\n(?=>>> )", "```pycon\n", inspect.getdoc(cls) or "")
    made = "`gym.make(id)`" if single else "`gym.make_vec(id, num_envs=3)`"
    parts = [
        f"# {title}\n",
        f"Spaces of {made}, of the class `{cls.__module__}.{cls.__name__}`:\n",
        table(("id", "action space", "observation space"), rows),
        *pictures,
        markdown(text) + "\n",
    ]
    if single:
        parts += ["## Entries by number\n", *(entries(name) for name in shown_in_full(ids))]
    if cls is optenv.LearningRateEnv:
        parts += ["## Arguments in full\n", arguments()]
    return "\n".join(parts)


#: Entries that a table shows at most; those of further tensors are like the first one's.
MOST_ENTRIES = 39


def shown_in_full(ids: Sequence[str]) -> Sequence[str]:
    """Return the ids whose entries are listed: of trials, which are many, the first."""
    return ids[:1] if ids[0] in optenv.TRIALS else ids


def entries(env_id: str) -> str:
    """Write tables of the entries of actions and observations of an environment."""
    env: Any = gym.make(env_id, disable_env_checker=True)
    described = env.unwrapped.describe()
    observed, acted = names_of(described, env.observation_space, env.action_space)
    action = actions.make(described["action"])
    # 1. Actions, whose effects the docstring tells.
    done = [
        (i, f"`{name.removeprefix(ACTION)}`", *ends)
        for i, (name, ends) in enumerate(zip(acted, _ends(env.action_space), strict=True))
    ]
    # 2. Observations.
    seen: list[tuple[Any, ...]] = []
    for name, ends in zip(observed, _ends(env.observation_space), strict=True):
        short = name.removeprefix(OBSERVATION)
        seen.append((len(seen), f"`{short}`", _meaning(short, action), *ends))
    if len(seen) > MOST_ENTRIES:
        seen = [*seen[:MOST_ENTRIES], ("...", "", "", "", ""), seen[-1]]
    return "\n".join(
        [
            f"Actions of `{env_id}` with its default arguments, by their names in "
            "recordings:\n",
            table(("number", "name", "minimum", "maximum"), done),
            f"Observations of `{env_id}`, likewise:\n",
            table(("number", "name", "meaning", "minimum", "maximum"), seen),
        ]
    )


def _ends(space: spaces.Space[Any]) -> list[tuple[Any, Any]]:
    """Return the least and the greatest value of each entry of a space."""
    if isinstance(space, spaces.Discrete):
        return [(0, int(space.n) - 1)]
    assert isinstance(space, spaces.Box)
    low, high = space.low.ravel(), space.high.ravel()
    return [(f"{a:g}", f"{b:g}") for a, b in zip(low, high, strict=True)]


def _meaning(name: str, action: actions.Action) -> str:
    """Say what an entry of an observation is, by its name in recordings."""
    first, _, rest = name.partition(".")
    if first == "last" and action.is_update:
        return "parameters, gradients or losses, see above"
    if name in telemetry.ALL_FEATURES:
        return telemetry.ALL_FEATURES[name]
    if first.startswith("tensor_") and rest:
        return telemetry.ALL_FEATURES.get(rest, "share of the predicted decrease")
    if first in ("last", "previous_action"):
        return "part of the last action"
    return {
        "previous_reward": "reward of the last control step",
        "new_run": "1 where a run of the trial begins",
    }.get(name, "")


def arguments() -> str:
    """Write the table of the environments' arguments, with types and defaults."""
    meanings = described(Settings, "Attributes")
    rows = [
        (f"`{each.name}`", f"`{each.type}`", f"`{each.default!r}`", meanings[each.name])
        for each in fields(Settings)
    ]
    return table(("argument", "type", "default", "meaning"), rows)


#: What a hyperparameter that a control sets belongs to.
RULE_OR_RUN = {"weight_decay": "any rule, decoupled", "clip": "any rule"}


def control_ranges() -> str:
    """Write the table of what ``optenv/Hyperparameters-v0`` can set, and its ranges."""
    step = actions.Hyperparameters().step
    rows = [
        (
            "`learning_rate`",
            "any rule",
            f"times exp(-{step:g})",
            "kept",
            f"times exp({step:g})",
        )
    ]
    for name, values in actions.RANGES.items():
        having = [f"`{key}`" for key, rule in rules.RULES.items() if name in rule.fields]
        of = ", ".join(having) or RULE_OR_RUN[name]
        decay = name in actions.DECAY_RATES
        rows.append((f"`{name}`", of, *(f"{1 - v if decay else v:g}" for v in values)))
    rows.append(("`average`", "any rule", "0", "0.5", "1"))
    return table(("name", "of", "at -1", "at 0", "at 1"), rows)


# Features and rules


def features() -> str:
    """Write the table of observation features, with their places by default."""
    rows = []
    places = {name: i for i, name in enumerate(telemetry.FEATURES)}
    for name, meaning in telemetry.ALL_FEATURES.items():
        sets = [key for key, of in telemetry.LOSS_FEATURE_SETS.items() if name in of]
        shown = ", ".join(f"`{key}`" for key in sets if key != "both")
        if name in telemetry.VALIDATION_FEATURES:
            shown = "with `observe_validation`"
        rows.append((places.get(name, ""), f"`{name}`", meaning, shown))
    return table(("index", "name", "meaning", "of the loss, in the set"), rows)


def rule_table() -> str:
    """Write the table of update rules: learning rate and hyperparameters."""
    rows = [
        (f"[`{name}`](#{_anchor(name)})", f"{rule.default_lr:g}", _hyperparameters(rule))
        for name, rule in rules.RULES.items()
    ]
    return table(("name", "default learning rate", "hyperparameters"), rows)


def rule_sections() -> str:
    """Write a section on each update rule: equation and hyperparameters."""
    parts = []
    for name, rule in rules.RULES.items():
        update = getattr(rule.update, "func", rule.update)
        text = inspect.getdoc(update) or ""
        # The equation stands before the sections of a docstring in Google's style.
        body, *sections = re.split(r"\n\n(?=\w+:\n)", text)
        parts += [
            f"({_anchor(name)})=",
            f"### `{name}`\n",
            restructured(_context(update) + body),
        ]
        if rule.fields:
            meanings = {}
            for cls in reversed(type(rule.hyperparameters).__mro__):
                meanings |= described(cls, "Attributes")
            rows = [
                (f"`{field}`", f"`{getattr(rule.hyperparameters, field)}`", meanings[field])
                for field in rule.fields
            ]
            parts.append(table(("hyperparameter", "default", "meaning"), rows))
        for section in sections:
            if section.startswith("References:\n"):
                paper = inspect.cleandoc(section.partition("\n")[2])
                parts.append(f"*{markdown(' '.join(paper.split()))}*\n")
    return "\n".join(parts)


def _anchor(rule: str) -> str:
    return f"rule-{rule}"


def _context(function: Any) -> str:
    """Let references in a docstring be looked up where it stands."""
    return f".. currentmodule:: {function.__module__}\n\n"


def _hyperparameters(rule: rules.Rule) -> str:
    values = {name: getattr(rule.hyperparameters, name) for name in rule.fields}
    return ", ".join(f"`{name}={value}`" for name, value in values.items())


# Architecture


def layers(pyproject: Path) -> str:
    """Write the layers of the import contracts, from the top."""
    config = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]
    parts = []
    for contract in config["contracts"]:
        if contract["type"] == "layers":
            existing = [
                ", ".join(f"`{name.strip(' ()')}`" for name in layer.split("|"))
                for layer in contract["layers"]
                if _exists(layer, contract, pyproject.parent)
            ]
            rows = enumerate(existing, start=1)
            parts += [f"**{contract['name']}.**\n", table(("layer", "modules"), rows)]
    return "\n".join(parts)


def _exists(layer: str, contract: dict[str, Any], root: Path) -> bool:
    """Return whether a layer has a module; those in parentheses need not exist."""
    (container,) = contract.get("containers", [""])
    names = [name.strip(" ()") for name in layer.split("|")]
    paths = [root / container.replace(".", "/") / name.replace(".", "/") for name in names]
    return any(path.is_dir() or path.with_suffix(".py").is_file() for path in paths)


# Presets and policies


def presets() -> str:
    """Write the table of presets."""
    rows = [
        (f"`{name}`", preset["class"], f"`{preset['env_id']}`",
         f"`{_rule_name(preset['env'].get('rule', 'adam'))}`", _lengths(preset["env"]),
         f"{preset['timesteps']:,}", preset["candidates"], preset["members"])
        for name, preset in PRESETS.items()
    ]  # fmt: skip
    head = (
        "preset", "algorithm", "environment", "rule", "updates in a run", "control steps",
        "trainings", "averaged",
    )  # fmt: skip
    return table(head, rows)


def _rule_name(spec: Any) -> str:
    return spec["name"] if isinstance(spec, dict) else spec


def _lengths(env: dict[str, Any]) -> str:
    low, high = (round(env["horizon"] * updates) for updates in env["updates_per_step"])
    return f"{low:,} to {high:,}"


#: Rows of a policy's card: key of its description, and how the card calls it.
CARD = {
    "algorithm": "learned by",
    "command": "training command",
    "timesteps": "control steps of the training",
    "seeds": "seeds of its members",
    "rule": "update rule",
    "action": "action",
    "horizon": "control steps in a run",
    "spacing": "spacing of the control steps",
    "total_updates": "updates in the runs of its training, least and most",
    "anytime": "needs no `total_steps`",
    "runs": "runs of a trial",
    "layers": "sizes of the layers, from the observation to the action",
    "memory": "size of its memory (LSTM)",
    "sha256": "SHA-256 of its weights",
}


def policy_card(name: str, readme: str) -> str:
    """Write the model card of a shipped policy.

    Args:
        name: of the policy.
        readme: ``agents/policies/README.md``, for what no description says: when to use the
            policy, how it was made, and its results.
    """
    policy = load_policy(name)
    description = json.loads(Path(f"{SHIPPED[name]}").with_suffix(".json").read_text())
    facts = [(meaning, _value(key, description[key])) for key, meaning in CARD.items()
             if key in description and description[key] not in (False, 0)]  # fmt: skip
    weights = sum(parameter.numel() for parameter in policy.parameters())
    head, results, notes = _results(name, readme)
    parts = [
        f"# `{name}`\n",
        _about(name, readme) + "\n",
        "## Use\n",
        _when(name, readme) + "\n",
        f"```python\n{_usage(name, policy.anytime, description)}\n```\n",
        "## Training\n",
        table(("", ""), [*facts, ("weights", f"{weights:,}")]),
        _observed(description["features"]) + "\n",
        "## Results\n",
        "On the twenty tasks of the [benchmark](../../benchmark.md), at the policy's "
        "default base learning rate; how to read it, and the others: "
        "[all policies](index.md#results).\n",
        table(head, results),
        *notes,
        "## Limits\n",
        *(f"- {limit}" for limit in _limits(policy.anytime, description)),
        "",
    ]
    return "\n".join(parts)


def _about(name: str, readme: str) -> str:
    """Return the section of the README about a policy."""
    found = re.search(rf"^### `{name}`\n\n(.*?)(?=^##|\Z)", readme, re.M | re.S)
    if found is None:
        raise ValueError(f"agents/policies/README.md has no section on {name!r}")
    return found[1].strip()


def _when(name: str, readme: str) -> str:
    """Return the last cell of a policy's row in the README's first table, a sentence."""
    found = re.search(rf"^\| `{name}` \|.*\| ([^|]+) \|$", readme, re.M)
    if found is None:
        raise ValueError(f"agents/policies/README.md has no row on {name!r}")
    return f"For {found[1].strip()}."


def policy_table(readme: str) -> str:
    """Write the table of policies for a page in the root of the documentation.

    Args:
        readme: ``agents/policies/README.md``, whose first table has them.
    """
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(
            r"^\| `[\w-]+` \|.*\|$", readme.partition("## Files")[0], re.M
        )
    ]
    listed = [row[0].strip("`") for row in rows]
    if sorted(listed) != sorted(SHIPPED):
        raise ValueError(f"agents/policies/README.md has a table of {listed}")
    linked = (
        (f"[`{name}`](generated/policies/{name}.md)", when, rule)
        for name, (_, _, rule, when) in zip(listed, rows, strict=True)
    )
    return table(("policy", "use it for", "update rule"), linked)


def _results(name: str, readme: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Return head and rows of a policy in the README's table of results, and its notes."""
    text = readme.partition("## Results")[2]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", text, re.M)
    ]
    head = lines[0]
    rows = [line for line in lines if line[0].rstrip("*") == f"`{name}`"]
    if not rows:
        raise ValueError(f"agents/policies/README.md has no results of {name!r}")
    starred = any("*" in line[0] for line in rows)
    notes = re.findall(r"^\\\*.*?(?=\n\n|\Z)", text, re.M | re.S)
    return head, rows, [f"{notes[0].strip()}\n"] if starred and notes else []


def _usage(name: str, anytime: bool, description: dict[str, Any]) -> str:
    steps = 1000 if description["total_updates"][1] >= 1000 else 100
    length = "" if anytime else f", total_steps={steps}"
    return (
        "import torch\nfrom agents import LearnedOptimizer\n\n"
        "model = torch.nn.Linear(10, 2)\n"
        f'optimizer = LearnedOptimizer(model.parameters(), "{name}"{length})'
    )


def _value(key: str, value: Any) -> str:
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if key == "total_updates":
        return " to ".join(f"{each:,}" for each in value)
    text = json.dumps(value)
    # The weights of a learned rule are hundreds of numbers.
    return f"`{text}`" if len(text) < 300 else f"`{text[:60]} ...`"


def _observed(names: Sequence[str]) -> str:
    observed = telemetry.own_features(names)
    if set(names) == set(observed) and not telemetry.observes_validation(names):
        of_losses = telemetry.loss_features_of(names)
        return (
            "It observes all [features](../../features.md) of "
            f'`loss_features="{of_losses}"`.'
        )
    listed = ", ".join(f"`{name}`" for name in names)
    return f"It observes these [features](../../features.md): {listed}."


def _limits(anytime: bool, description: dict[str, Any]) -> list[str]:
    """List the limits of a policy that its description tells."""
    low, high = description["total_updates"]
    limits = [f"Its training had runs of {low:,} to {high:,} updates."]
    if not anytime:
        limits[0] += " `LearnedOptimizer` warns of lengths far outside."
    of_losses = {*telemetry.LOSS_FEATURE_SETS["both"]}
    if description["features"] and of_losses.isdisjoint(description["features"]):
        limits.append("It takes no notice of losses, which would tell it more.")
    if description.get("memory"):
        limits.append("Its results above are those of the first run of a task.")
    limits.append("More, measured on `default`: [results](../../results.md#limits).")
    return limits


# API

#: Promised packages, each with what is promised beside its classes and functions.
PROMISED = {
    "agents": "The exported optimizer, and the policies.",
    "agents.meta": "[Meta-learners](../../meta/index.md) that use gradients.",
    "optenv": "Environments. `import optenv` registers them.",
    "optenv.sb3": "The adapter to Stable-Baselines3.",
}


def comment_on(name: str, package: ModuleType) -> str:
    """Return the comment ``#: ...`` above the definition of a value in a package."""
    folder = Path(str(package.__file__)).parent
    for path in sorted(folder.rglob("*.py")):
        found = re.search(rf"((?:^#: .*\n)+)^{name}\b *[:=]", path.read_text(), re.M)
        if found:
            return " ".join(line[3:].strip() for line in found[1].splitlines())
    raise ValueError(f"{name} of {package.__name__} has no comment '#: ...'")


def api_page(name: str, about: str) -> str:
    """Write the reference of the names that a package promises."""
    package = __import__(name, fromlist=["_"])
    parts = [f"# {name}\n", about + "\n"]
    directives = []
    for each in promised_names(package):
        value = getattr(package, each)
        if isinstance(value, ModuleType):
            if each == "rules":
                directives.append("``optenv.rules``: :doc:`update rules </rules>`.")
            else:
                directives.append(f".. automodule:: {value.__name__}\n   :members:")
        elif inspect.isclass(value):
            # Docstrings of environments are Markdown, and pages of their own.
            pages = [page for page, row in ENVIRONMENT_PAGES.items() if row[2] is value]
            directives.append(
                f".. py:class:: {name}.{each}\n\n"
                f"   See :doc:`/generated/environments/{pages[0]}`."
                if pages
                else f".. autoclass:: {name}.{each}\n   :show-inheritance:"
                + with_parts(value)
            )
        elif callable(value):
            directives.append(f".. autofunction:: {name}.{each}")
        else:
            # Autodata sees no comment of a value that is imported from another module.
            comment = comment_on(each, package)
            directives.append(f".. py:data:: {name}.{each}\n\n   {comment}")
    parts.append(restructured("\n\n".join(directives)))
    return "\n".join(parts)


def with_parts(cls: type) -> str:
    """Return an option that lists the members of the parts that a class is made of.

    Parts are bases of the same package beside a base of another one, as of an optimizer
    whose methods are in several files.
    """
    *parts, last = cls.__bases__
    package = cls.__module__.partition(".")[0]
    own = [part for part in parts if part.__module__.partition(".")[0] == package]
    return f"\n   :inherited-members: {last.__name__}" if own else ""


def promised_names(package: ModuleType) -> list[str]:
    """Return the names that a package exports, or the public ones that a module defines."""
    names = getattr(package, "__all__", None)
    if names is not None:
        return list(names)
    return [
        name
        for name, value in vars(package).items()
        if getattr(value, "__module__", None) == package.__name__ and name[0] != "_"
    ]


# Files


def write(folder: Path) -> None:
    """Write all generated pages and tables into ``folder``, and remove stale ones."""
    readme = (Path(agents.__file__).parent / "policies" / "README.md").read_text()
    pages = {
        "features.md": features(),
        "policy_table.md": policy_table(readme),
        "control_ranges.md": control_ranges(),
        "rule_table.md": rule_table(),
        "rule_sections.md": rule_sections(),
        "presets.md": presets(),
        "layers.md": layers(Path(__file__).parents[2] / "pyproject.toml"),
    }
    for page, (title, ids, cls) in ENVIRONMENT_PAGES.items():
        pages[f"environments/{page}.md"] = environment_page(title, ids, cls)
    cards = "\n".join(["", "```{toctree}", ":hidden:", "", *SHIPPED, "```", ""])
    pages["policies/index.md"] = linked_cards(readme) + cards
    for name in SHIPPED:
        pages[f"policies/{name}.md"] = policy_card(name, readme)
    for name, about in PROMISED.items():
        pages[f"api/{name}.md"] = api_page(name, about)
    for name, content in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != content:
            write_text(path, content)
    for path in folder.rglob("*.md"):
        if str(path.relative_to(folder)) not in pages:
            path.unlink()


def linked_cards(readme: str) -> str:
    """Link the names in the README's first table to the cards of the policies."""
    head, results, tail = readme.partition("## Files")
    head = re.sub(r"^\| `([\w-]+)` \|", r"| [`\1`](\1.md) |", head, flags=re.M)
    return head + results + tail


def escape_stars(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Escape the stars of ``a, b, **c: ...`` in ``Args``, which are no bold print."""
    for i, line in enumerate(lines):
        if re.match(r"\s+\w+(, \w+)*, \*+\w+: ", line):
            lines[i] = re.sub(r"\*", r"\\*", line.split(":")[0]) + line[line.index(":") :]


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    # Before Napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", escape_stars, priority=400)
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "generated"))
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    generated = Path(__file__).parents[1] / "generated"
    write(generated)
    print(f"wrote tables and pages to {generated}")
