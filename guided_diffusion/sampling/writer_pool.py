"""Background writing of cases: npz files whose arrays are compressed only once, and a pool of writer threads."""

import collections
import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec

import numpy as np

from ..system import storage

P = ParamSpec("P")

Packed = np.ndarray | np.generic | str | float  # arrays and plain values


class PackedArrays:
    """The content of an .npz file for np.load. Adding arrays does not recompress earlier ones.

    Equal arrays, added in the same order, give equal bytes.
    """

    LEVEL = 1  # zlib level; for soft masks at least twice as fast as np.savez_compressed's 6, with files 5 % larger

    def __init__(self, **arrays: Packed) -> None:
        self.file = io.BytesIO()
        self.add(**arrays)

    def add(self, **arrays: Packed) -> None:
        """Add named arrays or plain values."""
        with zipfile.ZipFile(self.file, "a") as archive:
            for name, value in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asanyarray(value), allow_pickle=False)
                kind = zipfile.ZIP_DEFLATED if np.ndim(value) else zipfile.ZIP_STORED  # scalars do not compress
                entry = zipfile.ZipInfo(f"{name}.npy")  # has a fixed date (1980)
                archive.writestr(entry, content.getbuffer(), kind, self.LEVEL)

    def write(self, path: str | os.PathLike[str], sync: bool = True) -> None:
        """Write the file; for `sync` see storage.write_atomically."""
        storage.write_bytes(path, self.file.getbuffer(), sync)


class CaseWriter(Generic[P]):
    """Calls `write` in threads while the next cases are drawn.

    A context manager; when it exits, everything is written. An exception in a thread is raised by a later call or at
    exit; of several, the one of the earliest case. Threads suffice, because compression and disk access release the
    GIL, and a process that uses a GPU must not be forked.

    writers  number of threads
    at_once  number of cases drawn together. The queue holds this many cases, or PER_WRITER per thread if that is more;
             when it is full, the caller blocks
    """

    MOST = 4  # threads; about a third of the work per case holds the GIL
    PER_WRITER = 2  # cases, including the one being written

    def __init__(self, write: Callable[P, object], writers: int = 1, at_once: int = 1) -> None:
        self.write, self.writers = write, writers
        self.most_waiting = max(at_once, self.PER_WRITER * writers)
        self.waiting: collections.deque[Future[object]] = collections.deque()

    def __enter__(self) -> "CaseWriter[P]":
        self.pool = ThreadPoolExecutor(self.writers)
        return self

    def __call__(self, *case: P.args, **more: P.kwargs) -> None:
        """Queue a call of `write` with these arguments."""
        while len(self.waiting) >= self.most_waiting or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(self.write, *case, **more))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        if kind is None:  # otherwise the caller's error takes precedence
            for future in self.waiting:
                future.result()
