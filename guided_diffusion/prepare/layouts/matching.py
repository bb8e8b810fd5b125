"""Finds the image that a mask belongs to by the words in their names."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from .known import MASK
from .words import is_clear, kind_of, words_of

MOST_AROUND = 4  # words before the name of the image, and words of that name at the end, in the name of a mask
GLUED_FIRST = re.compile(r"([^\W\d_]+)\d+[\s_\-.]")  # mask1_ID
Key = tuple[str, ...]


@lru_cache(maxsize=2**16)
def key_of(stem: str) -> Key:
    """The words that identify an image: those of its name, without "image" and splits unless there are no others."""
    words = tuple(word.lower() for word in words_of(stem))
    return tuple(word for word in words if kind_of(word) not in ("image", "split")) or words


class Parsed(NamedTuple):
    """A name of a mask, as the name of an image and other words."""

    key: Key
    words: tuple[str, ...]


def parse(stem: str, keys: Mapping[Key, object]) -> Parsed | None:
    """The longest name of an image in the name of a mask; None: it contains none.

    A mask is named ID, ID_WORDS, WORDS_ID, or WORDS_ID_WORDS_ID, where words before the end of ID must be known ones.
    """
    own = key_of(stem)
    if own in keys:
        return Parsed(own, ())
    words = words_of(stem)
    glued = GLUED_FIRST.match(stem)
    found = [o for o in _options(words, 2 if glued and glued[1].lower() in MASK else 0) if o.key in keys]
    return max(found, key=lambda option: len(option.key), default=None)


def _options(words: Sequence[str], known: int) -> Iterator[Parsed]:
    """All ways to read the words, those with fewer of them around the name first.

    known  number of the first words that cannot be part of the name of the image
    """
    n = len(words)
    for tail, lead in itertools.product(range(min(MOST_AROUND, n)), range(min(MOST_AROUND, n))):
        if lead != known and not is_clear(words[:lead]):
            continue
        for end in range(n - tail, lead, -1):
            extra = (*words[:lead], *words[end : n - tail])
            if tail and (end == n - tail or not is_clear(words[end : end + 1])):
                continue
            key = tuple(word.lower() for word in (*words[lead:end], *words[n - tail :]))
            yield Parsed(key, extra)
            weak = tuple(word for word in key if kind_of(word) not in ("image", "split"))
            if weak and weak != key:
                yield Parsed(weak, extra)


def folders_beyond(folders: Sequence[str], inner: Sequence[str]) -> tuple[str, ...] | None:
    """The folders besides `inner`, which they must contain in this order; None: they do not."""
    rest, wanted = [], list(inner)
    for name in folders:
        if wanted and name == wanted[0]:
            wanted.pop(0)
        else:
            rest.append(name)
    return None if wanted else tuple(rest)


def within(folders: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All selections of the folders in their order, the longest first."""
    for count in range(len(folders), -1, -1):
        yield from itertools.combinations(folders, count)
