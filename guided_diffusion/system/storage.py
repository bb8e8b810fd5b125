"""Files in a folder or in a blob store (gs://, az://), written so that a reader never sees half of one.

In a folder a file is written aside, by default flushed to the disk, and renamed; a blob store shows an object only when
it is whole.
"""

import errno
import fcntl
import os
import socket
import tempfile

import blobfile as bf

from ..errors import ConfigError

LOCK = ".lock"  # the file of a FolderLock


def is_remote(path):
    """Whether `path` is in a blob store."""
    return "://" in str(path)


def unknown_store(path):
    """Why `path` cannot be used, in words, if it is in a kind of store that is not known; else None."""
    kinds = ("gs://", "az://")
    return (
        None
        if not is_remote(path) or str(path).startswith(kinds)
        else f"only folders, {' and '.join(kinds)} can be read and written"
    )


def write_atomically(path, write, sync=True):
    """Call write(file) on a new file and put it in the place of `path` when it is whole.

    sync  wait until file and name are on the disk. False: a power cut soon after may leave an empty or damaged file;
          the end of this process, however it ends, does not

    OSError: it cannot be written (the disk is full, say); the message names `path`, which stays as it was.
    """
    if is_remote(path):
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            upload(file, path)
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


def _system_error(error):
    """The system's error (a full disk, say) behind `error`: writers of zip files cover it up by one of their own. Or None."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__ or error.__context__
    return error


def upload(file, path):
    """What is left of an open local file, as the object `path`."""
    with bf.BlobFile(path, "wb") as blob:
        while chunk := file.read(2**24):
            blob.write(chunk)


def _sync_folder(folder):
    """Bring a rename to the disk, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse
        pass
    finally:
        os.close(descriptor)


def make_folder(path):
    """Make the folder `path`, if need be; a blob store has none to make. OSError: it cannot be made or written into."""
    if is_remote(path):
        return
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write", path)


class FolderLock:
    """Keeps other processes from writing into `folder`, until this one lets go or ends, however it ends.

    The lock is one of this process alone: readers of cases that it forked, and that outlive it, do not have it. A blob
    store, and a file system without locks, go without.

    wanted  False: no lock is taken, for the processes of a run that write nothing
    """

    def __init__(self, folder, wanted=True):
        self.folder, self.wanted, self.file = folder, wanted and not is_remote(folder), None

    def take(self):
        """Take the lock, if there is such a folder and it is not taken yet. OSError: another process has it."""
        if not self.wanted or self.file or not os.path.isdir(self.folder):
            return
        file = open(os.path.join(self.folder, LOCK), "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                holder = file.read(200).strip() or "one that is starting"
                file.close()
                raise OSError(
                    f"{self.folder}: another run writes into it ({holder}); end that, or use another folder"
                ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.file:
            self.file.close()


def names(folder):
    """The names of the files in `folder`, sorted; none where there is no such folder."""
    return sorted(name for name in bf.listdir(folder) if name) if bf.isdir(folder) else []


def read_bytes(path):
    """The whole content of a file; None: there is none."""
    if not bf.exists(path):
        return None
    with bf.BlobFile(path, "rb") as file:
        return file.read()


def remove(path):
    """Remove a file, if it is there."""
    if bf.exists(path):
        bf.remove(path)


def walk(folder):
    """(folder, names of its folders, names of its files) of `folder` and all below it, names sorted.

    The walk goes into the folders that are left in the first list. A link that leads back to where the walk has been is passed over.
    """
    seen = set()
    for base, subfolders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(base) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(base))
        subfolders.sort()
        yield base, subfolders, sorted(files)


def refuse_remote(name, path):
    """Refuse a blob store as what --name says to write; runs of training are written to one, and checkpoints read from one."""
    if "://" in path:
        raise ConfigError(f"--{name} {path}: results are written to local folders only; name one and copy it")
