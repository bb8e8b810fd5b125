"""How a comparison runs the commands of its stages."""

import os
import subprocess
import sys

from .system.workers import Terminated

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")


def run_script(script: str, arguments: list[str], log: str) -> int:
    """
    Run scripts/SCRIPT.py in a process of its own and append its text to the file `log`; returns its exit status.

    KeyboardInterrupt is raised again when the process has ended in good order.
    """
    command = [sys.executable, os.path.join(SCRIPTS, f"{script}.py"), *arguments]
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except KeyboardInterrupt as stop:  # Ctrl-C reaches the process too; SIGTERM does not
            if isinstance(stop, Terminated):
                process.terminate()
            process.wait()
            raise
