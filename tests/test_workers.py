"""Processes that work for one end with it, however it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from guided_diffusion.workers import worker_pool

CODE = """
import os, time
from guided_diffusion.workers import worker_pool

def work(k):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once, that two do not mix
    time.sleep(300)

with worker_pool(2) as pool:
    list(pool.map(work, range(4)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(number):
    running = subprocess.Popen([sys.executable, "-c", CODE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    workers = {int(running.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2 and running.pid not in workers
    running.send_signal(number)
    running.communicate(timeout=30)  # its pipe is open as long as a worker lives
    assert running.returncode != 0


def test_a_signal_as_the_workers_are_forked_is_not_lost():
    for delay in (0, 0, 0, 0.0005, 0.001, 0.003):
        running = subprocess.Popen([sys.executable, "-c", CODE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        children = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not children.read_text():
            assert running.poll() is None
        time.sleep(delay)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)


def test_an_error_ends_the_workers_and_the_handler_of_sigterm_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        with worker_pool(1) as pool:
            pid = pool.submit(os.getpid).result()
            assert signal.getsignal(signal.SIGTERM) != before
            pool.submit(divmod, 1, 0).result()
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
