"""The structure and the rater of each mask, by the words of its path; what is not clear is refused."""

import collections
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...data.files.case_files import ENDING
from ...errors import DataError
from .found import Found, FoundMask
from .listing import SourceFile
from .words import SEPARATORS, Meaning, folder_of, in_natural_order, meaning_of, shown

Words = tuple[str, ...]


class Named(NamedTuple):
    """A mask with the names of its structure and its rater; empty: its path names none.

    form  of its path, such as masks/RATER/ID.*; empty: that of a pattern
    """

    mask: FoundMask
    structure: str
    rater: str
    form: str = ""


class Read(NamedTuple):
    """A mask, and what the words of its folders and of its name mean."""

    mask: FoundMask
    folders: Meaning
    name: Meaning

    @property
    def rater(self) -> Words:
        """All words that name a rater."""
        return self.folders.rater + self.name.rater

    @property
    def structure(self) -> Words:
        """All words that name a structure."""
        return self.folders.structure + self.name.structure

    @property
    def unknown(self) -> Words:
        """All words of unknown meaning."""
        return self.folders.unknown + self.name.unknown


def name_masks(found: Found) -> tuple[list[Named], list[str]]:
    """The masks of all cases and structures, and notes. DataError: words that may be raters or structures."""
    if any(mask.rater is not None or mask.structure is not None for mask in found.masks):
        return [Named(m, m.structure or "", m.rater or "") for m in found.masks], []
    masks = [_read(mask) for mask in found.masks]
    apart = [read for read in masks if read.folders.apart or read.name.apart]
    notes = []
    if apart and len(apart) < len(masks):
        masks = [read for read in masks if not (read.folders.apart or read.name.apart)]
        notes.append(
            f"{len(apart)} masks of no single rater (a consensus, predictions or overlays) are passed over, e.g. "
            f"{apart[0].mask.file.within}"
        )
    masks = _sort_unknown(found, masks)
    return _named(masks), notes


def of_structures(named: Sequence[Named], structures: Sequence[str], flag: str) -> list[Named]:
    """The masks of these structures, named as they are in `structures`; empty: of the only structure.

    flag  that names them
    DataError: there are several structures, or none of a name, or two layouts.
    """
    if len(structures) < 2:
        chosen = one_structure(named, next(iter(structures), ""), flag)
    else:
        of_each = {name: one_structure(named, name, flag) for name in structures}
        chosen = [mask._replace(structure=name) for name, masks in of_each.items() for mask in masks]
        if twice := [path for path, n in collections.Counter(mask.mask.file.path for mask in chosen).items() if n > 1]:
            raise DataError(f"{twice[0]}: its name has several of the names of --classes; give the whole names")
    _refuse_two_forms(chosen)
    return chosen


def _read(mask: FoundMask) -> Read:
    parts = [meaning_of(words) for words in mask.folders]
    joined = Meaning(*(tuple(word for part in parts for word in part[k]) for k in range(len(Meaning._fields))))
    return Read(mask, joined, meaning_of(mask.words))


# -- words of unknown meaning -----------------------------------------------------------------------------------------


def _sort_unknown(found: Found, masks: Sequence[Read]) -> list[Read]:
    """Decide whether words of unknown meaning name raters or structures: the one that all other words do not name.

    Words that all masks have carry no information.
    DataError: it may be either.
    """
    constant = set(masks[0].unknown).intersection(*(read.unknown for read in masks)) if masks else set()
    masks = [_without(read, constant) for read in masks]
    unclear = [read for read in masks if read.unknown]
    if not unclear:
        return masks
    has_rater = all(read.rater for read in unclear)
    has_structure = all(read.structure for read in unclear)
    if has_rater == has_structure:
        raise DataError(_unclear(found, unclear))
    return [_with_unknown(read, "structure" if has_rater else "rater") for read in masks]


def _without(read: Read, words: Iterable[str]) -> Read:
    left = [
        part._replace(unknown=tuple(word for word in part.unknown if word not in words))
        for part in (read.folders, read.name)
    ]
    return read._replace(folders=left[0], name=left[1])


def _with_unknown(read: Read, kind: str) -> Read:
    left = [
        part._replace(unknown=(), **{kind: getattr(part, kind) + part.unknown}) for part in (read.folders, read.name)
    ]
    return read._replace(folders=left[0], name=left[1])


def _unclear(found: Found, unclear: Sequence[Read]) -> str:
    """What to do about words that may name raters or structures."""
    words = list(dict.fromkeys(" ".join(read.unknown) for read in unclear))
    first = unclear[0]
    image = next(iter(found.images[first.mask.case].values()))
    images, (raters, structures) = image_pattern(first.mask, image), mask_patterns(first.mask, first.unknown[0])
    return (
        f"{first.mask.file.path}: {shown(words)} may name raters or structures; for raters add --images '{images}' "
        f"--masks '{raters}', for structures --images '{images}' --masks '{structures}' --structure {first.unknown[0]}"
    )


