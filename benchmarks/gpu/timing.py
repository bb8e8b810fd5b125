"""Time and memory of work on a device, with CUDA events on a GPU and wall time on a CPU."""

import itertools
import math
import statistics
import time

import torch

LARGEST_SETS = 8  # of alternating inputs


def is_cuda(device):
    return torch.device(device).type == "cuda"


def synchronize(device):
    """Wait until the device has nothing left to do."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


class Mark:
    """Mark a point in the device's work; the time between two marks is available once the second is reached."""

    def __init__(self, device):
        self.event = torch.cuda.Event(enable_timing=True) if is_cuda(device) else None
        if self.event:
            self.event.record()
        self.at = time.perf_counter()

    def ms_until(self, later):
        return self.event.elapsed_time(later.event) if self.event else 1000 * (later.at - self.at)


def times(function, device, repeats, sets=((),), warm_ups=2):
    """Milliseconds of each of `repeats` consecutive calls, without synchronisation between them.

    sets      arguments of the calls, which alternate so that inputs do not stay in the cache
    warm_ups  preceding calls that are not timed, to load and select kernels
    """
    for k in range(warm_ups):
        function(*sets[k % len(sets)])
    synchronize(device)
    marks = [Mark(device)]
    for k in range(repeats):
        function(*sets[k % len(sets)])
        marks.append(Mark(device))
    synchronize(device)
    return [start.ms_until(end) for start, end in itertools.pairwise(marks)]


def median_ms(function, device, repeats, sets=((),), warm_ups=2):
    """The median of `times`."""
    return statistics.median(times(function, device, repeats, sets, warm_ups))


def device_and_host_ms(function, device):
    """{"device_ms", "issue_ms", "host_ms"} of one call.

    device_ms is from its first kernel to its last, issue_ms until it returns, host_ms until its work is done.

    If issue_ms is close to device_ms, the host is the bottleneck: it cannot issue work faster than the device does it.
    """
    synchronize(device)
    began = time.perf_counter()
    start = Mark(device)
    function()
    end = Mark(device)
    issued = time.perf_counter()
    synchronize(device)
    done = time.perf_counter()
    return {"device_ms": start.ms_until(end), "issue_ms": 1000 * (issued - began), "host_ms": 1000 * (done - began)}


def sets_beyond_cache(make, device):
    """Enough results of make(), tuples of tensors, to fill the GPU's L2 cache three times; at most LARGEST_SETS."""
    first = make()
    size = sum(tensor.nbytes for tensor in first)
    cache = torch.cuda.get_device_properties(device).L2_cache_size if is_cuda(device) else size
    count = min(LARGEST_SETS, max(1, math.ceil(3 * cache / size)))
    return [first, *(make() for _ in range(count - 1))]


def free_cache(device):
    """Return the memory of deleted tensors to the device."""
    if is_cuda(device):
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
