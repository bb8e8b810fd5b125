"""Messages, help texts, docstrings, comments and documents are in plain technical English."""

import ast
import io
import re
import tokenize

import pytest
from helpers import ROOT

FILES = [
    *sorted((ROOT / "guided_diffusion").rglob("*.py")),
    *sorted((ROOT / "scripts").glob("*.py")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
AVOIDED = (
    "told|tells?",  # report, state
    "wants?|wanted",  # need, require, expect
    "go(?:es)? on",  # continue, resume
    "leaves? away",  # remove, omit
    "unlike",  # different from
    "is no",  # is not a
    "so many",  # this many, N
    "at hand",  # available
)
ALLOWED = ("there is no", "is no longer")


def phrases(expressions):
    """A pattern of whole words, which may be on several lines."""
    return re.compile(r"\b(" + "|".join(expressions).replace(" ", r"\s+") + r")\b", re.IGNORECASE)


def python_prose(source):
    """(line, text) of every string, docstrings included, and of every block of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    block, start = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != start + len(block):
                yield start, "\n".join(block)
                block = []
            start = start if block else token.start[0]
            block.append(token.string.lstrip("# "))
    yield start, "\n".join(block)


def avoided_words(line, text):
    """(line, words) of each avoided expression in a text that begins at a line."""
    allowed = [match.span() for match in phrases(ALLOWED).finditer(text)]
    for match in phrases(AVOIDED).finditer(text):
        if not any(begin <= match.start() and match.end() <= end for begin, end in allowed):
            yield line + text.count("\n", 0, match.start()), " ".join(match[0].split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_language_is_plain(path):
    text = path.read_text(encoding="utf-8")
    parts = python_prose(text) if path.suffix == ".py" else [(1, text)]
    found = sorted({found for line, part in parts for found in avoided_words(line, part)})
    assert not found, "\n".join(["", *(f"{path.relative_to(ROOT)}:{line}: {words!r}" for line, words in found)])


def test_avoided_words_are_found_in_strings_and_comments_with_their_lines():
    source = '''"""What it is told.

It wants
more."""
x = "it goes " "on"  # this is no number
# leave
# away
y = f"{x} so many"
told = "There is no file, which is no longer an error; a wanton retelling"
'''
    found = sorted(found for line, part in python_prose(source) for found in avoided_words(line, part))
    assert found == [(1, "told"), (3, "wants"), (5, "goes on"), (5, "is no"), (6, "leave away"), (8, "so many")]
