"""The documented results of the shipped policies are those of the stored runs."""

from __future__ import annotations

import lzma
import re

import pytest

from agents import SHIPPED
from agents.evaluation.runs import store
from tests.helpers.benchmark_rows import benchmark
from tests.helpers.paths import ROOT

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow

STORED = ROOT / "benchmarks" / "rows.jsonl.xz"
RESULTS, POLICIES = ROOT / "docs" / "results.md", ROOT / "agents" / "policies" / "README.md"
#: Policies whose runs are in the repository, by the base learning rate of them.
RATES = {
    "1e-3": (
        "anytime",
        "adam",
        "default@0.1",
        "adam@0.1",
        "dqn",
        "unrolled-lr",
        "unrolled-rule",
    ),
    "1e-2": ("default", "momentum", "rl2"),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return what the benchmark prints of the stored runs, by base learning rate."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "run_jobs", refuse)
        for rate, policies in RATES.items():
            out = tmp_path_factory.mktemp("benchmark")
            (out / store.FILE).write_bytes(lzma.open(STORED).read())
            named = [word for name in policies for word in ("--policy", name)]
            result = benchmark(
                *named, "--lr", rate, "--no-controls", "--arm", "AdamW tuned",
                "--workers", 0, "--no-progress", "--out", out,
            )  # fmt: skip
            assert result.exit_code == 0, (result.output, result.exception)
            found[rate] = result.output
    return found


def refuse(jobs, *_):
    """Fail if a run is missing, in place of running it."""
    assert not jobs, f"{len(jobs)} runs are not stored, as of {jobs[0].arm}"
    return []


def line(text, title, name):
    """Return the cells after the name of an arm, in its first line after a title."""
    _, _, rest = text.partition(title)
    return re.search(rf"^{re.escape(name)} lr \S+ +(.*)$", rest, re.MULTILINE)[1]


def documented(document, start, end):
    """Return the cells from the index ``end`` on, of the table row that begins so."""
    text = document.read_text().replace("−", "-")
    row = re.search(rf"^\| `{re.escape(start)}.*$", text, re.MULTILINE)[0]
    return [cell.strip() for cell in row.strip("|").split("|")][end:]


@pytest.mark.parametrize(("rate", "name"), [(r, name) for r in RATES for name in RATES[r]])
def test_documented_tables_match_the_stored_runs(rate, name, tables):
    text = tables[rate]
    standing = line(text, "P(better)", name)
    words = standing.split()
    records = [tuple(map(int, word.split("/"))) for word in words if word.count("/") == 2]
    (won, _, _), (best, tied, _) = records
    iqm = standing[: standing.index("]") + 1]
    totals = text.partition("ahead: mean")[2]
    against = re.findall(r"^AdamW tuned +(.*±.*)$", totals, re.MULTILINE)
    leads = re.findall(r"[+-]\d+\.\d ±\d+\.\d", " ".join(against))
    ahead = leads[RATES[rate].index(name)]
    assert documented(RESULTS, f"{name}`", 3) == [f"{won}", f"{best} ({tied})", ahead, iqm]
    if name not in SHIPPED:
        return
    *first, speedup, cpu, diverged = documented(POLICIES, f"{name}`*", 1)
    assert first == [f"{won} of 20", f"{best} ({tied}) of 20", ahead, iqm]
    assert diverged == f"{words[-1]} of 100"
    assert float(words[6]) == float(speedup)
    times = line(text, "CPU time of an update", name)
    assert abs(float(times) - float(cpu)) < 0.051


@pytest.mark.parametrize(
    ("rate", "row"),
    [("1e-3", "policy `default`, `--lr 1e-3`"), ("1e-2", "policy `default`")],
)
def test_the_table_of_the_rule_alone_matches_the_stored_runs(
    rate, row, tmp_path, monkeypatch
):
    monkeypatch.setattr(store, "run_jobs", refuse)
    (tmp_path / store.FILE).write_bytes(lzma.open(STORED).read())
    rules = {
        "Orthogonal Adam linear": "the rule, linear",
        "Orthogonal Adam WSD": "the rule, WSD",
    }
    text = benchmark(
        "--policy", "default", "--lr", rate, "--no-controls", "--arm", "AdamW tuned",
        *(word for rule in rules for word in ("--arm", rule)), "--workers", 0,
        "--no-progress", "--out", tmp_path,
    ).output  # fmt: skip
    for name, shown in (("default lr", row), *rules.items()):
        standing = re.search(rf"^{name} .*?(\d\.\d+ \[.*)$", text, re.MULTILINE)[1]
        words = standing.split()
        best, tied, _ = [word for word in words if word.count("/") == 2][1].split("/")
        iqm = standing[: standing.index("]") + 1]
        expected = [f"{best} ({tied}) of 20", iqm, words[5].replace("%", " %"), *words[6:8]]
        line_of = re.search(
            rf"^\| {re.escape(shown)} \|(.*)$", RESULTS.read_text(), re.MULTILINE
        )
        assert [cell.strip() for cell in line_of[1].strip("|").split("|")][:5] == expected
