"""Worker processes that never outlive their parent, however it ends."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import NoReturn, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

STOPS = {signal.SIGINT, signal.SIGTERM}


class WorkerDied(RuntimeError):
    """A worker ended before its work was done, e.g. because it was killed for lack of memory."""


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A ProcessPoolExecutor as a context, in which SIGTERM is raised like Ctrl-C.

    After an error, Ctrl-C or SIGTERM, the workers are terminated at once. If this process is killed, they end too.
    WorkerDied: a worker was killed.
    """
    with sigterm_as_interrupt(), _pool(processes, None, _stops_held_back()) as pool:
        yield pool


@contextlib.contextmanager
def background_pool(processes: int, prepare: Callable[[], object]) -> Iterator[ProcessPoolExecutor]:
    """A ProcessPoolExecutor as a context, for a process that handles signals itself.

    prepare  called in each worker before its first task

    The workers end with the context, even in the middle of a task. WorkerDied: a worker was killed.
    """
    with _pool(processes, prepare, _stops_blocked()) as pool:
        yield pool


@contextlib.contextmanager
def _pool(
    processes: int, prepare: Callable[[], object] | None, no_stops: contextlib.AbstractContextManager[None]
) -> Iterator[ProcessPoolExecutor]:
    """A pool as a context; its workers are forked in the context `no_stops`.

    A dead worker is noticed at once, because the executor waits for results and for the end of any worker.
    Systems that cannot fork start a new interpreter for each worker, which is sent `prepare`.
    """
    others = set(multiprocessing.active_children())
    # Forking is fast, and safe here: workers need no further imports and no GPU
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(prepare,))
    workers: set[multiprocessing.process.BaseProcess] = set()
    try:
        try:
            with no_stops:
                pool.submit(int)  # the first task forks all workers
        finally:
            workers = set(multiprocessing.active_children()) - others
        yield pool
    except BrokenProcessPool as error:
        pool.shutdown(wait=True)
        raise WorkerDied(_how_it_ended(workers)) from error
    except BaseException:
        started_later = set(multiprocessing.active_children()) - others if method == "spawn" else set()
        for worker in workers | started_later:
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _how_it_ended(workers: set[multiprocessing.process.BaseProcess]) -> str:
    """A description of how the first worker ended; the executor ends the others with SIGTERM."""
    codes = {worker.pid: worker.exitcode for worker in workers if worker.exitcode}
    pid, code = min(codes.items(), key=lambda item: item[1] == -signal.SIGTERM, default=(None, None))
    if pid is None or code is None:
        return "it ended unexpectedly"
    return f"process {pid}: {signal.strsignal(-code) if code < 0 else f'exit status {code}'}"


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A context in which SIGTERM raises `Terminated`."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stops_held_back() -> Iterator[None]:
    """A context that defers stop signals: an exception raised by a handler is lost while Python forks.

    A signal that reaches a thread that does not block it would still run the handler in the main thread, so the
    handlers are also replaced, by ones that only record the signal.
    """
    came: list[int] = []
    own = threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.signal(number, lambda number, frame: came.append(number)) for number in STOPS} if own else {}
    )
    try:
        with _stops_blocked():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)


@contextlib.contextmanager
def _stops_blocked() -> Iterator[None]:
    """A context that blocks stop signals for this thread and for the processes that it forks, if the system can."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which does not fork either
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker(prepare: Callable[[], object] | None) -> None:
    """In a worker: ignore Ctrl-C, which the parent handles; end on SIGTERM, and when the parent ends."""
    signal.set_wakeup_fd(-1)  # do not report signals of this process to the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # were blocked during the fork
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if prepare:
        prepare()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent  # this is a worker
    parent.join()
    os._exit(1)


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) for each item, in order; threads compute a few ahead.

    For work that releases the interpreter's lock, such as decoding files, NumPy and zlib.
    """
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Result]] = []
        left = iter(items)
        while True:
            waiting += [pool.submit(function, item) for item in itertools.islice(left, 2 * threads - len(waiting))]
            if not waiting:
                return
            yield waiting.pop(0).result()


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
