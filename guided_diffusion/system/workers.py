"""Processes that work for this one, and that end with it, however it ends."""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

STOPS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def worker_pool(processes):
    """A ProcessPoolExecutor as a context. After an error, Ctrl-C or SIGTERM, which is raised as Ctrl-C is, its workers are ended at once;
    should this process be killed, they end by themselves.
    """
    others = set(multiprocessing.active_children())
    fork = multiprocessing.get_context(
        "fork"
    )  # at once, for they need nothing that is not imported yet, and hold no GPU
    pool = ProcessPoolExecutor(processes, fork, initializer=_heed_the_parent_alone)
    with sigterm_as_interrupt():
        try:
            with _stops_held_back():
                pool.submit(int)  # all workers are forked at the first task
            yield pool
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""


@contextlib.contextmanager
def sigterm_as_interrupt():
    """A context in which SIGTERM raises `Terminated`."""

    def interrupt(number, frame):
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python lets nobody set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stops_held_back():
    """Signals to stop wait meanwhile: while Python forks, what a handler raises is lost, in either process.

    The mask holds for this thread and for the processes that it forks; a signal may reach another thread, and then the handler runs.
    """
    came, own = [], threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.signal(number, lambda number, frame: came.append(number)) for number in STOPS} if own else {}
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came:
            signal.raise_signal(number)


def _heed_the_parent_alone():
    """In a worker: Ctrl-C, which a terminal sends to all, is the parent's to answer; SIGTERM ends it, and so does the parent's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # held back as it was forked
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
