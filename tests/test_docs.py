"""The documentation is true: its Python examples run, its links lead somewhere, decisions stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHER_PAGES = [ROOT / ".ci" / "README.md", ROOT / "tests" / "emu" / "README.md"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *OTHER_PAGES])
WITH_EXAMPLES = [page for page in PAGES if "```python\n" in page.read_text()]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after another, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


def test_the_readme_has_its_examples() -> None:
    assert ROOT / "README.md" in WITH_EXAMPLES
    assert (ROOT / "README.md").read_text().count("```python\n") >= 3


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert broken == []


def test_decisions_are_short_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert records
    for record in records:
        assert f"({record.name})" in index
        assert len(record.read_text().splitlines()) <= 25
