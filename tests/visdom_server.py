"""A real Visdom server for tests, and what is in its windows."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from guided_diffusion.visualize.connection import VisdomConfig


@contextlib.contextmanager
def unused_port():
    """A port of this machine on which nobody listens, held so that nobody begins to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Server:
    """A Visdom server of the tests by the project's own command, on a free port, which a restart keeps."""

    def __init__(self, folder, *flags, environ=None):
        self.port, self.folder, self.process = None, folder, None
        self.flags_of_serve, self.environ = flags, environ

    def start(self):
        """Return once the server listens. A new port may be taken before the server has it: then another is tried."""
        for attempt in range(1 if self.port else 5):
            if self.port is None or attempt:
                with unused_port() as self.port:
                    pass
            output = self._launch()
            if output is None:
                return
            if f"--port {self.port}" not in output:
                break
        self.does_not_start(output)

    def _launch(self):
        """Start the command; None once it prints its address, or its output if it ended or takes over 90 seconds."""
        command = [
            sys.executable,
            "-m",
            "guided_diffusion.visualize",
            "serve",
            f"--port={self.port}",
            f"--env_path={self.folder}",
            *self.flags_of_serve,
        ]
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=log, stderr=subprocess.STDOUT)
            end = time.monotonic() + 90
            while self.process.poll() is None and time.monotonic() < end:
                if b"Visdom at http://" in os.pread(log.fileno(), 2**20, 0):
                    return None
                time.sleep(0.05)
            self.kill()
            return os.pread(log.fileno(), 2**20, 0).decode()

    @staticmethod
    def does_not_start(output):
        """Skip the tests if the page's scripts cannot be downloaded and that is allowed; otherwise fail."""
        excused = "not available from" in output and not os.environ.get("CIMD_REQUIRE_BROWSER")
        (pytest.skip if excused else pytest.fail)(f"no Visdom server: {output[-300:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def config(self, env, **more):
        return VisdomConfig(
            visdom=True, visdom_server="http://127.0.0.1", visdom_port=self.port, visdom_env=env, **more
        )

    def flags(self, env):
        return ["--visdom", "--visdom_server=http://127.0.0.1", f"--visdom_port={self.port}", f"--visdom_env={env}"]


def windows_of(client):
    """{name: content} of every window of the client's environment."""
    return {name: window["content"] for name, window in json.loads(client.get_window_data(None)).items()}


def points_of(content):
    return {trace["name"]: (trace["x"], trace["y"]) for trace in content["data"]}


def picture_of(content):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content["src"].split(",")[1]))).convert("RGB"))


def there(client, *names):
    """Whether the server has all these windows."""
    try:
        return set(names) <= windows_of(client).keys()
    except (ConnectionError, ValueError):
        return False
