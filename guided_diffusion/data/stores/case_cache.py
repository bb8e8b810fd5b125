"""Stores of decoded cases: memory, a memory-mapped file in the user's cache, or a file written by pack_data.py."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...errors import DataError, first_lines, group_faults, split_fault
from ...flags.configs import differences, flags_from_configs
from ...flags.fields import flag_fields
from ...flags.retired import current_flags
from ...flags.sizes import Size, as_size
from ...system.storage import StrPath
from ...system.versions import written_by
from ..case_reader import OF_CLASSES, READING_RULES, CaseReader
from ..config import DataConfig
from ..described import with_classes, with_intensity_range, with_level
from ..files.case_files import FORMATS, IMAGE, LABEL, Places, Report, find_cases, list_files, skip_unlabelled
from ..files.dataset_json import read_dataset_file
from ..geometry import CaseArrays
from ..surveys.changes import RESIZED
from .packed import PackedCases, is_packed, write_pack

CACHE_BYTES = 2**30  # of decoded cases kept in memory; the others are read on every access
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

Folders = Sequence[tuple[str, str]]  # the name and the folder of each case


class MemoryStore:
    """Decoded cases in memory; cases that do not fit are read on every access."""

    def __init__(self, reader: CaseReader, folders: Folders) -> None:
        self.reader, self.folders, self.room = reader, folders, CACHE_BYTES
        self.kept: dict[int, CaseArrays] = {}

    def keep(self, index: int, case: CaseArrays) -> None:
        """Keep the pixels of case number `index`, if they fit."""
        size = case.image.nbytes + case.raters.nbytes
        if size <= self.room:
            self.kept[index] = case
            self.room -= size

    def arrays(self, index: int) -> CaseArrays:
        """The pixels of case number `index`."""
        return self.kept.get(index) or self.reader.read(self.folders[index][1])

    def own_arrays(self, index: int) -> CaseArrays:
        """As `arrays`, at the case's own size; from its files, if the network sees other pixels."""
        case = self.kept.get(index)
        if case and case.geometry and not case.geometry.changes_pixels:
            return case
        return self.reader.read_own(self.folders[index][1])


def decode(reader: CaseReader, folders: Folders) -> Iterator[tuple[str, CaseArrays]]:
    """Survey the cases, then yield (name, pixels) of each.

    DataError: lists all broken cases, one line per distinct fault.
    """
    reader.survey(folders)
    faults = []
    for name, folder in folders:
        try:
            case = reader.read(folder)
        except DataError as error:
            faults += [split_fault(name, folder, line) for line in str(error).splitlines()]
            continue
        reader.changes.masks.add(case.raters)
        yield name, case
    if faults:
        raise DataError("\n".join(first_lines(group_faults(faults))))


@dataclass(frozen=True)
class SetFacts:
    """What is known of a set of cases that has been read.

    notes       what reading changed, and what is unusual, one line each
    num_planes  of each case's image as stored
    colour      whether the first three planes are red, green and blue
    reading     version of the reading rules
    departures  what version 1 would have read differently, as phrases
    masks       "empty" or "full" if all masks are; None: neither
    classes     as --classes gives them, with the levels that the labels have
    """

    notes: list[str]
    num_planes: int
    colour: bool = False
    reading: int = READING_RULES
    departures: list[str] = field(default_factory=list)
    masks: str | None = None
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, reader: CaseReader, num_cases: int) -> "SetFacts":
        """The facts of the cases that a reader has read."""
        masks = reader.changes.masks.constant()
        facts = cls(reader.notes(num_cases), reader.num_planes, reader.colour, classes=reader.classes)
        return replace(facts, departures=reader.departures, masks=masks)

    @classmethod
    def from_header(cls, pack: PackedCases) -> "SetFacts":
        """The facts stored in a packed file; one without them was packed by version 1 of the rules, all in grey."""
        if "set" in pack.header:
            facts = cls(**pack.header["set"])
            return replace(facts, classes=tuple(facts.classes))
        note = (
            "warning: packed by version 1 of the reading rules, which turned colour into grey and ignored "
            "orientations; pack the cases again"
        )
        return cls([*pack.header["notes"], note], max(entry.channels for entry in pack.entries), reading=1)


# -- the cache of decoded cases ---------------------------------------------------------------------------------------


