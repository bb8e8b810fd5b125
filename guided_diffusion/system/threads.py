"""The number of CPU threads that a process computes with."""

import os
import statistics
import threading
import time
from collections.abc import Callable

import torch

from .workers import usable_cores

# More threads must reduce the time by at least 10 %. A smaller gain is within the noise of a few steps, and each
# additional thread costs CPU time and competes with other programs for a core.
CLEARLY_FASTER = 0.9
ROUNDS = 5
TIME_LIMIT = 5.0  # seconds, after which no further round starts


def share_of_cores(processes: int) -> int:
    """The number of cores per process, at least 1, for this number of processes on this machine."""
    return max(1, usable_cores() // processes)


def share_cores(processes: int) -> None:
    """Divide the cores of this machine between several processes; a single process keeps PyTorch's default."""
    if processes > 1:  # launchers set one thread per process, or leave each of them all cores
        torch.set_num_threads(share_of_cores(processes))


def set_by_user() -> bool:
    """Whether OMP_NUM_THREADS sets the number of threads; PyTorch reads it at import."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def candidates(most: int) -> list[int]:
    """The thread counts to try: powers of two up to `most`, and `most`."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def time_threads(
    step: Callable[[], object], numbers: list[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """{thread count: median seconds of `step`}. PyTorch's number of threads is restored.

    The counts are timed in turn, so that a change in system load affects all of them. Each is timed at least once,
    regardless of the time limit.
    """
    before = torch.get_num_threads()
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        torch.set_num_threads(numbers[0])
        step()  # warm-up: the first step also selects kernels and allocates memory
        end = clock() + TIME_LIMIT
        for _ in range(ROUNDS):
            for number in numbers:
                torch.set_num_threads(number)
                start = clock()
                step()
                seconds[number].append(clock() - start)
            if clock() >= end:
                break
    finally:
        torch.set_num_threads(before)
    return {number: statistics.median(values) for number, values in seconds.items()}


def choose_threads(seconds: dict[int, float]) -> int:
    """The smallest thread count that no larger one clearly beats, given {thread count: seconds of a step}."""
    chosen, *others = sorted(seconds)
    for number in others:
        if seconds[number] < CLEARLY_FASTER * seconds[chosen]:
            chosen = number
    return chosen


def settle_by_time(step: Callable[[], object], most: int) -> str:
    """Set the number of threads, from 1 to `most`, by timing `step`; returns a line that reports the choice."""
    seconds = time_threads(step, candidates(most))
    chosen = choose_threads(seconds)
    torch.set_num_threads(chosen)
    timed = ", ".join(f"{number}: {value:.2g} s" for number, value in sorted(seconds.items()))
    number = f"{chosen} thread{'s' * (chosen > 1)}"
    return f"computing with {number}, chosen by the time of a step ({timed}); set OMP_NUM_THREADS to override"


def wait_until_idle(limit: float = 5.0) -> bool:
    """Wait up to `limit` seconds until all other threads of this process are idle; returns whether they are.

    On systems without /proc, which lists the threads, waits for a tenth of a second.
    """
    own, tasks, end = str(threading.get_native_id()), "/proc/self/task", time.monotonic() + limit
    if not os.path.isdir(tasks):
        time.sleep(0.1)
        return True
    while time.monotonic() < end:
        time.sleep(0.001)  # releases the GIL, which such a thread may need to continue
        if not any(_is_running(os.path.join(tasks, task, "stat")) for task in os.listdir(tasks) if task != own):
            return True
    return False


def _is_running(stat: str) -> bool:
    """Whether a thread is running or runnable: in its /proc stat file, the state follows the name in brackets."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "R"
    except OSError:  # the thread has ended
        return False
