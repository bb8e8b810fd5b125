"""What a search for cases finds besides them: files that are not read, links that lead nowhere, names to be changed."""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable

OUTPUT = re.compile(
    r"(.+)_(?:(?:output\d+|consensus|probability|prob\d+)\.(?:png|nii\.gz)|sheet\.png|movie\.gif|samples\.npz)"
)
BESIDE_CASES = re.compile(r"manifest\.csv|truth\.json|dataset\.json|mode_[\w+]+\.png")  # written by this program
MOST_ENDINGS = 8  # in a line
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, bytes that are not text, line ends


def is_output(file: str, files: Collection[str]) -> bool:
    """Whether `file`, among the `files` of its folder, was written by segmentation_sample.py."""
    match = OUTPUT.fullmatch(file)
    return match is not None and f"{match[1]}_samples.npz" in files


def is_broken_link(path: str) -> bool:
    """Whether `path` is a link to something that does not exist, or to itself."""
    return os.path.islink(path) and not os.path.exists(path)


def count_by_ending(files: Iterable[str]) -> str:
    """The number of the files of each ending, with an example of each: "2 .txt, e.g. a.txt; 1 .csv, e.g. b.csv"."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for file in files:
        found[os.path.splitext(file)[1].lower() or "without an ending"].append(file)
    order = sorted(found.items(), key=lambda pair: -len(pair[1]))
    parts = [f"{len(same)} {ending}, e.g. {printable(same[0])}" for ending, same in order]
    more = [f"and {len(parts) - MOST_ENDINGS} more endings"] if len(parts) > MOST_ENDINGS else []
    return "; ".join([*parts[:MOST_ENDINGS], *more])


def printable(text: str) -> str:
    """The text with an escape in place of each character that cannot be printed in a line."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE else c for c in text)


def case_name(name: str) -> str:
    """The name of a case by its file or folder; if some characters cannot be printed, with a hash in their place."""
    kept = "".join("_" if unicodedata.category(c) in UNPRINTABLE else c for c in name)
    if kept == name:
        return name
    return f"{kept}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
