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
    "--visdom needs a package: PIP_CONSTRAINT=build-constraints.txt pip install "
    "'ambiguous-segmentation-diffusion[visdom]' (pip 25.3 or newer: --build-constraint build-constraints.txt)"
)
TIMEOUT = (3, 5)  # seconds to connect, and to wait for an answer
PATIENCE = 20  # seconds until the server must have taken the connection by which it reports events of its windows
CAPTION_ROOM = 50  # pixels above and below a picture, together


@config(resume="free")
class VisdomConfig:
    """The Visdom server, and what is shown on it."""

    visdom: Annotated[bool, Flag("show the run in Visdom windows")] = False
    visdom_server: Annotated[str, Flag("address of the Visdom server; VISDOM_USERNAME and VISDOM_PASSWORD log in")] = (
        "http://localhost"
    )
    visdom_port: Annotated[int, Flag("port of the Visdom server")] = 8097
    visdom_env: Annotated[str, Flag("environment of the windows")] = "main"
    visdom_log: Annotated[
        str, Flag("file to record the windows in, for `python -m guided_diffusion.visualize replay FILE`")
    ] = ""


class WindowsGone(Exception):
    """The server answers, and lacks a window that was sent: it was restarted, or somebody closed the window."""


class Client(Protocol):
    """What is used of a Visdom client."""

    env: str
    env_list: set[str]

    def win_exists(self, win: str) -> bool:
        """Whether a window is there."""

    def line(self, Y: np.ndarray, X: np.ndarray, **options: Any) -> object:
        """Draw or continue a line."""

    def image(self, img: np.ndarray, **options: Any) -> object:
        """Show a picture."""

    def text(self, text: str, **options: Any) -> object:
        """Show HTML."""

    def properties(self, data: list[dict[str, Any]], **options: Any) -> object:
        """Show a table of choices."""

    def register_event_handler(self, handler: Any, target: str) -> None:
        """Call handler(event) for each event of a window."""

    def replay_log(self, log_filename: str) -> None:
        """Send a recording."""


def connect(config: VisdomConfig, listening: bool = False) -> Client:
    """A Visdom client that raises ConnectionError, with the reason, where no server takes what it sends within TIMEOUT.

    Without --visdom it only records, in --visdom_log. ConfigError: the package is missing, or half of a login.

    listening  for events of the windows, by a thread; ConnectionError where the server reports none within PATIENCE
    """
    try:
        import visdom  # noqa: F401
    except ImportError as error:
        raise ConfigError(PACKAGE) from error
    logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of every session that it sets up
    username, password = os.environ.get("VISDOM_USERNAME"), os.environ.get("VISDOM_PASSWORD")
    if config.visdom and username and not password:
        raise ConfigError("VISDOM_USERNAME is set, and VISDOM_PASSWORD is not")
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
    while listening and not client.socket_alive:  # what is chosen before that is lost
        if time.monotonic() > end:
            raise ConnectionError("it does not report what is chosen in its windows")
        time.sleep(0.05)
    return client


def _client_class() -> Any:
    """Visdom's client, with limits of time, and errors in place of lines."""
    import requests
    import visdom

    base: Any = visdom.Visdom  # whose own types lack most of what it has

    class LimitedClient(base):
        _session: requests.Session | None

        @property
        def session(self) -> requests.Session:
            """Visdom's own logs in without a limit of time."""
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
            """Called before points are appended to a window."""
            if self._win_exists_wrap(win, env) == "false":
                raise WindowsGone(win)
            return True

    return LimitedClient


def _post(session: "requests.Session", url: str, **content: Any) -> str:
    """The server's answer. ConnectionError: there is none within TIMEOUT, or a refusal."""
    import requests

    try:
        response = session.post(url, timeout=TIMEOUT, **content)
    except requests.Timeout as error:
        raise ConnectionError("no answer") from error
    except requests.RequestException as error:
        raise ConnectionError("no server there") from error
    if not response.ok:
        raise ConnectionError(f"it answers {response.status_code}; VISDOM_USERNAME and VISDOM_PASSWORD log in")
    return response.text


def send_picture(client: Client, window: str, pixels: UInt8[np.ndarray, "3 H W"], caption: str) -> None:
    """Show a picture in a window with room for its caption, which the page lays over the picture's last rows."""
    height = pixels.shape[1] + CAPTION_ROOM
    client.image(pixels, win=window, opts={"title": window, "caption": caption, "height": height})
