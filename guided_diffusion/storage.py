"""
Files in a folder or in a blob store (gs://, az://), written so that a reader never sees half of one.

In a folder a file is written aside, flushed to the disk, and renamed; a blob store shows an object only when it is whole.
"""

import errno
import os
import tempfile

import blobfile as bf


def is_remote(path):
    """Whether `path` is in a blob store."""
    return "://" in str(path)


def write_atomically(path, write):
    """
    Call write(file) on a new file and put it in the place of `path` when it is whole.

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
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
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
