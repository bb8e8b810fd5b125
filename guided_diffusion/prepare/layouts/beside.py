"""The layouts of masks beside their images: a folder per case, or folders of several images."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .found import Case, Found, FoundMask
from .known import MODALITY
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
    for file in listing.pictures:
        home = sorted_out.get(_home(file))
        if home and len(home.images) == 1 and _home(file) != file.folders:
            home.masks.append(file)
            sorted_out.pop(file.folders, None)
    with_both = [pictures for pictures in sorted_out.values() if pictures.images and pictures.masks]
    several = any(len(pictures.images) > 1 and _fits(pictures) for pictures in with_both)
    for pictures in with_both:
        _add(found, pictures, several)
    if any(set(files) != {""} for files in found.images.values()):  # those of a single image are modalities, too
        for case, files in found.images.items():
            found.images[case] = {name or _modality(image): image for name, image in files.items()}
    if several:
        found.layout = "ID.*, and its masks ID_RATER.* beside it"
    return found


def _home(file: SourceFile) -> tuple[str, ...]:
    """The folder above those of masks that contain a file, such as CASE of CASE/masks/reader1.png."""
    roles = [folder.role for folder in file.meanings]
    place = roles.index("mask", file.shared) if "mask" in roles[file.shared :] else len(roles)
    return file.folders[:place]


def _by_role(files: Sequence[SourceFile], bare: bool) -> Pictures:
    """The images and the masks of a folder, by their names."""
    images = [file for file in files if not MASK.search(file.stem)]
    masks = [file for file in files if MASK.search(file.stem)]
    if images:
        more = _derived(images, bare and not masks) or _structures(images, masks)
        is_image = {file.path for file in images} - {file.path for file in more}
    else:  # such as seg1 and seg1_mask
        more = []
        is_image = {file.path for file in _roots(masks)}
    is_mask = {file.path for file in (*masks, *more)} - is_image
    return Pictures([f for f in files if f.path in is_image], [f for f in files if f.path in is_mask])


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
        _add_modalities(found, pictures)
        return
    for mask in pictures.masks:
        image, words = _image_of(mask, images, keys)
        if image is None:
            continue
        case = _case(image, several)
        same = found.images.setdefault(case, {"": image}).get("", image)
        if same is image:
            found.masks.append(FoundMask(case, mask, _below(mask), words))
        else:
            found.faults.append(f"{image.path}: has the same name as {same.within}; remove one")


def _below(mask: SourceFile) -> tuple[tuple[str, ...], ...]:
    """The words of the folders between the image and its mask."""
    names = zip(mask.folders, mask.meanings, strict=True)
    inner = list(names)[len(_home(mask)) :]
    words = [meaning.words if meaning.role == "mask" else words_of(name) for name, meaning in inner]
    return tuple(filter(None, words))


def _image_of(
    mask: SourceFile, images: Sequence[SourceFile], keys: Mapping[Key, Sequence[SourceFile]]
) -> tuple[SourceFile | None, tuple[str, ...]]:
    """The image that a mask belongs to, and the other words in the name of the mask; None: there is none."""
    if len(images) == 1:
        return images[0], _words_apart(mask.stem, images[0])
    parsed = parse(mask.stem, keys)
    if not parsed:
        return None, ()
    candidates = keys[parsed.key]
    if len(candidates) > 1:
        candidates = [image for image in candidates if image.stem in mask.stem]
    return max(candidates, key=lambda image: len(image.stem), default=None), parsed.words


def _add_modalities(found: Found, pictures: Pictures) -> None:
    """Add a folder of several images, which are the modalities of a case if their names say so."""
    first, second, *_ = pictures.images
    modalities = {_modality(image): image for image in pictures.images}
    if len(modalities) < len(pictures.images) or "" in modalities:
        folder = first.path[: -len(_base(first))].rstrip("/\\")
        found.faults.append(
            f"{folder}: {len(pictures.images)} pictures that are not named as masks, e.g. {_base(first)} and "
            f"{_base(second)}; keep one, or describe the layout by --images and --masks"
        )
        return
    case = _case(first, several=False)
    found.images[case] = modalities
    found.masks += [FoundMask(case, mask, (), _words_apart(mask.stem, first)) for mask in pictures.masks]


def _modality(image: SourceFile) -> str:
    """The modality in the name of an image, such as flair or image_t1; empty if it names none."""
    words = words_of(image.stem)
    named = [word for word in words if word.lower() in MODALITY]
    if words[0].lower() == "image":
        return "_".join(words[1:])
    return "_".join(named)


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


def _words_apart(stem: str, image: SourceFile) -> tuple[str, ...]:
    """The words in the name of a mask that name neither its image nor its folder."""
    words = words_of(stem)
    names = [words_of(name) for name in (image.stem, *image.folders[-1:])]
    for name in names:
        count = len(name)
        if len(words) > count and _lower(words[:count]) == _lower(name):
            words = words[count:]
        elif len(words) > count and _lower(words[-count:]) == _lower(name):
            words = words[:-count]
    known = {word.lower() for name in names for word in name}
    return tuple(word for word in words if word.lower() not in known or kind_of(word) != "unknown")


def _lower(words: Sequence[str]) -> list[str]:
    return [word.lower() for word in words]
