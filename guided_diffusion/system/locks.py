"""Locks on files that end with the process which holds them, by what the system offers."""

import errno
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import filelock


class FileLock:
    """A lock on an open file, held until `release` or the end of this process.

    A POSIX record lock, which forked data loading processes do not inherit, even if they outlive this process. On
    systems without it, Windows, the lock of filelock on a second file, NAME.held; file systems without locks are not
    locked.
    """

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.other: filelock.BaseFileLock | None = None

    def take(self) -> bool:
        """Acquire the lock; False: another process holds it."""
        try:
            import fcntl
        except ImportError:
            return self._take_other()
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def _take_other(self) -> bool:
        """Acquire the lock of filelock. It locks a file of its own: of a locked one, Windows refuses even reading."""
        import filelock

        if issubclass(filelock.FileLock, filelock.SoftFileLock):  # would outlive a process that is killed
            return True
        self.other = filelock.FileLock(f"{self.file.name}.held", timeout=0)
        try:
            self.other.acquire()
        except filelock.Timeout:
            return False
        except (OSError, NotImplementedError):  # a file system without locks
            self.other = None
        return True

    def release(self) -> None:
        """Release the lock and close the file."""
        self.file.close()
        if self.other is not None:
            self.other.release()
