"""Where decoded cases are: in memory, in a mapped file of the user's cache, or in a file that pack_data.py wrote."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import DataError, first_lines, group_faults, split_fault
from ..flags.configs import differences, flags_from_configs
from ..flags.fields import flag_fields
from ..system.storage import StrPath
from .case_reader import IMAGE, LABEL, CaseReader, DataConfig, find_cases
from .packed import ImageArray, PackedCases, RatersArray, write_pack

CACHE_BYTES = 2**30  # decoded cases kept in memory; beyond that they are read again
DECODING = 1  # in the names of cached files: another number where the same files come to be decoded to other arrays
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

Folders = Sequence[tuple[str, str]]  # the name and the folder of each case


class MemoryStore:
    """Decoded cases in memory; those that have no room are read again each time."""

    def __init__(self, reader: CaseReader, folders: Folders) -> None:
        self.reader, self.folders, self.room = reader, folders, CACHE_BYTES
        self.kept: dict[int, tuple[ImageArray, RatersArray]] = {}

    def keep(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Keep the image and the raters of case number `index`, if there is room."""
        image, raters = arrays
        size = image.nbytes + raters.nbytes
        if size <= self.room:
            self.kept[index] = image, raters
            self.room -= size

    def arrays(self, index: int) -> tuple[ImageArray, RatersArray]:
        """Image and raters of case number `index`."""
        return self.kept.get(index) or self.reader.read(self.folders[index][1])


def decode(reader: CaseReader, folders: Folders) -> Iterator[tuple[str, ImageArray, RatersArray]]:
    """Yield (name, image, raters) of every case.

    DataError, at the end: the broken ones, all at once; a fault that several cases have is one line.
    """
    faults = []
    shown = tqdm(folders, desc="reading cases", unit="case", delay=3, leave=False, dynamic_ncols=True)
    for name, folder in shown:
        try:
            image, raters = reader.read(folder)
        except DataError as error:
            faults += [split_fault(name, folder, line) for line in str(error).splitlines()]
            continue
        yield name, image, raters
    if faults:
        raise DataError("\n".join(first_lines(group_faults(faults))))


# -- the cache of decoded cases ---------------------------------------------------------------------------------------


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> str:
    """The folder ambiguous-segmentation in the user's cache folder."""
    return os.path.join(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ambiguous-segmentation")


def hash_cases(folders: Folders, settings: Sequence[Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of every case's name and files, and of the settings they are read with."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, folder in folders:
        digest.update(repr(name).encode())
        for file in sorted(file for file in os.listdir(folder) if IMAGE.match(file) or LABEL.match(file)):
            with open(os.path.join(folder, file), "rb") as opened:
                digest.update(f"{file}:{hashlib.sha256(opened.read()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def open_cache(cache_dir: StrPath, fingerprint: str, reader: CaseReader, folders: Folders) -> PackedCases | None:
    """The PackedCases of these cases in `cache_dir`, decoded into it first, if necessary, by one process alone.

    None: they are not there, and the folder is read-only. DataError: they cannot be kept there for another reason.
    """
    from filelock import FileLock  # here, because few commands have a cache

    name = f"{fingerprint}-{DECODING}"
    path = os.path.join(cache_dir, f"{name}.pack")
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with FileLock(os.path.join(cache_dir, f".{name}.lock")):
            if pack := _sound_pack(path):
                return pack
            write_pack(
                path, decode(reader, folders), lambda: {"fingerprint": fingerprint, "notes": reader.notes(len(folders))}
            )
    except OSError as error:
        if error.errno in READ_ONLY:
            return _sound_pack(path)
        raise DataError(
            f"{cache_dir}: decoded cases cannot be kept there ({error}); name another folder (--cache_dir)"
        ) from error
    return PackedCases(path)


def _sound_pack(path: str) -> PackedCases | None:
    """The PackedCases at `path`; None: there are none, or some are damaged."""
    with contextlib.suppress(DataError):
        pack = PackedCases(path)
        return pack if pack.is_sound() else None
    return None


# -- packed by the user ------------------------------------------------------------------------------------------------


class FittedCases:
    """Packed cases, brought to the reader's image_size as they are read."""

    def __init__(self, pack: PackedCases, reader: CaseReader) -> None:
        self.pack, self.reader, self.ids, self.header = pack, reader, pack.ids, pack.header

    def arrays(self, index: int) -> tuple[ImageArray, RatersArray]:
        """Image and raters of case number `index`. DataError: the case is damaged."""
        return self.reader.fit(self.ids[index], *self.pack.arrays(index))


def open_pack(path: str, reader: CaseReader) -> PackedCases | FittedCases:
    """The cases of a file of pack_data.py, for a CaseReader.

    DataError: not of pack_data.py, packed with other rules than the reader's, or cases that it would refuse.
    """
    pack = PackedCases(path)
    _check_header(path, pack.header)
    rules = {name: value for name, value in flags_from_configs(reader.config).items() if name in decoding_flags()}
    if different := differences(pack.header["rules"], rules, DataConfig):
        raise DataError(f"{path}: packed with {', '.join(different)}; pack it again")
    for entry in pack.entries:
        if entry.raters == 0 and reader.require_raters:
            raise DataError(f"{path}: {entry.id} has no raters")
        if reader.image_channels and entry.channels not in (1, reader.image_channels):
            raise DataError(
                f"{path}: {entry.id} has {entry.channels} images, but --image_channels {reader.image_channels}"
            )
    sizes = {entry.id: (entry.height, entry.width) for entry in pack.entries}
    if reader.image_size is None or set(sizes.values()) == {(reader.image_size, reader.image_size)}:
        return pack
    for case, size in sizes.items():  # what will be noted, or refused, without reading a pixel
        reader.check_size(case, size)
    return FittedCases(pack, reader)


def _check_header(path: str, header: Mapping[str, Any]) -> None:
    """Refuse packed cases of another kind, those of the cache among them, which are for the settings of one run."""
    kinds = {"fingerprint": str, "notes": list, "rules": dict}
    lacking = [name for name, kind in kinds.items() if not isinstance(header.get(name), kind)] or [
        name for name in decoding_flags() if name not in header["rules"]
    ]
    if lacking:
        raise DataError(
            f"{path}: not a file of pack_data.py ({lacking[0]} is missing); "
            "name the folder of the cases, or pack that again"
        )


def decoding_flags() -> list[str]:
    """Names of the flags that packed cases were decoded by."""
    return [name for name, field in flag_fields(DataConfig).items() if field.flag.decodes]


def pack_folder(
    directory: str, path: str, image_size: int | None = None, config: DataConfig = DataConfig()
) -> list[str]:
    """Write the cases below `directory` into the file `path`; returns lines to print.

    DataError: broken cases, all of them.
    """
    reader, folders = CaseReader(image_size, None, config), find_cases(directory)
    header = {"fingerprint": hash_cases(folders, reader.settings), "rules": flags_from_configs(config)}
    write_pack(path, decode(reader, folders), lambda: {**header, "notes": reader.notes(len(folders))})
    return reader.notes(len(folders))
