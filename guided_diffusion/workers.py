"""Processes that work for this one, and that end with it, however it ends."""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


@contextlib.contextmanager
def worker_pool(processes):
    """
    A ProcessPoolExecutor as a context. After an error, Ctrl-C or SIGTERM, which is raised as Ctrl-C is, its workers are ended at once;
    should this process be killed, they end by themselves.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, initializer=_heed_the_parent_alone)
    with _sigterm_as_interrupt():
        try:
            yield pool
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _sigterm_as_interrupt():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python lets nobody set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _heed_the_parent_alone():
    """In a worker: Ctrl-C, which a terminal sends to all, is the parent's to answer; SIGTERM ends it, and so does the parent's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
