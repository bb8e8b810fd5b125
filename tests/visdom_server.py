"""A real Visdom server for tests, and what is in its windows."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from guided_diffusion.windows import VisdomConfig


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A Visdom server of the tests, on a free port, by the project's own command."""

    def __init__(self, folder, *flags, environ=None):
        self.port, self.folder, self.process = free_port(), folder, None
        self.flags_of_serve, self.environ = flags, environ

    def start(self):
        command = [sys.executable, "-m", "guided_diffusion.visualize", "serve", f"--port={self.port}", f"--env_path={self.folder}", *self.flags_of_serve]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 90
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    self.does_not_start(self.process.communicate(timeout=5)[0])
                time.sleep(0.1)

    @staticmethod
    def does_not_start(told):
        """A reason to skip the tests only where the page's scripts are out of reach, and where that is allowed."""
        excused = "not to be had from" in told and not os.environ.get("CIMD_REQUIRE_BROWSER")
        (pytest.skip if excused else pytest.fail)(f"no Visdom server: {told[-300:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def config(self, env, **more):
        return VisdomConfig(visdom=True, visdom_server="http://127.0.0.1", visdom_port=self.port, visdom_env=env, **more)

    def flags(self, env):
        return ["--visdom", "--visdom_server=http://127.0.0.1", f"--visdom_port={self.port}", f"--visdom_env={env}"]


def windows_of(client):
    """{name: content} of every window of the client's environment."""
    return {name: window["content"] for name, window in json.loads(client.get_window_data(None)).items()}


def points_of(content):
    return {trace["name"]: (trace["x"], trace["y"]) for trace in content["data"]}


def picture_of(content):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content["src"].split(",")[1]))).convert("RGB"))


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def there(client, *names):
    """Whether the server has all these windows."""
    try:
        return set(names) <= windows_of(client).keys()
    except (ConnectionError, ValueError):
        return False
