"""Everything runs where the modules, signals and process functions of POSIX are missing, and paths are on two drives.

`sitecustomize` removes them from every process, also those that a run starts. It does not replace a run on Windows.
"""

import json
import os
import subprocess
import sys

import pytest
from helpers import LEAST, ROOT, as_arguments

from guided_diffusion.prepare.phantoms import phantom

WITHOUT = """
import multiprocessing, os, posixpath, signal, sys
import filelock  # with locks that end with their process, as on Windows

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGALRM", "SIGPIPE", "SIG_BLOCK",
             "SIG_UNBLOCK", "SIG_SETMASK", "pthread_sigmask", "pthread_kill", "setitimer", "alarm", "sigwait"):
    delattr(signal, name)
for name in ("fork", "forkpty", "getuid", "geteuid", "getpgid", "setsid", "killpg", "pread",
             "sched_getaffinity", "statvfs", "nice", "mkfifo", "chown"):
    delattr(os, name)

multiprocessing.get_all_start_methods = lambda: ["spawn"]
get_context, relpath = multiprocessing.get_context, posixpath.relpath

def spawned(method=None):
    if method not in (None, "spawn"):
        raise ValueError(f"cannot find context for {method!r}")
    return get_context("spawn")

def on_one_drive(path, start=os.curdir):
    one, other = (os.path.abspath(p).startswith(os.environ["OTHER_DRIVE"]) for p in (path, start))
    if one != other:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")
    return relpath(path, start)

multiprocessing.get_context, posixpath.relpath = spawned, on_one_drive
"""

IMPORT_ALL = """
import importlib, pkgutil, sys
import guided_diffusion

for module in pkgutil.walk_packages(guided_diffusion.__path__, "guided_diffusion."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert sys.modules["fcntl"] is None
"""

LOCK = """
import sys
from guided_diffusion.system.storage import FolderLock

with FolderLock(sys.argv[1]) as lock:
    lock.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs Python without POSIX; the folder `drive` is another drive."""
    site, drive = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("drive")
    (site / "sitecustomize.py").write_text(WITHOUT)
    environ = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}", "OTHER_DRIVE": str(drive), "OMP_NUM_THREADS": "1"}

    def run(*arguments, start=subprocess.run, **more):
        more = more if start is subprocess.Popen else {"capture_output": True, **more}
        return start([sys.executable, *map(str, arguments)], cwd=ROOT, env=environ, text=True, **more)

    run.drive = drive
    return run


def test_every_module_is_imported(elsewhere):
    done = elsewhere("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_a_run_trains_with_loading_processes_samples_and_is_scored_on_another_drive(elsewhere, tmp_path):
    data, drive = tmp_path / "data", elsewhere.drive / "run"
    phantom.write_set(data, 4, seed=0, size=8, num_raters=2)
    run, samples = tmp_path / "run", tmp_path / "samples"
    flags = [*as_arguments(LEAST), "--batch_size=2", "--iterations=3", "--save_interval=2", "--num_workers=1"]
    train = ("-m", "guided_diffusion.commands.train", f"--data_dir={data}", f"--log_dir={run}")
    done = elsewhere(*train, *flags)
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stdout + done.stderr
    model = f"--model_path={run / 'savedmodel.pt'}"
    sample = ("-m", "guided_diffusion.commands.sample", f"--data_dir={data}", model, f"--out_dir={samples}")
    done = elsewhere(*sample, "--num_ensemble=2", "--steps=2")
    assert done.returncode == 0, done.stderr
    score = ("-m", "guided_diffusion.commands.evaluate", f"--data_dir={data}", f"--samples={samples}")
    done = elsewhere(*score, f"--out_dir={drive}", "--report=False")
    assert done.returncode == 0, done.stderr
    assert json.loads((drive / "metrics.json").read_text())["data_dir"] == str(data)


def test_a_folder_in_use_is_refused_and_free_once_its_process_is_killed(elsewhere, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    holder = elsewhere("-c", LOCK, tmp_path, start=subprocess.Popen, **pipes)
    assert holder.stdout.readline() == "held\n"
    refused = elsewhere("-c", LOCK, tmp_path, input="")
    assert refused.returncode and f"in use by another run (process {holder.pid} on " in refused.stderr
    holder.kill()
    holder.communicate()
    assert elsewhere("-c", LOCK, tmp_path, input="").stdout == "held\n"


def test_series_are_prepared_by_several_processes(elsewhere, tmp_path):
    for package in ("pydicom", "defusedxml"):
        pytest.importorskip(package)
    made = f"--out={tmp_path / 'download'}"
    done = elsewhere(
        "-m", "guided_diffusion.commands.make_phantom", made, "--format=lidc", "--num_cases=3", "--size=32"
    )
    assert done.returncode == 0, done.stderr
    source = [f"--{kind}={tmp_path / 'download' / kind}" for kind in ("dicom", "xml")]
    prepare = ("-m", "guided_diffusion.commands.prepare_lidc", *source, f"--out={tmp_path / 'cases'}")
    done = elsewhere(*prepare, "--processes=2", "--crop=32")
    assert done.returncode == 0, done.stderr
    assert "3 slices" in done.stdout
