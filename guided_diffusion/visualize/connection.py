"""A client of a Visdom server, and its flags."""

import logging
import os
import time
from typing import Annotated

from ..errors import ConfigError
from ..flags.fields import Flag, config

PACKAGE = (
    "--visdom needs a package: PIP_CONSTRAINT=build-constraints.txt pip install 'ambiguous-segmentation-diffusion[visdom]' "
    "(pip 25.3 or newer: --build-constraint build-constraints.txt)"
)
TIMEOUT = (3, 5)  # seconds to connect, and to wait for an answer
PATIENCE = (
    20  # seconds until the server must have taken the connection by which it tells of what is done in its windows
)
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
    """The server answers, and lacks a window that was sent: it was started afresh, or somebody closed the window."""


def connect(config, listening=False):
    """A Visdom client that raises ConnectionError, with the reason, where no server takes what it sends within TIMEOUT; without
    --visdom it only records, in --visdom_log. ConfigError: the package is missing, or half of a login.

    listening  for what is done in the windows, by a thread; ConnectionError where the server does not tell of it within PATIENCE
    """
    try:
        import requests
        import visdom
    except ImportError as error:
        raise ConfigError(PACKAGE) from error
    logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of every session that it sets up
    username, password = os.environ.get("VISDOM_USERNAME"), os.environ.get("VISDOM_PASSWORD")
    if config.visdom and username and not password:
        raise ConfigError("VISDOM_USERNAME is set, and VISDOM_PASSWORD is not")

    class Client(visdom.Visdom):
        @property
        def session(self):
            """Visdom's own logs in without a limit of time."""
            if self._session is None:
                session = requests.Session()
                if username:
                    login = {"username": username, "password": self.password}
                    self._post(session, f"{self.server}:{self.port}", json=login)
                self._session = session
            return self._session

        def _handle_post(self, url, data=None):
            return self._post(self.session, url, data=data or {})

        def _post(self, session, url, **content):
            try:
                response = session.post(url, timeout=TIMEOUT, **content)
                response.raise_for_status()
            except requests.HTTPError as error:
                raise ConnectionError(
                    f"it answers {error.response.status_code}; VISDOM_USERNAME and VISDOM_PASSWORD log in"
                ) from error
            except requests.RequestException as error:
                raise ConnectionError(
                    "no answer" if isinstance(error, requests.Timeout) else "no server there"
                ) from error
            return response.text

        def win_exists(self, win, env=None):
            """Asked before points are appended to a window."""
            if self._win_exists_wrap(win, env) == "false":
                raise WindowsGone(win)
            return True

    client = Client(
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
            raise ConnectionError("it does not tell of what is chosen in its windows")
        time.sleep(0.05)
    return client


def send_picture(client, window, pixels, caption):
    """Show a picture [3, H, W] uint8 in a window with room for its caption, which the page lays over the picture's last rows."""
    height = pixels.shape[1] + CAPTION_ROOM
    client.image(pixels, win=window, opts={"title": window, "caption": caption, "height": height})
