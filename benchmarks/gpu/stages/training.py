"""Training steps with the flags of the paper's README: published loop; this project eager and compiled; memory."""

import gc
import statistics

import torch
import training as benchmark

from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.system.device import allow_tf32

from .. import rates
from ..networks import flop_of_call, phantoms
from ..record import require
from ..timing import device_and_host_ms, free_cache, is_cuda, synchronize, times
from ..trace import profile_of

PROFILED = 2  # steps


def phantom_dataset(settings, folder):
    """The cases of a folder as the loops read them."""
    return LIDCDataset(folder, settings.sizes.image_size, 4, cache_dir=settings.folder("cache"))


def config_of(settings, amp, compiled=False):
    """BenchmarkConfig of a loop. `compiled` has no effect in a dry run."""
    sizes = settings.sizes
    return benchmark.BenchmarkConfig(
        batch_size=sizes.train_batch,
        amp=amp,
        compile=compiled and not settings.dry_run,
        image_size=sizes.image_size,
        num_channels=sizes.num_channels,
    )


def build_plain(settings, dataset, folder):
    """A step of the published loop, in strict float32."""
    allow_tf32(False)
    return benchmark.plain_loop(config_of(settings, "none"), torch.device(settings.device), dataset, folder)


def build_ours(settings, dataset, folder, compiled=False):
    """A step of this project's trainer."""
    return benchmark.our_loop(
        config_of(settings, settings.amp, compiled), torch.device(settings.device), dataset, folder
    )


def held_gb(device):
    return torch.cuda.memory_allocated(device) / 1e9 if is_cuda(device) else 0.0


def measure(add, settings, build, precision, steps):
    """Time `steps` steps of a loop, singly and consecutively; returns the step and its median in milliseconds."""
    device, batch = settings.device, settings.sizes.train_batch
    gc.collect()
    free_cache(device)
    held = held_gb(device)
    step = build()
    for _ in range(2):
        step()
    synchronize(device)
    if is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)
    ms = times(step, device, steps, warm_ups=1)
    median = statistics.median(ms)
    add(precision=precision, ms=median, slowest_ms=max(ms), images_per_second=1000 * batch / median, steps=steps)
    add(**rates.compute_rate(3 * batch * flop_of_call(settings), median, precision, settings.out))
    row = device_and_host_ms(lambda: [step() for _ in range(steps)], device)
    add(**{f"{name}_a_step": value / steps for name, value in row.items()})
    if is_cuda(device):
        add(
            peak_gb=torch.cuda.max_memory_allocated(device) / 1e9 - held,
            reserved_gb=torch.cuda.max_memory_reserved(device) / 1e9,
        )
    return step, median


def add_profile(add, settings, step, median):
    """Profile two steps."""
    step()
    report = profile_of(lambda: [step() for _ in range(PROFILED)], settings.device, PROFILED, median)
    add(profile=report)


def run(record, settings):
    dataset = phantom_dataset(
        settings, phantoms(settings, "train_cases", settings.sizes.train_batch, settings.sizes.image_size)
    )
    few, many = settings.sizes.rounds + 1, settings.sizes.train_steps
    medians = {}
    with record.part("eager") as add:
        step, medians["eager"] = measure(
            add, settings, lambda: build_ours(settings, dataset, settings.folder("eager")), settings.precision, many
        )
        add_profile(add, settings, step, medians["eager"])
    step = None  # the memory of a loop is freed before the next one is built
    with record.part("compiled") as add:
        require("train" in settings.compiled, "it was not compiled in time")
        step, medians["compiled"] = measure(
            add,
            settings,
            lambda: build_ours(settings, dataset, settings.folder("compiled"), True),
            settings.precision,
            many,
        )
        add_profile(add, settings, step, medians["compiled"])
    step = None
    with record.part("published") as add:
        _, medians["published"] = measure(
            add, settings, lambda: build_plain(settings, dataset, settings.folder("plain")), "float32", few
        )
    for name in ("eager", "compiled"):
        if {name, "published"} <= medians.keys():
            record.add(**{f"{name}_times_published": medians["published"] / medians[name]})
