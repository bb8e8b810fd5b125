"""Visdom windows of a run: named, updated in place, and sent by a background thread that never blocks the run.

The desired content of each window is kept here: all points of its lines, or the latest picture. The thread synchronises
the server with it. No queue is needed: a new picture replaces one that was not sent yet, and a restarted server
receives everything again.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..errors import ConfigError
from ..logger import NullSink, Sink
from ..system.storage import refuse_remote
from .connection import PACKAGE, Client, VisdomConfig, WindowsGone, connect, send_picture

INTERVAL = 3.0  # seconds between updates of the server; changes in between are sent together
MOST_POINTS = 4000  # per line; beyond that, every other point is dropped
MOST_PICTURES = 24  # picture windows; beyond that, the oldest is dropped


@dataclass
class _Lines:
    steps: dict[str, list[int]] = field(default_factory=dict)  # by series
    values: dict[str, list[float]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)  # number of points on the server

    def forget_sent(self) -> None:
        self.sent = {}


@dataclass
class _Picture:
    pixels: UInt8[np.ndarray, "3 H W"]
    caption: str
    sent: bool = False

    def forget_sent(self) -> None:
        self.sent = False


class Windows(Sink):
    """Windows on the config's server or, without --visdom, in its recording. Connects when there is content to show.

    log      called once, with a line of text, when the connection is lost
    retry    seconds between attempts to reconnect
    connect  config -> client; called in the thread
    """

    shown = True

    def __init__(
        self,
        config: VisdomConfig,
        log: Callable[[str], object] = print,
        retry: float = 5.0,
        connect: Callable[[VisdomConfig], Client] = connect,
    ):
        self.config, self.log, self.retry, self.connect = config, log, retry, connect
        self.content: OrderedDict[str, _Lines | _Picture] = OrderedDict()  # by window
        self.client: Client | None = None
        self.reported = False  # whether the lost connection was logged
        self.lock, self.news, self.closing = threading.Lock(), threading.Event(), threading.Event()
        try:
            import visdom  # noqa: F401
        except ImportError as error:
            raise ConfigError(PACKAGE) from error
        self.thread = threading.Thread(target=self._run, daemon=True, name="visdom")
        self.thread.start()

    # -- called by the run: these return immediately ------------------------------------------------------------------

    def lines(self, window: str, step: int, values: Mapping[str, float]) -> None:
        """Extend the lines of a window: {series: value} at a step."""
        with self.lock:
            lines = self.content.get(window)
            if not isinstance(lines, _Lines):
                self.content[window] = lines = _Lines()
            for series, value in values.items():
                steps, points = lines.steps.setdefault(series, []), lines.values.setdefault(series, [])
                steps.append(step)
                points.append(float(value))
                if len(steps) > MOST_POINTS:
                    lines.steps[series], lines.values[series] = steps[::2], points[::2]
                    lines.sent.pop(series, None)
        self.news.set()

    def show_metrics(self, values: Mapping[str, float]) -> None:
        """Show a log row: one window per column; the quartiles of a loss term share a window."""
        show_metrics(self, values)

    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Show a picture; it replaces the window's content."""
        pixels = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
        with self.lock:
            self.content.pop(window, None)
            self.content[window] = _Picture(pixels, caption)
            pictures = [name for name, content in self.content.items() if isinstance(content, _Picture)]
            for name in pictures[:-MOST_PICTURES]:
                del self.content[name]
        self.news.set()

    def close(self, seconds: float = 5.0) -> None:
        """Send pending content, for at most `seconds`."""
        self.closing.set()
        self.news.set()
        self.thread.join(seconds)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.closing.is_set():
            self.news.wait()
            last = self.closing.is_set()
            self.news.clear()
            try:
                self._send_all()
                pause = INTERVAL
            except Exception as error:  # from requests, sockets and the client itself
                self._lost(error)
                pause = self.retry
                self.news.set()  # retry later; the run continues
            if last:
                return
            self.closing.wait(pause)
        with contextlib.suppress(Exception):
            self._send_all()

    def _lost(self, error: Exception) -> None:
        self.client = None
        self._forget_sent()
        if not self.reported:
            config = self.config
            where = f"Visdom at {config.visdom_server}:{config.visdom_port}" if config.visdom else config.visdom_log
            reason = error or type(error).__name__
            self.log(f"{where} cannot be updated ({reason}); the run continues and keeps trying")
        self.reported = True

    def _forget_sent(self) -> None:
        with self.lock:
            for content in self.content.values():
                content.forget_sent()

    def _send_all(self) -> None:
        client = self.client = self.client or self.connect(self.config)
        try:
            self._send_news(client)
        except WindowsGone:
            self._forget_sent()
            self._send_news(client)

    def _send_news(self, client: Client) -> None:
        with self.lock:
            windows = list(self.content.items())
        known = next((name for name, content in windows if content.sent), None)
        if known is not None:  # sending a picture does not reveal whether its window still exists
            client.win_exists(known)
        for name, content in windows:
            if isinstance(content, _Lines):
                self._send_lines(client, name, content)
            elif not content.sent:
                send_picture(client, name, content.pixels, content.caption)
                content.sent = True

    def _send_lines(self, client: Client, name: str, lines: _Lines) -> None:
        with self.lock:
            waiting = {
                series: (steps, len(steps), lines.values[series], lines.sent.get(series, 0))
                for series, steps in lines.steps.items()
            }
        for series, (steps, count, values, first) in waiting.items():
            if first == count:
                continue
            another = "replace" if lines.sent else None  # add a line to an existing window, or create the window
            client.line(
                Y=np.array(values[first:count]),
                X=np.array(steps[first:count]),
                win=name,
                name=series,
                update="append" if first else another,
                opts={"title": name, "xlabel": "step", "showlegend": len(waiting) > 1},
            )
            with self.lock:
                if lines.steps[series] is steps:  # otherwise points were dropped: resend the line next time
                    lines.sent[series] = count