def image_pattern(mask: FoundMask, image: SourceFile) -> str:
    """A pattern for the images of a source, from one of them."""
    return _pattern(image, mask)


def mask_patterns(mask: FoundMask, word: str) -> tuple[str, str]:
    """Patterns for the masks of a source, where `word` is the name of a rater, or of a structure."""
    return _pattern(mask.file, mask, word, "rater"), _pattern(mask.file, mask, word, "structure")


def _pattern(file: SourceFile, mask: FoundMask, word: str = "", field: str = "") -> str:
    """The path of a file with {case}, {field} for `word`, and {patient} or * for other folders of its case."""
    *folders, _ = file.within.split("/")
    name, parts = mask.case.name, []
    for folder in folders:
        if folder == name:
            folder = "{case}"
        elif folder in mask.case.folders:
            folder = "{patient}" if folder == mask.case.folders[0] else "*"
        elif folder_of(folder).split:
            folder = "*"
        parts.append(_with_field(folder, word, field))
    stem = _with_field(file.stem.replace(name, "{case}", 1), word, field)
    if "{case}" not in (*parts, stem) and "{case}" not in stem:
        stem = "{case}_{" + field + "}" if field else "{case}*"
    return "/".join([*parts, stem]) + (".*" if ENDING.search(file.within) else "")


def _with_field(text: str, word: str, field: str) -> str:
    if not word:
        return text
    ends = rf"(?:^|(?<={SEPARATORS.pattern[:-1]})){re.escape(word)}(?=$|{SEPARATORS.pattern[:-1]})"
    return re.sub(ends, "{" + field + "}", text, count=1)


# -- structures and raters --------------------------------------------------------------------------------------------


def _named(masks: Sequence[Read]) -> list[Named]:
    structures = _joined([(read.folders.structure, read.name.structure) for read in masks])
    raters = _joined([(read.folders.rater, read.name.rater) for read in masks])
    named = zip(masks, structures, raters, strict=True)
    return [Named(read.mask, structure, rater, _form(read)) for read, structure, rater in named]


def _joined(pairs: Sequence[tuple[Words, Words]]) -> list[str]:
    """A name for each pair of the words of folders and of a name: one part if it distinguishes as many as both."""
    distinct = set(pairs)
    for k in (0, 1):
        if all(pair[k] for pair in distinct) and len({pair[k] for pair in distinct}) == len(distinct):
            return ["_".join(pair[k]) for pair in pairs]
    return ["_".join((*pair[0], *pair[1])) for pair in pairs]


def one_structure(named: Sequence[Named], structure: str, flag: str) -> list[Named]:
    """The masks of one structure, which a flag names. DataError: there are several, or none of this name."""
    counts = collections.Counter(mask.structure for mask in named)
    if structure:
        chosen = [mask for mask in named if is_structure(mask.structure, structure)]
        if len({mask.structure for mask in chosen}) > 1:
            chosen = [mask for mask in chosen if mask.structure.lower() == structure.lower()]
        if not chosen:
            raise DataError(f"--{flag} {structure}: no masks of this name; those found are {_listed(counts)}")
        return chosen
    if len(counts) > 1:
        example = next(mask for mask in named if mask.structure)
        raise DataError(
            f"{example.mask.file.path}: the masks are of several structures: {_listed(counts)}; convert all with "
            f"--classes {','.join(filter(None, counts))}, or one with --structure {example.structure} (if these are "
            "raters, name them by {rater} in --masks)"
        )
    return list(named)


def is_structure(name: str, structure: str) -> bool:
    """Whether the name of a structure in a path is the one that a flag gives, or has it among its words."""
    return structure.lower() in (name.lower(), *name.lower().split("_"))


def _listed(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{name or 'without a name'} ({count} masks)" for name, count in sorted(counts.items()))


def _refuse_two_forms(masks: Sequence[Named]) -> None:
    """DataError: the paths of masks have two forms, such as masks/ID.* beside masks/RATER/ID.*."""
    forms: dict[str, list[Named]] = collections.defaultdict(list)
    for named in masks:
        forms[named.form].append(named)
    if len(forms) > 1:
        (one, first), (two, second), *_ = sorted(forms.items(), key=lambda item: -len(item[1]))
        raise DataError(
            f"two layouts fit: {one} ({len(first)} masks, e.g. {first[0].mask.file.within}) and {two} "
            f"({len(second)} masks, e.g. {second[0].mask.file.within}); choose one with --images and --masks"
        )


def _form(read: Read) -> str:
    """The form of a mask's path, such as masks/RATER/ID.*."""
    in_masks = any(folder.role == "mask" and not folder.words for folder in read.mask.file.meanings)
    rater = "RATER/" if read.folders.rater else ""
    return f"{'masks/' if in_masks else ''}{rater}ID{'_RATER' if read.name.rater else ''}.*"


def in_order(masks: Iterable[Named]) -> list[Named]:
    """Masks in the natural order of their raters."""
    return sorted(masks, key=lambda mask: in_natural_order(mask.rater))
