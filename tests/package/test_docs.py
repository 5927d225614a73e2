"""Code, links, commands and generated parts of the README and of the documentation."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import gymnasium as gym
import pytest
import torch

import agents
import agents.meta
import optenv
import optenv.sb3
from agents import SHIPPED
from agents.rl.presets import PRESETS
from optenv import actions
from optenv.rules import RULES
from optenv.telemetry import ALL_FEATURES, LOSS_FEATURE_SETS
from tests.helpers.markers import slow
from tests.helpers.paths import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"
BUILT = {"_build", "generated"}
PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    ROOT / "agents" / "policies" / "README.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if not BUILT & {*path.parts}),
]
#: A log and a changelog tell of files and names as they were then.
OF_THE_PAST = {DOCS / "notes" / "policy-log.md"}
README_LINES = 200
#: Pages whose code takes more than a few seconds.
SLOW = {
    "docs/agents/index.md", "docs/agents/unrolled.md", "docs/environments.md",
    "docs/extending_algorithm.md", "docs/extending_rule.md", "docs/frameworks.md",
    "docs/meta/continual.md", "docs/meta/few_shot.md",
}  # fmt: skip

#: Optional packages of pages.
NEEDED = {"frameworks.md": ("accelerate", "lightning", "transformers", "pytorch_optimizer")}

#: Names of tables of the packages that users may add to.
TABLES = ("_REGISTERED", "ALGORITHMS", "KERNELS")

#: A comment before a block of code says why it cannot run.
CODE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```python\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
FENCE = re.compile(r"^(```+|:::+).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROLE = re.compile(r"\{py:\w+\}`~?([\w.]+)`")
DOTTED = re.compile(r"`((?:agents|optenv)(?:\.\w+)+)(?:\([^`]*\))?`")
PROGRAM = re.compile(
    r"(?<![\w./])((?:benchmarks|examples|docs|tests|agents|optenv)/[\w/.-]+\.\w+)"
)
#: Commands in the text, and in blocks: the program, and the rest of the line.
COMMAND = re.compile(r"python (-m agents\.evaluation|[\w/]+\.py)([^`\n]*)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(page: Path) -> list[str]:
    """Return the blocks of Python that a page says run."""
    blocks = CODE.finditer(page.read_text())
    return [block["code"] for block in blocks if block["reason"] is None]


WITH_CODE = [
    slow(page, if_=named(page) in SLOW, id=named(page)) for page in PAGES if code_of(page)
]


def load_extension() -> ModuleType:
    path = DOCS / "_ext" / "generated_pages.py"
    spec = importlib.util.spec_from_file_location("generated_pages", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages that are drawn from the code."""
    folder = tmp_path_factory.mktemp("generated")
    load_extension().write(folder)
    return folder


@pytest.fixture(scope="session")
def libraries() -> None:
    """Import what pages import, so that no page is charged for it."""
    importlib.import_module("stable_baselines3")
    importlib.import_module("sklearn.datasets")


@pytest.fixture
def tables() -> Iterator[None]:
    """Undo what a page registers in the tables of the packages, and in Gymnasium's."""
    registered = [gym.registry, PRESETS]
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").split(".")[0] in ("agents", "optenv"):
            values = (getattr(module, name, None) for name in TABLES)
            registered += [value for value in values if isinstance(value, dict)]
    before = [dict(each) for each in registered]
    yield
    for each, contents in zip(registered, before, strict=True):
        each.clear()
        each.update(contents)


# Code


def test_the_readme_is_short_and_has_code_and_both_commands() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES
    assert len(code_of(README)) >= 2
    for marker in ("<!-- main command -->", "<!-- test command -->"):
        assert f"{marker}\n```bash\npip install" in text


def run_blocks(page: Path, blocks: list[str]) -> None:
    names: dict[str, object] = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {i}", "exec"), names)


# Lightning itself uses a deprecated part of torch's pytree.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs_in_its_order(
    page: Path,
    libraries: None,
    tables: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in NEEDED.get(page.name, ()):
        pytest.importorskip(package)
    run_blocks(page, code_of(page))


