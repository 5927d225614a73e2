"""Code, links and generated tables of the README and of the documentation."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.helpers.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "agents" / "policies" / "README.md",
    *(p for p in sorted(DOCS.rglob("*.md")) if not {"_build", "generated"} & {*p.parts}),
]
README_LINES = 200

CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^(```+|:::+).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PROGRAM = re.compile(
    r"(?<![\w./])((?:benchmarks|examples|docs|tests|agents|optenv)/[\w/.-]+\.\w+)"
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks_of(page: Path) -> list[str]:
    return CODE.findall(page.read_text())


#: Pages whose code learns for more than a few seconds.
SLOW = {"few_shot.md", "continual.md"}

WITH_CODE = [
    pytest.param(page, marks=pytest.mark.slow if page.name in SLOW else (), id=named(page))
    for page in PAGES
    if blocks_of(page)
]


def test_the_readme_is_short_and_has_code_and_both_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    assert len(blocks_of(ROOT / "README.md")) >= 2
    for marker in ("<!-- main command -->", "<!-- test command -->"):
        assert f"{marker}\n```bash\npip install" in text


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for i, block in enumerate(blocks_of(page)):
        exec(compile(block, f"{named(page)}, block {i}", "exec"), names)


def anchors_of(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MyST make them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    explicit = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    return {slug.strip().replace(" ", "-") for slug in slugs} | {*explicit}


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    """Pages that are drawn from the code."""
    folder = tmp_path_factory.mktemp("generated")
    program = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(DOCS / "_ext")!r}]
from pathlib import Path
import generated_pages
generated_pages.write(Path({str(folder)!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page, generated):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        if DOCS / "generated" in found.parents:
            found = generated / found.relative_to(DOCS / "generated")
        assert found.exists(), f"{named(page)}: {target}"
        assert not anchor or anchor in anchors_of(found), f"{named(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_a_page_names_exist(page):
    if page.parent.name == "notes":  # a log, which tells of files as they were then
        pytest.skip("a log of what was")
    for name in PROGRAM.findall(page.read_text()):
        if "generated/" in name or "_build" in name:
            continue
        exists = (ROOT / name).exists() or (page.parent / name).exists()
        assert exists, f"{named(page)}: {name}"


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            names = [line for line in block.splitlines() if line and line[0] != ":"]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    pages = {page for page in PAGES if DOCS in page.parents} - {DOCS / "index.md"}
    parts = {p for p in pages if p.name.startswith("extending_")}
    assert pages - parts <= listed


def test_generated_pages_say_what_the_code_has(generated):
    import gymnasium as gym

    import optenv
    from agents import SHIPPED
    from agents.rl.presets import PRESETS
    from optenv.rules import RULES
    from optenv.telemetry import FEATURES

    features = (generated / "features.md").read_text()
    assert all(
        f"| `{name}` | {meaning} |" in features for name, meaning in FEATURES.items()
    )
    rules = (generated / "rules.md").read_text()
    assert [*re.findall(r"^\| `([\w-]+)`", rules, re.MULTILINE)] == list(RULES)
    presets = (generated / "presets.md").read_text()
    assert [*re.findall(r"^\| `([\w-]+)`", presets, re.MULTILINE)] == list(PRESETS)
    pages = [*(generated / "environments").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    for name in [*optenv.ENVIRONMENTS, *optenv.TRIALS]:
        space = gym.make(name).action_space
        assert f"| `{name}` | `{space}` |" in text
    assert {page.stem for page in (generated / "policies").glob("*.md")} == {
        *SHIPPED,
        "index",
    }


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("needs the extra 'docs'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
