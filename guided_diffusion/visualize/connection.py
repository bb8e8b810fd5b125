"""A client of a Visdom server, and its flags."""

import logging
import os
import time
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from jaxtyping import UInt8

from ..errors import ConfigError
from ..flags.fields import Flag, config

if TYPE_CHECKING:
    import requests

PACKAGE = (
    "--visdom: package missing; PIP_CONSTRAINT=build-constraints.txt pip install "
    "'ambiguous-segmentation-diffusion[visdom]' (pip 25.3 or newer: --build-constraint build-constraints.txt)"
)
TIMEOUT = (3, 5)  # seconds to connect, and to wait for a response
PATIENCE = 20  # seconds to establish the connection on which the server reports window events
CAPTION_ROOM = 50  # pixels above and below a picture, in total


@config(resume="free")
class VisdomConfig:
    """Live view in Visdom."""

    visdom: Annotated[bool, Flag("show the run in Visdom windows")] = False
    visdom_server: Annotated[str, Flag("address of the Visdom server; login: VISDOM_USERNAME and VISDOM_PASSWORD")] = (
        "http://localhost"
    )
    visdom_port: Annotated[int, Flag("port of the Visdom server")] = 8097
    visdom_env: Annotated[str, Flag("Visdom environment for the windows")] = "main"
    visdom_log: Annotated[
        str, Flag("record the windows to this file, for `python -m guided_diffusion.visualize replay FILE`")
    ] = ""


class WindowsGone(Exception):
    """A window that was sent no longer exists on the server: the server was restarted or the window closed."""


class Client(Protocol):
    """The part of a Visdom client that is used here."""

    env: str
    env_list: set[str]

    def win_exists(self, win: str) -> bool:
        """Whether a window exists."""

    def line(self, Y: np.ndarray, X: np.ndarray, **options: Any) -> object:
        """Draw or extend a line."""

    def image(self, img: np.ndarray, **options: Any) -> object:
        """Show a picture."""

    def text(self, text: str, **options: Any) -> object:
        """Show HTML."""

    def properties(self, data: list[dict[str, Any]], **options: Any) -> object:
        """Show a form with choices."""

    def register_event_handler(self, handler: Any, target: str) -> None:
        """Register handler(event) for events of a window."""

    def replay_log(self, log_filename: str) -> None:
        """Send a recording."""


def connect(config: VisdomConfig, listening: bool = False) -> Client:
    """Connect a Visdom client. Its calls raise ConnectionError, with the reason, after TIMEOUT without a response.

    Without --visdom, the client only records to --visdom_log. ConfigError: the package is missing, or only one of
    username and password is set.

    listening  receive window events in a thread; ConnectionError: no event connection within PATIENCE
    """
    try:
        import visdom  # noqa: F401
    except ImportError as error:
        raise ConfigError(PACKAGE) from error
    logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns about every new session
    username, password = os.environ.get("VISDOM_USERNAME"), os.environ.get("VISDOM_PASSWORD")
    if config.visdom and username and not password:
        raise ConfigError("VISDOM_USERNAME is set, but VISDOM_PASSWORD is not: set both")
    client = _client_class()(
        server=config.visdom_server,
        port=config.visdom_port,
        env=config.visdom_env,
        raise_exceptions=True,
        use_incoming_socket=listening,
        username=username,
        password=password,
        log_to_filename=None if config.visdom else config.visdom_log,
        offline=not config.visdom,
    )
    end = time.monotonic() + PATIENCE
    while listening and not client.socket_alive:  # earlier events would be lost
        if time.monotonic() > end:
            raise ConnectionError("the server does not report window events")
        time.sleep(0.05)
    return client


def _client_class() -> Any:
    """Visdom's client class with timeouts, and with exceptions instead of printed errors."""
    import requests
    import visdom

    base: Any = visdom.Visdom  # its type annotations are incomplete

    class LimitedClient(base):
        _session: requests.Session | None

        @property
        def session(self) -> requests.Session:
            """Logs in with a timeout, in contrast to Visdom's property."""
            if self._session is None:
                session = requests.Session()
                if self.username:
                    login = {"username": self.username, "password": self.password}
                    _post(session, f"{self.server}:{self.port}", json=login)
                self._session = session
            return self._session

        def _handle_post(self, url: str, data: Any = None) -> str:
            return _post(self.session, url, data=data or {})

        def win_exists(self, win: str, env: str | None = None) -> bool:
            """Called by Visdom before points are appended to a window."""
            if self._win_exists_wrap(win, env) == "false":
                raise WindowsGone(win)
            return True

    return LimitedClient


def _post(session: "requests.Session", url: str, **content: Any) -> str:
    """Return the server's response. ConnectionError: no response within TIMEOUT, or an error status."""
    import requests

    try:
        response = session.post(url, timeout=TIMEOUT, **content)
    except requests.Timeout as error:
        raise ConnectionError("no response") from error
    except requests.RequestException as error:
        raise ConnectionError("no server found") from error
    if not response.ok:
        raise ConnectionError(
            f"the server returned status {response.status_code}; for a login set VISDOM_USERNAME and VISDOM_PASSWORD"
        )
    return response.text


def send_picture(client: Client, window: str, pixels: UInt8[np.ndarray, "3 H W"], caption: str) -> None:
    """Show a picture in a window with extra height, because Visdom draws the caption over the picture's last rows."""
    height = pixels.shape[1] + CAPTION_ROOM
    client.image(pixels, win=window, opts={"title": window, "caption": caption, "height": height})
