"""Files in a local folder or a blob store (gs://, az://), written atomically: a reader never sees a partial file.

A local file is written under a temporary name, flushed to disk by default, and renamed; a blob store publishes only
complete objects. blobfile is imported only when a blob store is used, and its errors are raised as OSError.
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
from .locks import FileLock

LOCK = ".lock"  # file name of a FolderLock

StrPath = str | os.PathLike[str]


def is_remote(path: StrPath) -> bool:
    """Whether `path` is in a blob store."""
    return "://" in str(path)


def unknown_store(path: StrPath) -> str | None:
    """The reason why `path` cannot be used, if it is in an unsupported kind of store; else None."""
    kinds = ("gs://", "az://")
    if not is_remote(path) or str(path).startswith(kinds):
        return None
    return f"unsupported kind of store; use a local folder, {' or '.join(kinds)}"


def refuse_remote(name: str, path: str) -> None:
    """ConfigError: --name is in a blob store, which only training runs can write to."""
    if is_remote(path):
        raise ConfigError(f"--{name} {path}: results can only be written to a local folder; use one and copy it")


@contextlib.contextmanager
def _blobfile() -> Iterator[ModuleType]:
    """The module blobfile; its own errors are raised as OSError with the same text."""
    import blobfile

    try:
        yield blobfile
    except blobfile.Error as error:
        raise OSError(str(error)) from error


# -- writing ----------------------------------------------------------------------------------------------------------


def write_atomically(path: StrPath, write: Callable[[IO[bytes]], object], sync: bool = True) -> None:
    """Call write(file) on a new file, and replace `path` with it once it is complete.

    sync  wait until the file and its name are on disk. False: safe if this process is killed, but a power failure
          shortly after may leave an empty or damaged file

    OSError: writing failed, e.g. because the disk is full; the message names `path`, which is unchanged.
    """
    if is_remote(path):
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            _upload(file, path)
        return
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.writing")  # a fixed name, so that killed processes leave at most one
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
    """Write `content` to the file `path` atomically; `sync` as in write_atomically."""
    write_atomically(path, lambda file: file.write(content), sync)


def write_text(path: StrPath, text: str) -> None:
    """Write `text` to the file `path` atomically, as UTF-8 without newline translation."""
    write_bytes(path, text.encode())


def write_json(path: StrPath, value: Any) -> None:
    """Write a JSON-like value to the file `path` atomically, with an indentation of 1."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def _system_error(error: BaseException | None) -> OSError | None:
    """The OSError with an errno behind `error`, e.g. a full disk, which zip writers hide behind their own errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


def _upload(file: IO[bytes], path: StrPath) -> None:
    """Upload the rest of an open local file as the object `path`."""
    with _blobfile() as blobfile, blobfile.BlobFile(path, "wb") as blob:
        while chunk := file.read(2**24):
            blob.write(chunk)


def _sync_folder(folder: str) -> None:
    """Flush a rename to disk, if the system can open folders."""
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # unsupported by some network file systems
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Create the folder `path` if it does not exist; does nothing in a blob store.

    OSError: it cannot be created or is not writable.
    """
    if is_remote(path):
        return
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write", path)


class FolderLock:
    """Keeps other processes from writing to `folder`, until this process releases the lock or ends for any reason.

    Blob stores, and file systems without locks, are not locked.

    enabled  False: never lock, for the processes of a run that write nothing
    """

    def __init__(self, folder: str, enabled: bool = True) -> None:
        self.folder, self.enabled = folder, enabled and not is_remote(folder)
        self.file: IO[str] | None = None
        self._lock: FileLock | None = None

    def take(self) -> None:
        """Acquire the lock, if the folder exists and this process does not hold it. OSError: another process does."""
        if not self.enabled or self.file or not os.path.isdir(self.folder):
            return
        file = open(os.path.join(self.folder, LOCK), "a+", encoding="utf-8")  # noqa: SIM115
        lock = FileLock(file)
        if not lock.take():
            file.seek(0)
            holder = file.read(200).strip() or "still starting"
            lock.release()
            raise OSError(f"{self.folder}: in use by another run ({holder}); stop that run, or use another folder")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self.file, self._lock = file, lock

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock:
            self._lock.release()


# -- reading and removing ---------------------------------------------------------------------------------------------


def exists(path: StrPath) -> bool:
    """Whether the file, object or folder `path` exists."""
    if not is_remote(path):
        return os.path.exists(path)
    with _blobfile() as blobfile:
        return blobfile.exists(path)


def is_folder(path: StrPath) -> bool:
    """Whether `path` is a folder, or a prefix of object names that ends at a slash."""
    if not is_remote(path):
        return os.path.isdir(path)
    with _blobfile() as blobfile:
        return blobfile.isdir(path)


def names(folder: str) -> list[str]:
    """The sorted names of the files in `folder`; empty if the folder does not exist."""
    if not is_folder(folder):
        return []
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    with _blobfile() as blobfile:
        return sorted(name for name in blobfile.listdir(folder) if name)


@contextlib.contextmanager
def open_to_read(path: StrPath) -> Iterator[IO[bytes]]:
    """A context with a file or object opened for reading."""
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    with _blobfile() as blobfile, blobfile.BlobFile(path, "rb") as file:
        yield file


def read_bytes(path: StrPath) -> bytes | None:
    """The content of a file; None if it does not exist."""
    if not exists(path):
        return None
    with open_to_read(path) as file:
        return file.read()


def remove(path: StrPath) -> None:
    """Remove a file, if it exists."""
    if not exists(path):
        return
    if not is_remote(path):
        os.remove(path)
        return
    with _blobfile() as blobfile:
        blobfile.remove(path)


def walk(
    folder: StrPath, on_error: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, names of its subfolders, names of its files) for `folder` and all folders below it; names are sorted.

    The caller may remove subfolders from the list to skip them. Links to a visited folder are skipped.

    on_error  called for each folder that cannot be listed; None: these are skipped
    """
    seen: set[str] = set()
    for base, subfolders, files in os.walk(str(folder), onerror=on_error, followlinks=True):
        if os.path.realpath(base) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(base))
        subfolders.sort()
        yield base, subfolders, sorted(files)
