"""Visdom windows of a run: named, updated in place, sent by a thread of their own, and never in the way of the run.

What a window should show is kept here, once for each name: lines as points, a picture as the latest. The thread brings the server
up to that. So there is nothing to queue up: a picture that comes before the last one was sent takes its place, and a server that
comes back is sent everything again.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ConfigError
from ..logger import NullSink
from ..system.storage import refuse_remote
from .connection import PACKAGE, WindowsGone, connect, send_picture

INTERVAL = 3.0  # seconds between two rounds of sending: what comes meanwhile goes together
MOST_POINTS = 4000  # of a line; beyond that every other one goes
MOST_PICTURES = 24  # windows of pictures; beyond that the oldest goes


@dataclass
class _Lines:
    steps: dict[str, list] = field(default_factory=dict)  # of each series
    values: dict[str, list] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)  # points that the server has

    def forget_sent(self):
        self.sent = {}


@dataclass
class _Picture:
    pixels: np.ndarray  # [3, H, W] uint8
    caption: str
    sent: bool = False

    def forget_sent(self):
        self.sent = False


class Windows(NullSink):
    """Windows on the server that a VisdomConfig names, or else in its recording; connected to when there is something to show.

    tell     called with one line when the server does not take them, once
    retry    seconds until a lost server is tried again
    connect  config -> client; called by the thread
    """

    shown = True

    def __init__(self, config, tell=print, retry=5.0, connect=connect):
        self.config, self.tell, self.retry, self.connect = config, tell, retry, connect
        self.content = OrderedDict()  # {window: _Lines or _Picture}
        self.client, self.told = None, False
        self.lock, self.news, self.closing = threading.Lock(), threading.Event(), threading.Event()
        try:
            import visdom  # noqa: F401
        except ImportError as error:
            raise ConfigError(PACKAGE) from error
        self.thread = threading.Thread(target=self._run, daemon=True, name="visdom")
        self.thread.start()

    # -- for the run: these return at once ----------------------------------------------------------------------------

    def lines(self, window, step, values):
        """Continue the lines of a window: {series: value} at a step."""
        with self.lock:
            lines = self.content.setdefault(window, _Lines())
            for series, value in values.items():
                steps, points = lines.steps.setdefault(series, []), lines.values.setdefault(series, [])
                steps.append(step)
                points.append(float(value))
                if len(steps) > MOST_POINTS:
                    lines.steps[series], lines.values[series] = steps[::2], points[::2]
                    lines.sent.pop(series, None)
        self.news.set()

    def show_metrics(self, values):
        """A line of the log {column: number} as a window for each column, the quartiles of a loss term together in one."""
        show_metrics(self, values)

    def picture(self, window, picture, caption=""):
        """Show a PIL image, in place of what the window showed."""
        pixels = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
        with self.lock:
            self.content.pop(window, None)
            self.content[window] = _Picture(pixels, caption)
            pictures = [name for name, what in self.content.items() if isinstance(what, _Picture)]
            for name in pictures[:-MOST_PICTURES]:
                del self.content[name]
        self.news.set()

    def close(self, seconds=5.0):
        """Send what is left, for so long at most."""
        self.closing.set()
        self.news.set()
        self.thread.join(seconds)

    # -- for the thread -----------------------------------------------------------------------------------------------

    def _run(self):
        while not self.closing.is_set():
            self.news.wait()
            last = self.closing.is_set()
            self.news.clear()
            try:
                self._send_all()
                pause = INTERVAL
            except Exception as error:  # the client raises anything at all, of requests, sockets and its own
                self._lost(error)
                pause = self.retry
                self.news.set()  # the run goes on, and its news wait
            if last:
                return
            self.closing.wait(pause)
        with contextlib.suppress(Exception):
            self._send_all()

    def _lost(self, error):
        self.client = None
        self._forget_sent()
        if not self.told:
            where = (
                f"Visdom at {self.config.visdom_server}:{self.config.visdom_port}"
                if self.config.visdom
                else self.config.visdom_log
            )
            self.tell(
                f"{where} does not take pictures ({error or type(error).__name__}); the run goes on, and it is tried again"
            )
        self.told = True

    def _forget_sent(self):
        with self.lock:
            for what in self.content.values():
                what.forget_sent()

    def _send_all(self):
        self.client = self.client or self.connect(self.config)
        try:
            self._send_news()
        except WindowsGone:
            self._forget_sent()
            self._send_news()

    def _send_news(self):
        with self.lock:
            content = list(self.content.items())
        known = next((name for name, what in content if what.sent), None)
        if known is not None:  # pictures are sent without being asked for, and are gone all the same
            self.client.win_exists(known)
        for name, what in content:
            if isinstance(what, _Lines):
                self._send_lines(name, what)
            elif not what.sent:
                send_picture(self.client, name, what.pixels, what.caption)
                what.sent = True

    def _send_lines(self, name, lines):
        with self.lock:
            waiting = {
                series: (steps, len(steps), lines.values[series], lines.sent.get(series, 0))
                for series, steps in lines.steps.items()
            }
        for series, (steps, count, values, first) in waiting.items():
            if first == count:
                continue
            update = "append" if first else "replace" if lines.sent else None
            self.client.line(
                Y=np.array(values[first:count]),
                X=np.array(steps[first:count]),
                win=name,
                name=series,
                update=update,
                opts={"title": name, "xlabel": "step", "showlegend": len(waiting) > 1},
            )
            with self.lock:
                if (
                    lines.steps[series] is steps
                ):  # else they were thinned out meanwhile, and are sent whole the next time
                    lines.sent[series] = count


class BothWindows(NullSink):
    """Windows on a server and in a recording, each at its own pace: one that is lost is not missed by the other."""

    shown = True

    def __init__(self, *parts):
        self.parts = parts

    def lines(self, window, step, values):
        for part in self.parts:
            part.lines(window, step, values)

    def show_metrics(self, values):
        show_metrics(self, values)

    def picture(self, window, picture, caption=""):
        for part in self.parts:
            part.picture(window, picture, caption)

    def close(self):
        for part in self.parts:
            part.close()


def open_windows(config, is_main=True, tell=print):
    """Windows for the first process of a run that wants them; a NullSink otherwise. ConfigError: the package is missing, or the
    recording cannot be written.
    """
    if not is_main or not (config.visdom or config.visdom_log):
        return NullSink()
    if not config.visdom_log:
        return Windows(config, tell)
    _check_writable(config.visdom_log)
    recording = Windows(replace(config, visdom=False), tell)
    return BothWindows(Windows(config, tell), recording) if config.visdom else recording


def _check_writable(path):
    refuse_remote("visdom_log", path)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"--visdom_log {path} cannot be written ({error})") from error


def show_metrics(windows, values):
    """A line of the log {column: number} as a window for each column, the quartiles of a loss term together in one."""
    grouped = {}
    for column, value in values.items():
        term, _, quartile = column.rpartition("_q")
        window, series = (
            (f"{term} by quartile of t", f"q{quartile}") if term and quartile.isdigit() else (column, column)
        )
        if column not in ("step", "samples"):
            grouped.setdefault(window, {})[series] = value
    for window, series in grouped.items():
        windows.lines(window, values["step"], series)
