"""Files in a folder or in a blob store (gs://, az://), written so that a reader never sees half of one.

In a folder a file is written aside, by default flushed to the disk, and renamed; a blob store shows an object only when
it is whole. Errors of blobfile, which is imported only where a blob store is used, are raised as OSError.
"""

import contextlib
import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import IO, Any

from ..errors import ConfigError

LOCK = ".lock"  # the file of a FolderLock

StrPath = str | os.PathLike[str]


def is_remote(path: StrPath) -> bool:
    """Whether `path` is in a blob store."""
    return "://" in str(path)


def unknown_store(path: StrPath) -> str | None:
    """Why `path` cannot be used, in words, if it is in a kind of store that is not known; else None."""
    kinds = ("gs://", "az://")
    if not is_remote(path) or str(path).startswith(kinds):
        return None
    return f"only folders, {' and '.join(kinds)} can be read and written"


def refuse_remote(name: str, path: str) -> None:
    """Refuse a blob store as what --name says to write; only training runs are written to one."""
    if is_remote(path):
        raise ConfigError(f"--{name} {path}: results are written to local folders only; name one and copy it")


@contextlib.contextmanager
def _blobfile() -> Iterator[ModuleType]:
    """The module blobfile; an error of its own is raised as OSError with the same text."""
    import blobfile

    try:
        yield blobfile
    except blobfile.Error as error:
        raise OSError(str(error)) from error


# -- writing ----------------------------------------------------------------------------------------------------------


def write_atomically(path: StrPath, write: Callable[[IO[bytes]], object], sync: bool = True) -> None:
    """Call write(file) on a new file and put it in the place of `path` when it is whole.

    sync  wait until file and name are on the disk. False: a power cut soon after may leave an empty or damaged file;
          the end of this process, however it ends, does not

    OSError: it cannot be written (the disk is full, say); the message names `path`, which stays as it was.
    """
    if is_remote(path):
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            _upload(file, path)
        return
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.writing")  # the same each time, so that a killed process leaves one at most
    try:
        with open(aside, "wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, path)
        if sync:
            _sync_folder(folder)
    except BaseException as error:
        if os.path.exists(aside):
            os.unlink(aside)
        if system := _system_error(error):
            raise OSError(system.errno, system.strerror, path) from error
        raise


def write_bytes(path: StrPath, content: bytes | memoryview, sync: bool = True) -> None:
    """Write `content` into the file `path`, atomically; `sync` as in write_atomically."""
    write_atomically(path, lambda file: file.write(content), sync)


def write_text(path: StrPath, text: str) -> None:
    """Write `text` into the file `path`, as UTF-8 and with its own line ends, atomically."""
    write_bytes(path, text.encode())


def write_json(path: StrPath, value: Any) -> None:
    """Write a JSON-like value into the file `path`, indented by a space a level, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's error (a full disk, say) behind `error`: writers of zip files replace it by one of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


def _upload(file: IO[bytes], path: StrPath) -> None:
    """Write the rest of an open local file as the object `path`."""
    with _blobfile() as blobfile, blobfile.BlobFile(path, "wb") as blob:
        while chunk := file.read(2**24):
            blob.write(chunk)


def _sync_folder(folder: str) -> None:
    """Bring a rename to the disk, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Make the folder `path`, if it does not exist; a blob store has none to make.

    OSError: it cannot be made or written into.
    """
    if is_remote(path):
        return
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write", path)


class FolderLock:
    """Keeps other processes from writing into `folder`, until this one releases it or ends, however it ends.

    The lock belongs to this process alone: it is a POSIX record lock, which readers of cases that this process forked,
    and that may outlive it, do not inherit. A blob store, a file system without locks, and a platform without such
    locks (Windows) are not locked.

    wanted  False: no lock is taken, for the processes of a run that write nothing
    """

    def __init__(self, folder: str, wanted: bool = True) -> None:
        self.folder, self.wanted = folder, wanted and not is_remote(folder)
        self.file: IO[str] | None = None

    def take(self) -> None:
        """Take the lock, if there is such a folder and it is not taken yet. OSError: another process has it."""
        if not self.wanted or self.file or not os.path.isdir(self.folder):
            return
        file = open(os.path.join(self.folder, LOCK), "a+", encoding="utf-8")  # noqa: SIM115
        if not _try_lock(file):
            file.seek(0)
            holder = file.read(200).strip() or "one that is starting"
            file.close()
            raise OSError(f"{self.folder}: another run writes into it ({holder}); end that, or use another folder")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self.file = file

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.file:
            self.file.close()


def _try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process, where that can be done; False: another process has locked it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


# -- reading and removing ---------------------------------------------------------------------------------------------


def exists(path: StrPath) -> bool:
    """Whether there is a file, an object or a folder `path`."""
    if not is_remote(path):
        return os.path.exists(path)
    with _blobfile() as blobfile:
        return blobfile.exists(path)


def is_folder(path: StrPath) -> bool:
    """Whether `path` is a folder, or the beginning of objects' names up to a slash."""
    if not is_remote(path):
        return os.path.isdir(path)
    with _blobfile() as blobfile:
        return blobfile.isdir(path)


def names(folder: str) -> list[str]:
    """The names of the files in `folder`, sorted; none where there is no such folder."""
    if not is_folder(folder):
        return []
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    with _blobfile() as blobfile:
        return sorted(name for name in blobfile.listdir(folder) if name)


@contextlib.contextmanager
def open_to_read(path: StrPath) -> Iterator[IO[bytes]]:
    """A file or an object, open for reading, as a context."""
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    with _blobfile() as blobfile, blobfile.BlobFile(path, "rb") as file:
        yield file


def read_bytes(path: StrPath) -> bytes | None:
    """The whole content of a file; None: there is none."""
    if not exists(path):
        return None
    with open_to_read(path) as file:
        return file.read()


def remove(path: StrPath) -> None:
    """Remove a file, if it is there."""
    if not exists(path):
        return
    if not is_remote(path):
        os.remove(path)
        return
    with _blobfile() as blobfile:
        blobfile.remove(path)


def walk(folder: StrPath) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, names of its folders, names of its files) of `folder` and all below it, names sorted.

    The walk enters the folders that the caller leaves in the first list. A link back to a visited folder is skipped.
    """
    seen: set[str] = set()
    for base, subfolders, files in os.walk(str(folder), followlinks=True):
        if os.path.realpath(base) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(base))
        subfolders.sort()
        yield base, subfolders, sorted(files)
