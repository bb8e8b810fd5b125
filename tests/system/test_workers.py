"""Processes that work for one end with it, however it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers import ROOT

from guided_diffusion.system.workers import Terminated, worker_pool

CODE = """
import os, threading
from guided_diffusion.system.workers import worker_pool

def work(k):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once, that two do not mix
    threading.Event().wait()

with worker_pool(2) as pool:
    list(pool.map(work, range(4)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(number):
    running = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    workers = {int(running.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2 and running.pid not in workers
    running.send_signal(number)
    running.communicate(timeout=30)  # its pipe is open as long as a worker lives
    assert running.returncode != 0


# Sends itself SIGTERM at one moment of the first fork
FORKING = """
import os, signal, sys
parent, sent = os.getpid(), []

def send():
    if not sent:
        sent.append(True)
        os.kill(parent, signal.SIGTERM)

os.register_at_fork(**{sys.argv[1]: send})
"""


@pytest.mark.parametrize("moment", ["before", "after_in_parent", "after_in_child"])
def test_a_signal_as_the_workers_are_forked_is_not_lost(moment):
    command = [sys.executable, "-c", FORKING + CODE, moment]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    running.communicate(timeout=60)
    assert running.returncode != 0


def test_an_error_ends_the_workers_and_the_handler_of_sigterm_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), worker_pool(1) as pool:
        pid = pool.submit(os.getpid).result()
        assert signal.getsignal(signal.SIGTERM) != before
        pool.submit(divmod, 1, 0).result()
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stop_that_another_thread_receives_waits_until_all_workers_are_forked(monkeypatch):
    end, forked = threading.Event(), []
    other = threading.Thread(target=end.wait)
    submit = ProcessPoolExecutor.submit

    def stopped(self, *arguments):
        signal.pthread_kill(other.ident, signal.SIGTERM)
        future = submit(self, *arguments)
        forked.append(self)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", stopped)
    other.start()
    try:
        with pytest.raises(Terminated), worker_pool(1):
            pytest.fail("the stop was lost")
    finally:
        end.set()
        other.join()
    assert forked and not multiprocessing.active_children()