def hash_cases(folders: Folders, settings: Sequence[Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of all cases (names and files) and of the settings used to read them.

    Files that cannot be opened are left out.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for name, folder in folders:
        digest.update(repr(name).encode())
        with contextlib.suppress(OSError):  # reading the case names the fault
            for file in _hashed_files(folder):
                with open(os.path.join(folder, file), "rb") as opened:
                    content = hashlib.sha256(opened.read()).hexdigest()
                digest.update(f"{file}:{content}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _hashed_files(place: str) -> list[str]:
    """The names of the files of a case; for a bare picture, an empty name."""
    if os.path.isfile(place):
        return [""]
    return sorted(file for file in os.listdir(place) if IMAGE.match(file) or LABEL.match(file))


def open_cache(cache_dir: StrPath, fingerprint: str, reader: CaseReader, folders: Folders) -> PackedCases | None:
    """The PackedCases of these cases in `cache_dir`; if they are missing, a single process decodes and writes them.

    None: they are missing and the folder is read-only. DataError: they cannot be written for another reason.
    """
    from filelock import FileLock  # imported here, because few commands use the cache

    name = f"{fingerprint}-{READING_RULES}"
    path = os.path.join(cache_dir, f"{name}.pack")
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with FileLock(os.path.join(cache_dir, f".{name}.lock")):
            if pack := _sound_pack(path):
                return pack
            write_pack(path, decode(reader, folders), lambda: _header(fingerprint, reader, len(folders)))
    except OSError as error:
        if error.errno in READ_ONLY:
            return _sound_pack(path)
        raise DataError(
            f"{cache_dir}: cannot write decoded cases ({error}); use another folder (--cache_dir)"
        ) from error
    return PackedCases(path)


def _header(fingerprint: str, reader: CaseReader, num_cases: int, found: Sequence[str] = ()) -> dict[str, Any]:
    facts = asdict(SetFacts.of(reader, num_cases))
    facts["notes"] = [*found, *facts["notes"]]
    return {"fingerprint": fingerprint, "notes": facts["notes"], "set": facts, "written_by": written_by(False)}


def _sound_pack(path: str) -> PackedCases | None:
    """The PackedCases at `path`; None if the file is missing or damaged."""
    with contextlib.suppress(DataError):
        pack = PackedCases(path)
        return pack if pack.is_sound() else None
    return None


def check_planes(path: str, pack: PackedCases, reader: CaseReader) -> None:
    """DataError: the packed cases below `path` have another number of planes than the reader's image_channels."""
    planes = {entry.channels for entry in pack.entries}
    if reader.image_channels and planes not in ({1}, {reader.image_channels}):
        count = max(planes)
        raise DataError(
            f"{path}: the images have {count} planes, but --image_channels {reader.image_channels}: add "
            f"--image_channels {count}, or auto"
        )


# -- packed by the user ------------------------------------------------------------------------------------------------


class FittedCases:
    """Packed cases that are padded or resized to the reader's image_size on access."""

    def __init__(self, pack: PackedCases, reader: CaseReader) -> None:
        self.pack, self.reader, self.ids, self.header = pack, reader, pack.ids, pack.header

    def arrays(self, index: int) -> CaseArrays:
        """The pixels of case number `index`. DataError: the case is damaged."""
        return self.reader.fit(self.ids[index], self.pack.arrays(index))

    def own_arrays(self, index: int) -> CaseArrays:
        """As `arrays`, at the case's own size as far as it is known."""
        return self.pack.own_arrays(index)


def open_pack(path: str, reader: CaseReader) -> tuple[PackedCases | FittedCases, SetFacts]:
    """The cases in a file written by pack_data.py, for a CaseReader, and what is known of them.

    DataError: not such a file, packed with different decoding flags, or cases that the reader would refuse.
    """
    if not path.endswith(".pack") and not is_packed(path):
        formats = ", ".join(FORMATS)
        raise DataError(
            f"{path}: neither a file of pack_data.py nor a picture of a known format ({formats}); pass one of these"
        )
    pack = PackedCases(path)
    _check_header(path, pack.header)
    rules = {name: value for name, value in flags_from_configs(reader.config).items() if name in decoding_flags()}
    if different := differences(current_flags(pack.header["rules"]), rules, DataConfig):
        raise DataError(f"{path}: packed with {', '.join(different)}; rerun pack_data.py with these flags")
    for index, case in enumerate(pack.ids):
        if reader.require_raters and not pack.num_raters(index):
            raise DataError(f"{path}: {case} has no rater masks; add them to the folder and pack it again")
    check_planes(path, pack, reader)
    facts = SetFacts.from_header(pack)
    sizes = {entry.id: (entry.height, entry.width) for entry in pack.entries}
    if reader.image_size is None or set(sizes.values()) == {as_size(reader.image_size)}:
        return pack, facts
    for case, size in sizes.items():  # records or refuses sizes without reading pixels
        reader.check_size(case, size)
    departures = [*facts.departures, *([RESIZED] if any(entry.masks for entry in pack.entries) else [])]
    notes = [*facts.notes, *reader.notes(len(pack))]
    return FittedCases(pack, reader), replace(facts, notes=notes, departures=departures, reading=READING_RULES)


def _check_header(path: str, header: Mapping[str, Any]) -> None:
    """DataError: not a file of pack_data.py; files of the cache, which depend on a run's settings, are refused too."""
    kinds = {"fingerprint": str, "notes": list, "rules": dict}
    lacking = [name for name, kind in kinds.items() if not isinstance(header.get(name), kind)] or [
        name for name in decoding_flags() if name not in {**OF_CLASSES, **current_flags(header["rules"])}
    ]
    if lacking:
        raise DataError(
            f"{path}: not a file of pack_data.py ({lacking[0]} is missing); "
            "use the folder of the cases, or pack it again"
        )


def decoding_flags() -> list[str]:
    """Names of the flags that affect the decoding of packed cases."""
    return [name for name, field in flag_fields(DataConfig).items() if field.flag.decodes]


def pack_folder(
    directory: str, path: str, image_size: Size | None = None, config: DataConfig = DataConfig()
) -> list[str]:
    """Write the cases below `directory` to the file `path`; returns lines to print.

    DataError: lists all broken cases.
    """
    file, lines = read_dataset_file(directory), list[str]()
    config = with_classes(with_intensity_range(config, file), directory)
    reader = CaseReader(image_size, None, with_level(config, file, directory))
    folders = find_labelled(directory, reader.config, lines.append)
    fingerprint, rules = hash_cases(folders, reader.settings), flags_from_configs(config)

    def header() -> dict[str, Any]:
        return {**_header(fingerprint, reader, len(folders), lines), "rules": rules, "image_size": image_size}

    write_pack(path, decode(reader, folders), header)
    return [*lines, *reader.notes(len(folders))]


def find_labelled(directory: str, config: DataConfig, report: Report, one_set: bool = False) -> Places:
    """The cases below `directory`, without those that the config skips; see find_cases for `report` and `one_set`."""
    folders = find_cases(directory, one_set, report)
    if not config.skip_unlabelled:
        return folders
    structures = config.structures_in_files
    return skip_unlabelled(directory, folders, report, lambda folder: list_files(folder, structures, config.missing))
