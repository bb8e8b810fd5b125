"""What the operating system asks of a run: SIGTERM and SIGINT to end in good order, SIGUSR1 to save and go on."""

import os
import signal
import threading
import time


class Signals:
    """
    As a context, notes signals instead of obeying them; the run looks here after each step.

    A second SIGTERM or SIGINT ends the process at once. One within REPEAT seconds of the first counts as the first:
    launchers pass on what the terminal has sent to all already.
    """

    REPEAT = 1.0

    def __init__(self):
        self.stop = None  # the name of the signal that asked for the end
        self.save = False
        self._first = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody set a handler
            handlers = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGUSR1: self._on_save}
            self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
            self._before[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)  # which readers of cases change
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take_save(self):
        """Whether a checkpoint was asked for since the last call."""
        asked, self.save = self.save, False
        return asked

    def _on_stop(self, number, frame):
        now = time.monotonic()
        if self._first is None:
            self._first, self.stop = now, signal.Signals(number).name
        elif now - self._first > self.REPEAT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_save(self, number, frame):
        self.save = True
