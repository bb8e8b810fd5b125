"""The layouts of masks beside their images: a folder per case, or folders of several images."""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .found import Case, Found, FoundMask
from .listing import Listing, SourceFile
from .matching import Key, key_of, parse
from .words import kind_of, words_of

MASK = re.compile(
    r"(?<![a-z])(mask|label|seg|gt|rater|reader|expert|anno|observer|grader|manual|contour|outline|ground.?truth)|mask"
    r"|(?<![a-z0-9])\d(st|nd|rd|th)",
    re.IGNORECASE,
)


class Pictures(NamedTuple):
    """The pictures of a folder."""

    images: list[SourceFile]
    masks: list[SourceFile]


def beside(listing: Listing, bare: bool = False) -> Found:
    """The layouts of masks beside their images, where a folder is a case or ID_RATER.* are the masks of ID.*.

    bare  without a word such as mask, seg or expert in names, read ID_WORD.* beside ID.* as its mask
    """
    found = Found("CASE/IMAGE.*, with its masks beside it" if not bare else "ID.*, and ID_RATER.* beside it")
    folders = collections.defaultdict(list)
    for file in listing.pictures:
        folders[file.folders].append(file)
    sorted_out = {name: _by_role(files, bare) for name, files in folders.items()}
    with_both = [pictures for pictures in sorted_out.values() if pictures.images and pictures.masks]
    several = any(len(pictures.images) > 1 and _fits(pictures) for pictures in with_both)
    for pictures in with_both:
        _add(found, pictures, several)
    if several:
        found.layout = "ID.*, and its masks ID_RATER.* beside it"
    return found


def _by_role(files: Sequence[SourceFile], bare: bool) -> Pictures:
    """The images and the masks of a folder, by their names."""
    masks = [file for file in files if MASK.search(file.stem)]
    images = [file for file in files if not MASK.search(file.stem)]
    if not images:  # such as seg1 and seg1_mask
        images = _roots(masks)
    elif more := _derived(images, bare and not masks) or _structures(images, masks):
        masks += more
        images = [file for file in images if file not in more]
    masks = [file for file in masks if file not in images]
    return Pictures(images, masks)


def _roots(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The files whose names are the beginning of others."""
    keys = {tuple(words_of(file.stem)): file for file in files}
    roots = {words[:k] for words in keys for k in range(1, len(words))} & keys.keys()
    smallest = [root for root in roots if not any(root[:k] in roots for k in range(1, len(root)))]
    return [keys[root] for root in sorted(smallest)]


def _derived(images: Sequence[SourceFile], bare: bool) -> list[SourceFile]:
    """The files whose names are that of another one and words that name a structure; with `bare`, any words."""
    roots = {tuple(words_of(file.stem)): file for file in images}
    found = []
    for words, file in roots.items():
        for k in range(1, len(words)):
            rest = words[k:]
            named = any(kind_of(word) in ("structure", "rater") for word in rest)
            known = named and all(kind_of(word) not in ("unknown", "split") for word in rest)
            if words[:k] in roots and (bare or known):
                found.append(file)
                break
    return found


def _structures(images: Sequence[SourceFile], masks: Sequence[SourceFile]) -> list[SourceFile]:
    """The files that are named by a structure alone, such as cup1, if there are others that may be the image."""
    keys = _keys(images)
    with_masks = {parsed.key for mask in masks if (parsed := parse(mask.stem, keys))}
    found = []
    for file in images:
        kinds = [kind_of(word) for word in words_of(file.stem)]
        if "structure" in kinds and "unknown" not in kinds and key_of(file.stem) not in with_masks:
            found.append(file)
    return found if len(found) < len(images) else []


def _fits(pictures: Pictures) -> bool:
    """Whether a mask of the folder has the name of one of its images."""
    keys = _keys(pictures.images)
    return any(parse(file.stem, keys) for file in pictures.masks)


def _keys(images: Iterable[SourceFile]) -> dict[Key, list[SourceFile]]:
    keys: dict[Key, list[SourceFile]] = {}
    for file in images:
        keys.setdefault(key_of(file.stem), []).append(file)
    return keys


def _add(found: Found, pictures: Pictures, several: bool) -> None:
    """Add the cases of a folder."""
    images, keys = pictures.images, _keys(pictures.images)
    if len(images) > 1 and not _fits(pictures):
        folder = images[0].path[: -len(images[0].within.rsplit("/", 1)[-1])].rstrip("/\\")
        found.faults.append(
            f"{folder}: {len(images)} pictures that are not named as masks, e.g. {_base(images[0])} and "
            f"{_base(images[1])}; keep one"
        )
        return
    for mask in pictures.masks:
        parsed = parse(mask.stem, keys)
        candidates = keys[parsed.key] if parsed else images
        if len(candidates) > 1:
            spelled = [image for image in candidates if image.stem in mask.stem]
            candidates = sorted(spelled, key=lambda image: -len(image.stem))[:1] if parsed else []
        if not candidates:
            continue
        image = candidates[0]
        case = _case(image, several)
        words = parsed.words if parsed else tuple(_words_apart(mask.stem, image))
        same = found.images.setdefault(case, {"": image})[""]
        if same is not image:
            found.faults.append(f"{image.path}: has the same name as {same.within}; remove one")
            continue
        found.masks.append(FoundMask(case, mask, (), words))


def _base(file: SourceFile) -> str:
    return file.within.rsplit("/", 1)[-1]


def _case(image: SourceFile, several: bool) -> Case:
    """The case of an image: its folder, or the image itself where folders have several or the folder has no name."""
    last = image.meanings[-1] if image.meanings else None
    named = last is not None and not last.split and last.role != "image"
    if not several and last is not None and (named or not image.plain):
        folders = image.plain if image.folders[-1] in image.plain[-1:] else (*image.plain, image.folders[-1])
        return Case(image.split, folders[:-1], folders[-1])
    return Case(image.split, image.plain, image.stem)


def _words_apart(stem: str, image: SourceFile) -> Iterator[str]:
    """The words in the name of a mask that neither its image nor its folder has."""
    known = {word.lower() for name in (image.stem, *image.folders[-1:]) for word in words_of(name)}
    for word in words_of(stem):
        if word.lower() not in known or kind_of(word) in ("number", "structure"):
            yield word
