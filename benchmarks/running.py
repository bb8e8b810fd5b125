"""Running the project's scripts from a benchmark."""

import os
import subprocess
import sys

from guided_diffusion.image_files import DataError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(script, *arguments, threads=None):
    """
    Run a script by its name, with arguments of any type. DataError: it failed; the message is its last line.

    threads  that it computes with; None: as many as there are cores
    """
    command = [sys.executable, os.path.join(ROOT, "scripts", f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise DataError((done.stderr.strip() or f"{script} ended with status {done.returncode}").splitlines()[-1])
