"""README.md and docs/ as pages: examples that run, links, tables and words."""

import re

import pytest
from documents import DOCUMENTS, python_blocks, run_python
from helpers import ROOT

MAX_README_LINES, MAX_COLUMNS = 150, 7
# A private dialect, and the words of plain English for it
DIALECT = {
    r"told|tells?|telling": "report, state",
    r"wants?|wanted": "need, require",
    r"go on|goes on|going on": "continue, resume",
    r"leaves? (\w+ )?away": "remove",
    r"unlike": "different",
}


@pytest.mark.parametrize("section", ["A method", "A sampler", "A flag", "A converter"])
def test_the_examples_of_extending_run(section, tmp_path):
    text = (ROOT / "docs/extending.md").read_text()
    code = python_blocks(text.split(f"\n## {section}\n")[1].split("\n## ")[0])
    assert "assert" in code
    run_python(code, tmp_path)


def anchors_of(text):
    """The anchors that GitHub gives to the headings of a Markdown text."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.read_text()), link


def test_the_index_lists_every_page():
    text = (ROOT / "docs/README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in text, path.name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_narrow(document):
    text = re.sub(r"`[^`\n]*`", "", (ROOT / document).read_text()).replace("\\|", "")
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        assert row.count("|") - 1 <= MAX_COLUMNS, row


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_words_are_plain(document):
    text = (ROOT / document).read_text()
    for pattern, plain in DIALECT.items():
        found = re.search(rf"[^\n]*\b({pattern})\b[^\n]*", text, re.IGNORECASE)
        assert not found, f"{found[1]} ({plain}): {found[0]}"


def test_the_readme_is_short_and_in_order():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "What it can do, and what it cannot",
        "Install",
        "Your own data",
        "The paper's commands",
        "Which preset",
        "Documentation",
        "Citation",
    ]
    assert text.index("docs/demo.png") < text.index("## What it can do")
    assert "not a medical device" in text
