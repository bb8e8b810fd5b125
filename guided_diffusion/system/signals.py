"""What the operating system asks of a run: SIGTERM and SIGINT to end in good order, SIGUSR1 to save and continue."""

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
    """As a context, notes signals instead of obeying them; the run looks here after each step.

    A second SIGTERM or SIGINT ends the process at once, with status 128 and the signal's number. One within REPEAT
    seconds of the first counts as the first: launchers pass on what the terminal has sent to all already.
    """

    REPEAT = 1.0

    def __init__(self) -> None:
        self.stop: str | None = None  # the name of the signal that asked for the end
        self.save = False

    def __enter__(self) -> "Signals":
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody set a handler
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
        """Whether a checkpoint was asked for since the last call."""
        asked, self.save = self.save, False
        return asked

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = self.stop or signal.Signals(number).name

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True


@contextlib.contextmanager
def second_ends_at_once(repeat: float) -> Iterator[None]:
    """A context in which a second signal of STOP, more than `repeat` seconds after the first, ends the process.

    A handler has to wait until the main thread is back from native code, which may be in a long product of matrices, or
    wait for another process. So a thread counts the signals' numbers, which Python writes as they come.
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
        writer.send(b"\0")  # closing would not do: forked readers of cases have the socket too
        thread.join()
        reader.close()
        writer.close()


def _count_stops(reader: socket.socket, repeat: float) -> None:
    """Read a signal's number at a time, until 0 comes."""
    first = None
    while number := reader.recv(1)[0]:
        if number in STOP:
            first = first or time.monotonic()
            if time.monotonic() - first > repeat:
                os._exit(128 + number)
