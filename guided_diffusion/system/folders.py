"""Places of the local file system: the user's cache, paths from one folder to another, folders to write to."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping

from ..errors import ConfigError
from .storage import StrPath, is_remote

PROGRAM = "ambiguous-segmentation"
PROBE = 2**16  # bytes written to try a folder
# What is wrong, where the system's own words do not say it
REASONS = {
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a file or link of this name exists",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.ENOSPC: "the disk is full",
    getattr(errno, "EDQUOT", -1): "the disk quota is used up",
    errno.ENAMETOOLONG: "the name is too long",
}


def user_cache(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """This program's folder in the user's cache folder: XDG_CACHE_HOME, on Windows LOCALAPPDATA, or ~/.cache."""
    named = environ.get("XDG_CACHE_HOME") or (environ.get("LOCALAPPDATA") if platform == "win32" else None)
    return os.path.join(named or os.path.expanduser(os.path.join("~", ".cache")), PROGRAM)


def relative(path: StrPath, start: StrPath) -> str:
    """`path` as seen from the folder `start`; the absolute path where none leads there, between drives of Windows."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.path.abspath(path)


def check_writable(folder: str, flag: str, remedy: str = "use another folder") -> None:
    """Create `folder` if it does not exist, and try to write a file in it, which is removed.

    ConfigError: that failed; the message names --flag, and folders that were created are removed. Folders in a blob
    store are not tried.
    """
    if is_remote(folder):
        return
    made = _missing(folder)
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder or ".", prefix=".", suffix=".writing") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: the name has a null character
        for created in made:
            with contextlib.suppress(OSError, ValueError):
                os.rmdir(created)
        number = error.errno if isinstance(error, OSError) else None
        reason = REASONS.get(number or 0) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--{flag} {folder}: cannot be written to, {reason}; {remedy}") from error


def _missing(folder: str) -> list[str]:
    """`folder` and the folders above it that do not exist, the innermost first."""

    def upwards() -> Iterator[str]:
        path = os.path.abspath(folder)
        while not os.path.exists(path) and os.path.dirname(path) != path:
            yield path
            path = os.path.dirname(path)

    with contextlib.suppress(ValueError):
        return list(upwards())
    return []