class BothWindows(Sink):
    """Windows on a server and in a recording; they are independent, so one does not wait for the other."""

    shown = True

    def __init__(self, *parts: Sink):
        self.parts = parts

    def lines(self, window: str, step: int, values: Mapping[str, float]) -> None:
        """Extend the lines of a window in both."""
        for part in self.parts:
            part.lines(window, step, values)

    def show_metrics(self, values: Mapping[str, float]) -> None:
        """Show a log row in both."""
        for part in self.parts:
            part.show_metrics(values)

    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Show a picture in both."""
        for part in self.parts:
            part.picture(window, picture, caption)

    def close(self) -> None:
        """Send pending content to both."""
        for part in self.parts:
            part.close()


def open_windows(config: VisdomConfig, is_main: bool = True, log: Callable[[str], object] = print) -> Sink:
    """Windows for the first process of a run with --visdom or --visdom_log, otherwise a NullSink.

    ConfigError: the package is missing, or the recording cannot be written.
    """
    if not is_main or not (config.visdom or config.visdom_log):
        return NullSink()
    if not config.visdom_log:
        return Windows(config, log)
    _check_writable(config.visdom_log)
    recording = Windows(replace(config, visdom=False), log)
    return BothWindows(Windows(config, log), recording) if config.visdom else recording


def _check_writable(path: str) -> None:
    refuse_remote("visdom_log", path)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"--visdom_log {path} is not writable ({error})") from error


def show_metrics(windows: Sink, values: Mapping[str, float]) -> None:
    """Show a log row: one window per column; the quartiles of a loss term share a window."""
    grouped: dict[str, dict[str, float]] = {}
    for column, value in values.items():
        if column in ("step", "samples"):
            continue
        term, _, quartile = column.rpartition("_q")
        if term and quartile.isdigit():
            grouped.setdefault(f"{term} by quartile of t", {})[f"q{quartile}"] = value
        else:
            grouped.setdefault(column, {})[column] = value
    for window, series in grouped.items():
        windows.lines(window, int(values["step"]), series)
