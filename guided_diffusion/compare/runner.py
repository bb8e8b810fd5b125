"""Runs the commands of a comparison."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable

from ..errors import DataError
from ..system.workers import Terminated

COMMANDS = "guided_diffusion.commands"

RunCommand = Callable[[str, list[str], str], int]  # see run_command


def run_command(command: str, arguments: list[str], log: str) -> int:
    """Run a command in a subprocess and append its output to the file `log`; returns the exit status.

    KeyboardInterrupt is raised again after the subprocess has exited.
    """
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{COMMANDS}.{command}", *arguments], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait()
        except KeyboardInterrupt as stop:  # Ctrl-C also reaches the subprocess; SIGTERM does not
            if isinstance(stop, Terminated):
                process.terminate()
            process.wait()
            raise


class Runner:
    """Runs the commands of a comparison in `folder`; command lines go to commands.txt, output to console.log."""

    def __init__(self, folder: str, run: RunCommand = run_command) -> None:
        self.folder, self.run = folder, run

    def __call__(self, command: str, *arguments: object, may_end: int = 0) -> int:
        """Run a command; returns its status, 0 or may_end. DataError: another status; has the last line of output."""
        words = [str(argument) for argument in arguments]
        log = os.path.join(self.folder, "console.log")
        with open(os.path.join(self.folder, "commands.txt"), "a", encoding="utf-8") as file:
            file.write(shlex.join(["python", "-m", f"{COMMANDS}.{command}", *words]) + "\n")
        status = self.run(command, words, log)
        if status not in (0, may_end):
            with open(log, encoding="utf-8") as file:
                last = ([""] + file.read().strip().splitlines())[-1]
            raise DataError(f"{command} failed with status {status}: {last} ({log}; rerun the command to resume)")
        return status
