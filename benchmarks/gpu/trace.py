"""Device activity during some calls, by torch.profiler: kernels and idle time."""

import json
import os
import tempfile

from torch.profiler import ProfilerActivity, profile

from .rates import share
from .timing import is_cuda, synchronize

WORK = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}  # categories of a trace
TOP = 20  # kernels that are listed
NAME = 120  # characters of a kernel's name


def traced(function, device):
    """[(name, begin, end)] of the device's events while function() ran, in microseconds, sorted by begin.

    On a CPU, the events are PyTorch operations, including nested ones.
    """
    kind = "cuda" if is_cuda(device) else "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kind == "cuda" else [])]
    synchronize(device)
    with profile(activities=activities) as profiler:
        function()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path, encoding="utf-8", errors="replace") as file:
            events = json.load(file)["traceEvents"]
    found = [(e["name"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in WORK[kind] and "dur" in e]
    return sorted(found, key=lambda event: event[1])


def busy_time(events):
    """Microseconds during which at least one event runs."""
    busy, reached = 0.0, float("-inf")
    for _, begin, end in events:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return busy


def profile_of(function, device, calls, unprofiled_ms=None):
    """{"busy_ms", "span_ms", "idle_share", "kernels", "top"} of a function that makes `calls` calls.

    Times are per call.
    idle_share is relative to the span from the first kernel to the last, which the profiler itself lengthens;
    `idle_share_unprofiled` is relative to `unprofiled_ms`, the time per call without the profiler.
    """
    events = traced(function, device)
    if not events:
        return {"kernels": 0}
    busy, span = busy_time(events), max(end for _, _, end in events) - events[0][1]
    total = {}
    for name, begin, end in events:
        ms, count = total.get(name, (0.0, 0))
        total[name] = ms + (end - begin) / 1000, count + 1
    top = sorted(total.items(), key=lambda item: -item[1][0])[:TOP]
    report = {
        "busy_ms": busy / 1000 / calls,
        "span_ms": span / 1000 / calls,
        "idle_share": 1 - busy / span if span else None,
        "kernels": len(events) / calls,
        "profiled_calls": calls,
        "top": [
            {"name": name[:NAME], "ms": ms / calls, "count": count / calls, "share": share(1000 * ms, busy)}
            for name, (ms, count) in top
        ],
    }
    if unprofiled_ms:
        report["idle_share_unprofiled"] = 1 - report["busy_ms"] / unprofiled_ms
    return report


def kernel_names(function, device):
    """{name: count} of the device's events while function() ran."""
    counts = {}
    for name, *_ in traced(function, device):
        counts[name[:NAME]] = counts.get(name[:NAME], 0) + 1
    return counts
