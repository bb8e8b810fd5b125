"""The words in names of files and folders: whether they name a rater, a structure, or neither."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from ...data.names import SPLIT_NAMES
from .known import FUSED, IMAGE, MASK, MODALITY, NEUTRAL, NOT_A_MASK, NUMBERED, ORDINARY_FOLDERS, RATER, STRUCTURE

Kind = Literal["image", "mask", "split", "rater", "number", "structure", "fused", "not a mask", "unknown"]

NNUNET = re.compile(r"(images|labels)(tr|ts|va)", re.IGNORECASE)
NNUNET_SPLITS = {"tr": "training", "va": "validation", "ts": "testing"}
ENUMERATION = re.compile(r"^(\d{1,2}|[A-Za-z])[.)]\s*(?=\D)")  # "2. Masks", "a) Training"
SEPARATORS = re.compile(r"[\s_\-.,;+&()\[\]]+")
SIGN, MINUS = re.compile(r"(?<=[_\-\s=])-(?=\d)"), "\N{MINUS SIGN}"  # z--105.0
CAMEL = re.compile(r"[A-Z]?[^\WA-Z_]+|[A-Z]+(?![a-z])|[^A-Za-z]+")  # leftMask
KNOWN = IMAGE | MASK | RATER | STRUCTURE
GLUED = re.compile(r"([^\W\d_]+)(\d+)")
RATER_TOKEN = re.compile(r"\d+(st|nd|rd|th)[a-z]*|[a-km-qs-z]\d*|[lr]\d+|\d+")  # 1st, 2ndHO, A, a2, 07


@lru_cache(maxsize=2**16)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, and the number after a known word: "mask0_leftLung (2)" -> mask, 0, leftLung, 2."""
    words: list[str] = []
    for word in SEPARATORS.split(SIGN.sub(MINUS, name)):
        word = word.replace(MINUS, "-")
        parts = [] if NNUNET.fullmatch(word) or word[:1].isdigit() else CAMEL.findall(word)
        if len(parts) > 1 and any(part.lower() in KNOWN for part in parts):
            words += parts
            continue
        glued = GLUED.fullmatch(word)
        if glued and glued[1].lower() in (IMAGE | MASK | STRUCTURE) - NUMBERED and word.lower() not in MODALITY:
            words += [glued[1], glued[2]]
        elif word:
            words.append(word)
    return tuple(words)


@lru_cache(maxsize=2**16)
def kind_of(word: str) -> Kind:
    """What a word in the name of a mask means."""
    low = word.lower()
    low = NNUNET.sub(r"\1", low) if NNUNET.fullmatch(low) else low
    glued = GLUED.fullmatch(low)
    sets: tuple[tuple[Kind, frozenset[str]], ...] = (
        ("image", IMAGE | NEUTRAL),
        ("mask", MASK),
        ("split", frozenset(SPLIT_NAMES)),
        ("rater", RATER),
        ("structure", STRUCTURE),
        ("fused", FUSED),
        ("not a mask", NOT_A_MASK),
    )
    for kind, words in sets:
        if low in words:
            return kind
    if glued and glued[1] in NUMBERED:
        return "structure"
    if glued and glued[1] in RATER:
        return "number"
    return "number" if RATER_TOKEN.fullmatch(low) and low not in MODALITY else "unknown"


class Meaning(NamedTuple):
    """What the words of a mask's name, besides that of its image, mean."""

    rater: tuple[str, ...] = ()
    structure: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()  # a consensus, or not a mask


def meaning_of(words: Sequence[str]) -> Meaning:
    """Sort the words: "expert smith disc 1" -> rater (expert, smith, 1), structure (disc)."""
    rater, structure, unknown, apart = [], [], [], []
    names_rater = False  # the word before is "expert", which the next one may name
    numbered = False  # the word before is "class"
    for word in words:
        kind = kind_of(word)
        if kind in ("rater", "number", "unknown") and names_rater or kind == "rater":
            rater.append(word)
        elif kind == "number" and numbered:
            structure.append(word)
        elif kind == "number":
            rater.append(word)
        elif kind == "structure":
            structure.append(word)
        elif kind in ("fused", "not a mask"):
            apart.append(word)
        elif kind == "unknown":
            unknown.append(word)
        names_rater = kind == "rater"
        numbered = kind == "structure" and word.lower() in NUMBERED
    return Meaning(tuple(rater), tuple(structure), tuple(unknown), tuple(apart))


def is_clear(words: Sequence[str]) -> bool:
    """Whether words before the name of an image cannot be part of that name, e.g. "mask", or "expert 2"."""
    names_rater = False
    for word in words:
        kind = kind_of(word)
        glued = GLUED.fullmatch(word.lower())
        known = kind != "unknown" and (kind != "number" or (glued is not None and glued[1] in RATER))
        if not known and not names_rater:
            return False
        names_rater = kind == "rater" and not names_rater
    return not names_rater


# -- folders ----------------------------------------------------------------------------------------------------------


class Folder(NamedTuple):
    """What the name of a folder says.

    role   of the files in it, if it says so
    words    of a folder of masks, those that may name a rater or a structure
    neutral  it says nothing, such as data
    """

    role: Literal["image", "mask"] | None
    split: str | None
    words: tuple[str, ...] = ()
    neutral: bool = False


@lru_cache(maxsize=2**16)
def folder_of(name: str) -> Folder:
    """The meaning of a folder's name, such as images, Training-400, labelsTr_expert1, 1st_manual."""
    words = words_of(ENUMERATION.sub("", name))
    low = [word.lower() for word in words]
    nnunet = NNUNET.fullmatch(low[0]) if low else None
    if nnunet:
        role: Literal["image", "mask"] = "image" if nnunet[1] == "images" else "mask"
        return Folder(role, NNUNET_SPLITS[nnunet[2]], tuple(words[1:]))
    splits = {SPLIT_NAMES[word] for word in low if word in SPLIT_NAMES}
    rest = [word for word in low if word not in SPLIT_NAMES]
    beside = IMAGE | NEUTRAL | MASK
    alone = all(word in beside or (word.isdigit() and len(word) > 2) for word in rest)
    split = splits.pop() if len(splits) == 1 and alone else None
    if any(word in MASK for word in low) or _is_of_a_rater(words):
        more = tuple(word for word in words if kind_of(word) not in ("mask", "image", "split"))
        return Folder("mask", split, more)
    is_image = any(word in IMAGE | ORDINARY_FOLDERS for word in rest)
    bland = set(rest) <= IMAGE | NEUTRAL | ORDINARY_FOLDERS
    return Folder("image" if is_image and bland else None, split, neutral=bool(low) and bland)


def _is_of_a_rater(words: Sequence[str]) -> bool:
    """Whether the name of a folder is that of a rater, such as expert1 or reader_smith."""
    if not words:
        return False
    glued = GLUED.fullmatch(words[0].lower())
    first = words[0].lower() in RATER or (glued is not None and glued[1] in RATER)
    return first and all(kind_of(word) in ("rater", "number", "unknown") for word in words[1:])


def in_natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts rater10 after rater9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def shown(names: Iterable[str], most: int = 5) -> str:
    """The first names, and the number of the rest."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
