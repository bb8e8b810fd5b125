"""Where decoded cases are: in memory, in a mapped file of the user's cache, or in a file that pack_data.py wrote."""

import contextlib
import errno
import fcntl
import hashlib
import os

from tqdm import tqdm

from ..errors import DataError
from ..flags.configs import differences, flags_from_configs
from ..flags.fields import flag_fields
from .case_reader import IMAGE, LABEL, CaseReader, DataConfig, find_cases
from .packed import PackedCases, write_pack

CACHE_BYTES = 2**30  # decoded cases kept in memory; beyond that they are read again
FAULTS_SHOWN = 20
DECODING = 1  # in the names of cached files: another number where the same files come to be decoded to other arrays
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class MemoryStore:
    """Decoded cases in memory; those that have no room are read again each time."""

    def __init__(self, reader, folders):
        self.reader, self.folders, self.kept, self.room = reader, folders, {}, CACHE_BYTES

    def keep(self, index, arrays):
        size = sum(array.nbytes for array in arrays)
        if size <= self.room:
            self.kept[index] = arrays
            self.room -= size

    def arrays(self, index):
        return self.kept.get(index) or self.reader.read(self.folders[index][1])


def decode(reader, folders):
    """Yield (name, image, raters) of every case. DataError, at the end: the broken ones, all at once."""
    faults = []
    shown = tqdm(folders, desc="reading cases", unit="case", delay=3, leave=False, dynamic_ncols=True)
    for name, folder in shown:
        try:
            image, raters = reader.read(folder)
        except DataError as error:
            faults.append(str(error))
            continue
        yield name, image, raters
    if faults:
        more = [f"... and {len(faults) - FAULTS_SHOWN} more broken cases"] if len(faults) > FAULTS_SHOWN else []
        raise DataError("\n".join(faults[:FAULTS_SHOWN] + more))


# -- the cache of decoded cases ---------------------------------------------------------------------------------------


def default_cache_dir(environ=os.environ):
    """ambiguous-segmentation in the user's cache folder."""
    return os.path.join(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ambiguous-segmentation")


def hash_cases(folders, settings):
    """16 hexadecimal digits of the SHA-256 of every case's name and files, and of the settings that they are read with."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, folder in folders:
        digest.update(repr(name).encode())
        for file in sorted(file for file in os.listdir(folder) if IMAGE.match(file) or LABEL.match(file)):
            with open(os.path.join(folder, file), "rb") as opened:
                digest.update(f"{file}:{hashlib.sha256(opened.read()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def open_cache(cache_dir, fingerprint, reader, folders):
    """The PackedCases of these cases in `cache_dir`, decoded into it first if need be, by one process while others wait.

    None: they are not there, and the folder is read-only. DataError: they cannot be kept there for another reason.
    """
    name = f"{fingerprint}-{DECODING}"
    path = os.path.join(cache_dir, f"{name}.pack")
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with open(os.path.join(cache_dir, f".{name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
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


def _sound_pack(path):
    """The PackedCases at `path`; None: there are none, or some are damaged."""
    with contextlib.suppress(DataError):
        pack = PackedCases(path)
        return pack if pack.is_sound() else None
    return None


# -- packed by the user ------------------------------------------------------------------------------------------------


class FittedCases:
    """Packed cases, brought to the reader's image_size as they are read."""

    def __init__(self, pack, reader):
        self.pack, self.reader, self.ids, self.header = pack, reader, pack.ids, pack.header

    def arrays(self, index):
        return self.reader.fit(self.ids[index], *self.pack.arrays(index))


def open_pack(path, reader):
    """The cases of a file of pack_data.py, for a CaseReader.

    DataError: not of pack_data.py, packed with other rules than the reader's, or cases that it would refuse.
    """
    pack = PackedCases(path)
    _check_header(path, pack.header)
    rules = {name: value for name, value in flags_from_configs(reader.config).items() if name in decoding_flags()}
    if different := differences(pack.header["rules"], rules, DataConfig):
        raise DataError(f"{path}: packed with {', '.join(different)}; pack it again")
    for name, channels, raters, *_ in pack.entries:
        if raters == 0 and reader.require_raters:
            raise DataError(f"{path}: {name} has no raters")
        if reader.image_channels and channels not in (1, reader.image_channels):
            raise DataError(f"{path}: {name} has {channels} images, but --image_channels {reader.image_channels}")
    if reader.image_size and any(entry[3:5] != [reader.image_size] * 2 for entry in pack.entries):
        pack = FittedCases(pack, reader)
        for entry in pack.pack.entries:  # what will be told, or refused, without reading a pixel
            reader.check_size(entry[0], (entry[3], entry[4]))
    return pack


def _check_header(path, header):
    """Refuse packed cases of another kind, those of the cache among them, which are for the settings of one run."""
    kinds = {"fingerprint": str, "notes": list, "rules": dict}
    lacking = [name for name, kind in kinds.items() if not isinstance(header.get(name), kind)] or [
        name for name in decoding_flags() if name not in header["rules"]
    ]
    if lacking:
        raise DataError(
            f"{path}: not a file of pack_data.py ({lacking[0]} is missing); name the folder of the cases, or pack that again"
        )


def decoding_flags() -> list[str]:
    """Names of the flags that packed cases were decoded by."""
    return [name for name, field in flag_fields(DataConfig).items() if field.flag.decodes]


def pack_folder(directory, path, image_size=None, config=DataConfig()):
    """Write the cases below `directory` into the file `path`; returns lines to tell. DataError: broken cases, all of them."""
    reader, folders = CaseReader(image_size, None, config), find_cases(directory)
    header = {"fingerprint": hash_cases(folders, reader.settings), "rules": flags_from_configs(config)}
    write_pack(path, decode(reader, folders), lambda: {**header, "notes": reader.notes(len(folders))})
    return reader.notes(len(folders))