def test_the_code_of_the_model_cards_runs(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SHIPPED:
        blocks = code_of(generated / "policies" / f"{name}.md")
        assert len(blocks) == 1
        run_blocks(generated / name, blocks)


def modules() -> Iterator[Path]:
    for package in ("agents", "optenv"):
        yield from sorted((ROOT / package).rglob("*.py"))


SESSIONS = [path for path in modules() if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", SESSIONS, ids=named)
def test_the_sessions_in_docstrings_print_what_they_say(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = named(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_the_examples_in_docstrings_are_valid_python() -> None:
    examples = 0
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            pattern = r"^( *)(?:Example)?::\n\n((?:\1    .*\n|\n)+)"
            for block in re.finditer(pattern, text + "\n", re.M):
                examples += 1
                ast.parse(textwrap.dedent(block[2]), f"{named(path)}")
    assert examples >= 5


# Links, files, names and commands


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    explicit = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    return {slug.strip().replace(" ", "-") for slug in slugs} | {*explicit}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path, generated: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        if DOCS / "generated" in found.parents:
            found = generated / found.relative_to(DOCS / "generated")
        assert found.exists(), f"{named(page)}: {target}"
        assert not anchor or anchor in anchors_of(found), f"{named(page)}: {target}"


CURRENT = [page for page in PAGES if page not in OF_THE_PAST]


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in PROGRAM.findall(page.read_text()):
        if "generated/" in name or "_build" in name:
            continue
        exists = (ROOT / name).exists() or (page.parent / name).exists()
        assert exists, f"{named(page)}: {name}"


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {*re.findall(r"\b(test_\w+\.py)", page.read_text())} <= tests


def resolve(name: str) -> object:
    """Import what a dotted name names."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[i:]:
                value = getattr(value, part)
        except AttributeError:
            continue
        return value
    raise LookupError(name)


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_names_of_the_packages_that_a_page_uses_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for name in {*ROLE.findall(text), *DOTTED.findall(text)}:
        if not name.endswith((".py", ".md", ".json")):
            resolve(name)


#: Files in which the flags of a command are declared, where it is not the program's own.
FLAG_FILES = {
    "-m agents.evaluation": ["agents/evaluation/__main__.py", "agents/evaluation/**/*.py"]
}


def flags_of(program: str) -> set[str]:
    """Return the flags that a program declares, and those of the files it draws on."""
    paths = FLAG_FILES.get(program, [program, "benchmarks/*.py", "agents/**/cli*.py"])
    text = "".join(path.read_text() for name in paths for path in ROOT.glob(name))
    if program not in FLAG_FILES:  # its own flags, and those that it shares with others
        imported = re.findall(
            r"^(?:from|import) ([\w.]+)", (ROOT / program).read_text(), re.M
        )
        files = [ROOT / f"{name.replace('.', '/')}.py" for name in imported]
        files += [ROOT / "benchmarks" / f"{name}.py" for name in imported]
        sources = [ROOT / program, *(path for path in files if path.exists())]
        sources += [path for path in ROOT.glob("agents/**/cli*.py")]
        text = "".join(path.read_text() for path in sources)
    declared = {*re.findall(r"--[a-z][\w-]*", text)}
    fields = re.findall(r"^    (\w+):", text, re.MULTILINE)  # of a dataclass of arguments
    return declared | {f"--{name.replace('_', '-')}" for name in fields}


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield programs and flags of the commands of a page."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    # A command in the text may be broken across lines.
    text = re.sub(
        r"`[^`\n]*\n[^`\n]*(?:\n[^`\n]*)?`", lambda m: m[0].replace("\n", " "), text
    )
    for program, rest in COMMAND.findall(text):
        rest = re.split(r" && | \| ", rest)[0]
        try:
            words = shlex.split(rest)
        except ValueError:
            words = rest.split()
        yield program, [word.split("=")[0] for word in words if word.startswith("--")]


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_commands_of_a_page_exist_with_their_flags(page: Path) -> None:
    for program, flags in commands_of(page):
        if program.endswith(".py"):
            assert (ROOT / program).exists(), f"{named(page)}: {program}"
        for flag in {*flags} - {"--help"}:
            negated = flag.replace("--no-", "--")
            assert {flag, negated} & flags_of(program), f"{named(page)}: {program} {flag}"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed: set[Path] = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            names = [line for line in block.splitlines() if line and line[0] != ":"]
            for name in names:
                listed |= {path.resolve() for path in page.parent.glob(f"{name}.md")}
    pages = {page for page in PAGES if DOCS in page.parents} - {DOCS / "index.md"}
    orphans = {page for page in pages if "orphan: true" in page.read_text()[:40]}
    assert pages - orphans <= listed


# Generated parts


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of the rows of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_table_of_features_is_that_of_the_code(generated: Path) -> None:
    rows = rows_of((generated / "features.md").read_text())
    assert [row[1:3] for row in rows] == [
        [f"`{name}`", meaning.replace("|", "\\|")] for name, meaning in ALL_FEATURES.items()
    ]
    for key in ("positive", "invariant"):
        of_set = {row[1].strip("`") for row in rows if f"`{key}`" in row[3]}
        assert of_set == {*LOSS_FEATURE_SETS[key]}


def test_the_ranges_of_hyperparameters_are_those_of_the_code(generated: Path) -> None:
    rows = rows_of((generated / "control_ranges.md").read_text())
    assert [row[0].strip("`") for row in rows] == list(actions.NAMES)
    action = actions.Hyperparameters(names=actions.NAMES)
    given = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    values = action.hyperparameters(given[:, None].expand(3, action.outputs))
    for row in rows[1:]:
        assert [float(cell) for cell in row[2:]] == pytest.approx(
            values[row[0][1:-1]].tolist()
        )


def test_the_rules_are_those_of_the_code_and_have_equations(generated: Path) -> None:
    rows = rows_of((generated / "rule_table.md").read_text())
    assert [re.match(r"\[`([\w-]+)`\]", row[0])[1] for row in rows] == list(RULES)
    assert [float(row[1]) for row in rows] == [rule.default_lr for rule in RULES.values()]
    text = (generated / "rule_sections.md").read_text()
    sections = re.split(r"^### `([\w-]+)`\n", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == list(RULES)
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        assert ":math:" in section or ".. math::" in section, name
        assert all(f"| `{field}` |" in section for field in RULES[name].fields)


def test_the_presets_are_those_of_the_code(generated: Path) -> None:
    rows = rows_of((generated / "presets.md").read_text())
    assert [row[0].strip("`") for row in rows] == list(PRESETS)
    for row, preset in zip(rows, PRESETS.values(), strict=True):
        assert row[1:3] == [preset["class"], f"`{preset['env_id']}`"]
        assert row[5] == f"{preset['timesteps']:,}"


def test_every_environment_has_a_page_with_its_spaces_and_a_picture(
    generated: Path,
) -> None:
    pages = [path.read_text() for path in (generated / "environments").glob("*.md")]
    assert len(pages) == 10
    for name in [*optenv.ENVIRONMENTS, *optenv.TRIALS]:
        env = gym.make(name)
        row = f"| `{name}` | `{env.action_space}` | `{env.observation_space}` |"
        (page,) = [text for text in pages if row in text]
        assert re.search(r"^``[^`]", page, re.MULTILINE) is None, "a broken fence"
        pictures = re.findall(r"\{figure\} \.\./\.\./(pictures/\S+)", page)
        assert {Path(name).suffix for name in pictures} == {".png", ".gif"}
        assert all((DOCS / name).stat().st_size < 300_000 for name in pictures)
        for heading in ("Action Space", "Observation Space", "Rewards", "Episode End"):
            assert f"## {heading}" in page


def test_the_table_of_policies_is_that_of_their_readme(generated: Path) -> None:
    readme = (ROOT / "agents" / "policies" / "README.md").read_text()
    rows = rows_of((generated / "policy_table.md").read_text())
    source = rows_of(readme.partition("## Files")[0])
    assert {row[0].strip("`") for row in source} == {*SHIPPED}
    assert rows == [
        [f"[{row[0]}](generated/policies/{row[0].strip('`')}.md)", row[3], row[2]]
        for row in source
    ]
    assert "```{include} generated/policy_table.md" in (DOCS / "index.md").read_text()


def test_every_policy_has_a_card_with_its_description(generated: Path) -> None:
    for name, path in SHIPPED.items():
        card = (generated / "policies" / f"{name}.md").read_text()
        description = json.loads(Path(f"{path}").with_suffix(".json").read_text())
        for key in ("command", "sha256", "algorithm"):
            assert f"| `{description[key]}` |" in card
        for heading in ("Use", "Training", "Results", "Limits"):
            assert f"\n## {heading}\n" in card
        assert "±" in card, "results"


def test_the_architecture_names_every_folder_of_the_packages() -> None:
    text = (DOCS / "architecture.md").read_text()
    for folder in [*(ROOT / "agents").iterdir(), *(ROOT / "optenv").iterdir()]:
        if (folder / "__init__.py").exists():
            assert f"| `{folder.parent.name}/{folder.name}/` |" in text


def test_the_layers_are_those_of_the_contracts(generated: Path) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    text = (generated / "layers.md").read_text()
    for contract in contracts["contracts"]:
        assert (f"**{contract['name']}.**" in text) == (contract["type"] == "layers")
    assert "`optenv`" in text
    layer = "`clock`, `kernels`, `loss_hook`, `loss_unit`, `modifiers`, `probe`, `roles`, "
    assert f"{layer}`trace`" in text


PROMISED = {
    package.__name__: package for package in (agents, agents.meta, optenv, optenv.sb3)
}


@pytest.mark.parametrize("name", PROMISED)
def test_the_reference_has_every_promised_name(name: str, generated: Path) -> None:
    text = (generated / "api" / f"{name}.md").read_text()
    for each in load_extension().promised_names(PROMISED[name]):
        assert re.search(rf"^(\.\. |``).*\b{name}\.{each}\b", text, re.MULTILINE), each


def test_the_parts_of_the_project_for_people_are_there() -> None:
    yaml = pytest.importorskip("yaml")
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = yaml.safe_load(form.read_text())
        if form.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= content.keys()
        ids = [item["id"] for item in content["body"] if item["type"] != "markdown"]
        assert len(ids) == len({*ids})
    for name in ("CITATION.cff", ".pre-commit-config.yaml", ".readthedocs.yaml"):
        assert yaml.safe_load((ROOT / name).read_text())


# The site


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton", "sphinx_design"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra: docs)")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"(\w+:)?//", page.read_text()
        )
        assert not loaded, f"{page.name} loads from the network"


def test_the_reference_of_the_optimizer_lists_the_methods_of_its_parts(
    generated: Path,
) -> None:
    page = (generated / "api" / "agents.md").read_text()
    block = page.partition(".. autoclass:: agents.LearnedOptimizer\n")[2]
    options = block.partition("\n\n")[0].splitlines()
    assert "   :inherited-members: Optimizer" in options
