"""How many threads a process on CPU cores computes with."""

import os
import statistics
import threading
import time
from collections.abc import Callable

import torch

from .workers import usable_cores

# More threads must save a tenth of the time. A smaller gain is within the noise of a few steps, and each further thread
# costs processor time and waits for a core wherever other programs run.
CLEARLY_FASTER = 0.9
ROUNDS = 5
TIME_LIMIT = 5.0  # seconds, after which no other round begins


def share_of_cores(processes: int) -> int:
    """The cores for each of this number of processes of one run on this machine, at least 1."""
    return max(1, usable_cores() // processes)


def share_cores(processes: int) -> None:
    """Give each of several processes on this machine its share of the cores; a single one keeps PyTorch's default."""
    if processes > 1:  # launchers leave each a single thread, or all of them
        torch.set_num_threads(share_of_cores(processes))


def set_by_user() -> bool:
    """Whether OMP_NUM_THREADS decides the number of threads; PyTorch read it when it was imported."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def candidates(most: int) -> list[int]:
    """The numbers of threads to try: the powers of two up to `most`, and `most`."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def time_threads(
    step: Callable[[], object], numbers: list[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """The median seconds of `step` with each number of threads, {number: seconds}. PyTorch's number stays as it was.

    The numbers take turns, so that a change of load meets all of them. Each is timed at least once, however
    long that takes.
    """
    before = torch.get_num_threads()
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        torch.set_num_threads(numbers[0])
        step()  # the first one also chooses kernels and allocates memory
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
    """The fewest threads than which no more are clearly faster, given the seconds of a step with each number."""
    chosen, *others = sorted(seconds)
    for number in others:
        if seconds[number] < CLEARLY_FASTER * seconds[chosen]:
            chosen = number
    return chosen


def settle_by_time(step: Callable[[], object], most: int) -> str:
    """Set the number of threads, of 1 to `most`, by the time of `step` with each; returns a line on the choice."""
    seconds = time_threads(step, candidates(most))
    chosen = choose_threads(seconds)
    torch.set_num_threads(chosen)
    timed = ", ".join(f"{number}: {value:.2g} s" for number, value in sorted(seconds.items()))
    number = f"{chosen} thread{'s' * (chosen > 1)}"
    return f"computing with {number}, by the time of a step with each number ({timed}); OMP_NUM_THREADS overrides"


def wait_until_idle(limit: float = 5.0) -> bool:
    """Wait until every other thread of this process waits for something, at most `limit` seconds; whether they do.

    Where the system does not list the threads of a process, in /proc, a tenth of a second passes.
    """
    own, tasks, end = str(threading.get_native_id()), "/proc/self/task", time.monotonic() + limit
    if not os.path.isdir(tasks):
        time.sleep(0.1)
        return True
    while time.monotonic() < end:
        time.sleep(0.001)  # without Python's lock, which such a thread may need to go on
        if not any(_is_running(os.path.join(tasks, task, "stat")) for task in os.listdir(tasks) if task != own):
            return True
    return False


def _is_running(stat: str) -> bool:
    """Whether a thread runs or is ready to: in its file in /proc the state follows the name in brackets (proc(5))."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "R"
    except OSError:  # the thread has ended
        return False
