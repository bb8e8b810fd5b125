"""Signals to a run: SIGTERM and SIGINT stop it gracefully, SIGUSR1 saves a checkpoint and continues."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """A context that records signals; the run checks for them after each step.

    A second SIGTERM or SIGINT ends the process at once, with status 128 plus the signal's number. Repetitions within
    REPEAT seconds of the first are ignored, because launchers forward a Ctrl-C that the terminal sends to all.
    """

    REPEAT = 1.0

    def __init__(self) -> None:
        self.stop: str | None = None  # the name of the signal that requested the stop
        self.save = False

    def __enter__(self) -> "Signals":
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            handlers = dict.fromkeys(STOP, self._on_stop)
            if hasattr(signal, "SIGUSR1"):  # not on Windows
                handlers[signal.SIGUSR1] = self._on_save
            for number, handler in handlers.items():
                self._undo.callback(signal.signal, number, signal.signal(number, handler))
            self._undo.enter_context(second_ends_at_once(self.REPEAT))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def take_save(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        requested, self.save = self.save, False
        return requested

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = self.stop or signal.Signals(number).name

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True


@contextlib.contextmanager
def second_ends_at_once(repeat: float) -> Iterator[None]:
    """A context in which a second STOP signal, more than `repeat` seconds after the first, ends the process.

    A handler runs only when the main thread returns from native code, which may take long or block on another process.
    So a thread counts the signal numbers that Python writes to its wakeup file descriptor.
    """
    reader, writer = socket.socketpair()
    thread = threading.Thread(target=_count_stops, args=(reader, repeat), daemon=True)
    thread.start()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.setblocking(True)
        writer.send(b"\0")  # closing is not enough, because forked data loading processes hold the socket too
        thread.join()
        reader.close()
        writer.close()


def _count_stops(reader: socket.socket, repeat: float) -> None:
    """Read one signal number at a time, until a 0."""
    first = None
    while number := reader.recv(1)[0]:
        if number in STOP:
            first = first or time.monotonic()
            if time.monotonic() - first > repeat:
                os._exit(128 + number)
