"""How a comparison runs the commands of its stages."""

import subprocess
import sys
from collections.abc import Callable

from ..system.workers import Terminated

COMMANDS = "guided_diffusion.commands"

RunCommand = Callable[[str, list[str], str], int]  # as run_command


def run_command(command: str, arguments: list[str], log: str) -> int:
    """Run a command of the program in a process of its own and append its text to the file `log`; returns its exit status.

    KeyboardInterrupt is raised again when the process has ended in good order.
    """
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{COMMANDS}.{command}", *arguments], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait()
        except KeyboardInterrupt as stop:  # Ctrl-C reaches the process too; SIGTERM does not
            if isinstance(stop, Terminated):
                process.terminate()
            process.wait()
            raise
