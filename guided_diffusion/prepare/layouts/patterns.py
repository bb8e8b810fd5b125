"""Layouts that the user describes: --images PATTERN --masks PATTERN."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...data.files.read import SUFFIXES
from ...errors import ConfigError, DataError
from .found import Case, Found, FoundMask
from .listing import Listing, SourceFile

FIELDS = {"images": ("case", "patient", "modality"), "masks": ("case", "patient", "rater", "structure")}
Cases = dict[str, dict[tuple[str | None, str], Case]]  # {case: {(split, patient): case}}
PIECE = re.compile(r"\{(\w*)\}|(\*)|([^{}*]+|[{}])")


class Pattern(NamedTuple):
    """What a pattern with {fields} and * stands for.

    direct  fits a path; of several readings, {case} is the longest
    given   fits the name of the case, a line break and the path
    """

    direct: re.Pattern[str]
    given: re.Pattern[str]


def compiled(flag: str, pattern: str) -> Pattern:
    """Compile a pattern of --images or --masks. ConfigError: an unknown field, or no {case}."""
    text = pattern.replace("\\", "/").removeprefix("./")
    ending = text.endswith(".*")
    pieces = PIECE.findall(text[:-2] if ending else text)
    for field, _, _ in pieces:
        if field and field not in FIELDS[flag]:
            allowed = ", ".join(f"{{{name}}}" for name in FIELDS[flag])
            raise ConfigError(f"--{flag} {pattern}: {{{field}}} is unknown; the fields are {allowed}")
    if "{case}" not in text:
        raise ConfigError(f"--{flag} {pattern}: {{case}} is required, which stands for the name of a case")
    suffix = f"(?i:{SUFFIXES})" if ending else ""
    return Pattern(
        re.compile(_expression(pieces, set()) + suffix),
        re.compile(rf"(?P<case>[^/\n]+)\n{_expression(pieces, {'case'})}{suffix}"),
    )


def _expression(pieces: Sequence[tuple[str, str, str]], known: set[str]) -> str:
    """A regular expression for the pieces of a pattern; `known` fields have a value already."""
    parts = []
    for field, star, literal in pieces:
        if field:
            lazy = "" if field == "case" else "?"
            parts.append(f"(?P={field})" if field in known else f"(?P<{field}>[^/]+{lazy})")
            known.add(field)
        else:
            parts.append("[^/]*" if star else re.escape(literal))
    return "".join(parts)


def check_patterns(images: str, masks: str) -> None:
    """ConfigError: only one of --images and --masks is given, or a pattern is invalid."""
    if bool(images) != bool(masks):
        given, other = ("images", "masks") if images else ("masks", "images")
        raise ConfigError(f"--{given} is given without --{other}: a layout needs both patterns")
    for flag, pattern in (("images", images), ("masks", masks)):
        if pattern:
            compiled(flag, pattern)


def by_patterns(listing: Listing, images: str, masks: str) -> Found:
    """The images and masks that the patterns describe. DataError: a pattern fits nothing, or no mask has an image."""
    found = Found(f"--images {images} --masks {masks}")
    image_pattern, mask_pattern = compiled("images", images), compiled("masks", masks)
    named = {f: match for f in listing.pictures if (match := image_pattern.direct.fullmatch(f.within))}
    is_mask = _both(mask_pattern.given, named)
    named = {file: match for file, match in named.items() if file not in is_mask}
    if not named:
        raise DataError(_nothing(listing, "images", images))
    cases = _add_images(found, named, "{patient}" in masks)
    fitting = []
    for file in listing.pictures:
        if file not in named and (match := mask_pattern.direct.fullmatch(file.within)):
            fitting.append((file, match["case"]))
            found.masks += _masks(mask_pattern.given, file, cases)
    if not fitting:
        raise DataError(_nothing(listing, "masks", masks))
    if not found.masks:
        (file, name), image = fitting[0], next(iter(found.images))
        raise DataError(
            f"--masks {masks}: found {file.within} of the case {name}, but --images {images} found no image of this "
            f"case; it found {next(iter(found.images[image].values())).within} of the case {image.name}"
        )
    return found


def _add_images(found: Found, named: Mapping[SourceFile, re.Match[str]], by_patient: bool) -> Cases:
    """Add the images, each with the fields of its path; returns their cases.

    by_patient  the patterns of both images and masks have {patient}
    """
    cases: Cases = {}
    for file, match in named.items():
        fields = match.groupdict()
        patient = fields.get("patient") or ""
        case = Case(file.split, (patient,) if patient else (), fields["case"])
        if _add(found, case, fields.get("modality") or "", file):
            of_name = cases.setdefault(fields["case"], {})
            if of_name.setdefault((file.split, patient if by_patient else ""), case) != case:
                raise DataError(
                    f"--images: several patients have a case {case.name}, e.g. {file.within}; --masks needs {{patient}}"
                )
    return cases


def _both(pattern: re.Pattern[str], named: Mapping[SourceFile, re.Match[str]]) -> set[SourceFile]:
    """The files that fit the pattern of images and that of masks, and are masks: their case has another image."""
    known = {match["case"] for match in named.values()}
    cases: dict[SourceFile, list[str]] = {}
    for file in named:
        names = [name for name in _candidates(file.within) if name in known]
        cases[file] = [name for name in names if pattern.fullmatch(f"{name}\n{file.within}")]
    with_image = {match["case"] for file, match in named.items() if not cases[file]}
    return {file for file, names in cases.items() if with_image.intersection(names)}


def _add(found: Found, case: Case, channel: str, file: SourceFile) -> bool:
    files = found.images.setdefault(case, {})
    if channel in files:
        found.faults.append(f"{file.path}: --images finds the same case, {case.name}, in {files[channel].within}")
        return False
    files[channel] = file
    return True


def _masks(pattern: re.Pattern[str], file: SourceFile, cases: Cases) -> Iterator[FoundMask]:
    """The mask in a file, if it has an image: of the longest name of a case that fits."""
    for name in filter(cases.__contains__, _candidates(file.within)):
        if not (match := pattern.fullmatch(f"{name}\n{file.within}")):
            continue
        fields = match.groupdict()
        patient = fields.get("patient") or ""
        splits = [file.split] if file.split else [None, *sorted({s for s, _ in cases[name] if s})]
        for split in (*splits, None):
            if case := cases[name].get((split, patient)):
                yield FoundMask(case, file, rater=fields.get("rater") or "", structure=fields.get("structure") or "")
                return


def _candidates(path: str) -> list[str]:
    """All parts of the folders and of the name in a path, the longest first."""
    found = {part[a:b] for part in path.split("/") for a in range(len(part)) for b in range(a + 1, len(part) + 1)}
    return sorted(found, key=lambda name: (-len(name), name))


def _nothing(listing: Listing, flag: str, pattern: str) -> str:
    """The message about a pattern that fits no file."""
    example = f"e.g. {listing.pictures[0].within}" if listing.pictures else "no pictures at all"
    return f"--{flag} {pattern}: no picture in {listing.src} fits this pattern; found {example}"
