"""Runs the project's scripts from benchmarks, and writes results."""

import json
import os
import subprocess
import sys

from guided_diffusion.errors import DataError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(script, *arguments, threads=None, processes=1):
    """Run a script by name, with arguments of any type. DataError: it failed; the message is its last line of output.

    threads    threads per process; None: the script's choice
    processes  number of processes
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, os.path.join(ROOT, "scripts", f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise DataError((done.stderr.strip() or f"{script} failed with status {done.returncode}").splitlines()[-1])


def measure(script, *arguments):
    """(processor seconds, peak memory in MB) of a script on one core. DataError: it failed."""
    command = [sys.executable, os.path.join(ROOT, "scripts", f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DataError(f"{script} failed with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def write_json(path, content):
    """Write results to a JSON file; an empty path: do nothing."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
