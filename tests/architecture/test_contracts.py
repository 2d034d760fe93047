"""The house's rules, checked: layers, length of files, words, links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout


def test_no_file_asks_to_be_split() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    long = {str(path.relative_to(ROOT)): lines for path in files if (lines := len(path.read_text().splitlines())) > 500}
    assert long == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_glossary_has_the_words_that_the_code_uses() -> None:
    glossary = (ROOT / "docs/reference/glossary.md").read_text()
    for word in (
        "epoch", "slot", "entry", "seal", "settled", "quorum", "segment",
        "snapshot", "chunk", "pack", "recovery point", "beacon", "site",
    ):  # fmt: skip
        assert f"**{word}**" in glossary, word


def test_every_decision_names_an_alternative() -> None:
    for record in (ROOT / "docs/adr").glob("0*.md"):
        assert re.search(r"rather than|alternative", record.read_text(), re.IGNORECASE), record.name


def test_nothing_is_left_for_later_in_the_sources() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    assert [path.name for path in SOURCES if marks.search(path.read_text())] == []


def test_every_verb_says_for_whom_it_counts() -> None:
    """Or what it asks of the stores is missing from `threefold cost`."""
    folder = Path(__file__).parents[2] / "src/threefold/cli"
    calls = {
        f"{path.name}: {line.strip()}"
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if "open_parts(" in line and "verb=" not in line
    }
    assert calls == set()
