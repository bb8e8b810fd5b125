"""Arrays compressed once for two versions of a file, and the threads that write cases while the next ones are drawn."""

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
    """The content of an .npz file, as np.load reads it. Arrays added later join those that are compressed already.

    Equal arrays, added in the same order, give equal bytes.
    """

    LEVEL = 1  # of zlib: on soft masks at least twice as fast as the 6 of np.savez_compressed, for files 5 % larger

    def __init__(self, **arrays: Packed) -> None:
        self.file = io.BytesIO()
        self.add(**arrays)

    def add(self, **arrays: Packed) -> None:
        """Add arrays, or plain values, by their names."""
        with zipfile.ZipFile(self.file, "a") as archive:
            for name, value in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asanyarray(value), allow_pickle=False)
                kind = zipfile.ZIP_DEFLATED if np.ndim(value) else zipfile.ZIP_STORED  # a plain value is all header
                entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
                archive.writestr(entry, content.getbuffer(), kind, self.LEVEL)

    def write(self, path: str | os.PathLike[str], sync: bool = True) -> None:
        """Write the file; `sync` as in storage.write_atomically."""
        storage.write_bytes(path, self.file.getbuffer(), sync)


class CaseWriter(Generic[P]):
    """Calls `write` in threads, while the next cases are drawn.

    Use as a context: at its end everything is written. What goes wrong in a thread is raised by a later call, or at the
    end: of several errors, that of the case that came first. They are threads, because compressing arrays and pictures
    and waiting for the disk release the interpreter, and because a process that uses a GPU must not be forked.

    writers  threads
    at_once  cases that are drawn together: as many may wait, or PER_WRITER for each thread, whichever is more. Then the
             caller waits
    """

    MOST = 4  # threads: about a third of a case's work holds the interpreter
    PER_WRITER = 2  # cases, those being written among them

    def __init__(self, write: Callable[P, object], writers: int = 1, at_once: int = 1) -> None:
        self.write, self.writers = write, writers
        self.most_waiting = max(at_once, self.PER_WRITER * writers)
        self.waiting: collections.deque[Future[object]] = collections.deque()

    def __enter__(self) -> "CaseWriter[P]":
        self.pool = ThreadPoolExecutor(self.writers)
        return self

    def __call__(self, *case: P.args, **more: P.kwargs) -> None:
        """Hand over a case, as the arguments of `write`."""
        while len(self.waiting) >= self.most_waiting or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(self.write, *case, **more))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        if kind is None:  # else that error is the one to report
            for future in self.waiting:
                future.result()
