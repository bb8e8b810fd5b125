"""Sampling with the flags of the paper's README and random weights: as published, eager, compiled; memory."""

import gc
import statistics
from functools import partial

import sampling as benchmark
import torch

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.presets import FAST
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.system.device import (
    MOST_IN_FLIGHT,
    allow_tf32,
    fitting_batch_size,
    free_memory,
    out_of_memory_as_error,
    peak_memory,
    reset_peak_memory,
)

from .. import rates
from ..compare import equal_pixels, relative_error
from ..networks import draw, flop_of_call, images, readme_config, sampling_network, warm_up
from ..record import require
from ..timing import device_and_host_ms, free_cache, is_cuda
from ..trace import profile_of

PROFILED = 2  # calls


def measure_chain(add, settings, function, masks, precision, rounds):
    """Time function(), a chain of `calls` calls for `masks` masks; returns the median per call in milliseconds."""
    device, calls = settings.device, settings.sizes.calls
    rows = [device_and_host_ms(function, device) for _ in range(rounds)]
    report = {name: statistics.median(row[name] for row in rows) / calls for name in rows[0]}
    add(
        precision=precision,
        **{f"{name}_a_call": value for name, value in report.items()},
        chains=rounds,
        calls=calls,
        host_ms_of_chains=[row["host_ms"] for row in rows],
    )
    add(**rates.compute_rate(masks * flop_of_call(settings), report["host_ms"], precision, settings.out))
    return report["host_ms"]


def published(add, settings):
    """One mask at a time in strict float32: some of the chain's 1000 calls, scaled to all of them."""
    allow_tf32(False)
    config = benchmark.BenchmarkConfig(**{**vars(readme_config(settings)), "calls": settings.sizes.calls})
    function = benchmark.published(config, settings.device, 1)
    function()
    ms = measure_chain(add, settings, function, 1, "float32", settings.sizes.rounds)
    add(masks_per_second=1000 / ms / PRESETS["cimd"]["diffusion_steps"])


def measure_ours(add, settings, network, masks):
    """Whole chains of --fast with (segmenter, SamplerConfig); returns the time per call in milliseconds."""
    segmenter, sampler = network
    image = images(settings, masks)
    reset_peak_memory(settings.device)
    warm_up(segmenter, sampler, image)
    ms = measure_chain(
        add, settings, lambda: draw(segmenter, sampler, image), masks, settings.precision, settings.sizes.rounds
    )
    add(masks=masks, masks_per_second=1000 * masks / ms / FAST["steps"], peak_gb=peak_memory(settings.device) / 1e9)
    short = segmenter.spaced(SamplerConfig(**{**FAST, "steps": PROFILED}))
    draw(short, sampler, image)
    add(profile=profile_of(lambda: draw(short, sampler, image), settings.device, PROFILED, ms))
    return ms


def compare_chains(add, settings, compiled, eager):
    """Equal seeds give bit-identical masks; compiled and eager masks are equal up to rounding."""
    image = images(settings, settings.sizes.masks, seed=1)
    first, second = (draw(*compiled, image, seed=1) for _ in range(2))
    add(equal_seeds_equal_bits=torch.equal(first, second))
    other = draw(*eager, image, seed=1)
    add(
        equal_pixels_compiled_and_eager=equal_pixels(first, other),
        relative_error_of_soft_masks=relative_error(first, other),
    )
    require(torch.equal(first, second), "two chains of equal seeds differ")


def out_of_memory(add, settings, network):
    """A call that runs out of memory gives a one-line error, and a later call with enough memory succeeds."""
    segmenter, sampler = network
    try:
        with out_of_memory_as_error(settings.device, "--batch_size is too much"):
            if is_cuda(settings.device):
                free_cache(settings.device)
                total = torch.cuda.get_device_properties(settings.device).total_memory
                torch.cuda.set_per_process_memory_fraction(
                    (torch.cuda.memory_allocated(settings.device) + 2**28) / total, settings.device
                )
                with torch.inference_mode():
                    segmenter.one_call(images(settings, settings.sizes.masks), sampler)
            else:
                torch.empty(2**60, dtype=torch.uint8)
        message = None
    except ConfigError as error:
        message = str(error)
    finally:
        if is_cuda(settings.device):
            torch.cuda.set_per_process_memory_fraction(1.0, settings.device)
    add(message=message)
    require(message and "out of memory" in message, "a call without enough memory did not fail")
    free_cache(settings.device)
    with torch.inference_mode():
        after = segmenter.one_call(images(settings, 2), sampler)
    require(torch.isfinite(after).all(), "the call after the error is not finite")


def automatic_batch(add, settings, network):
    """The batch size of --batch_size auto, and the memory of a call of that size."""
    segmenter, sampler = network
    device, shape = settings.device, images(settings, 1).shape[1:]
    free_cache(device)
    free = free_memory(device)
    most = MOST_IN_FLIGHT[torch.device(device).type]
    answer = fitting_batch_size(partial(segmenter.one_call, config=sampler), tuple(shape), device, most)
    add(answer=answer, free_gb=free / 1e9)
    reset_peak_memory(device)
    with torch.inference_mode():
        segmenter.one_call(images(settings, answer), sampler)
    add(peak_gb=peak_memory(device) / 1e9)


def run(record, settings):
    many, eager, compiled = settings.sizes.masks, None, None
    with record.part("published") as add:
        published(add, settings)
    with record.part("eager") as add:
        eager = sampling_network(settings, settings.amp)
        ms = measure_ours(add, settings, eager, many)
    with record.part("batch_size_auto") as add:
        require(eager, "there is no network to query")
        automatic_batch(add, settings, eager)
    with record.part("out_of_memory") as add:
        require(eager, "there is no network to call")
        out_of_memory(add, settings, eager)
    with record.part("compiled") as add:
        require("sample_many" in settings.compiled, "it was not compiled in time")
        compiled = sampling_network(settings, settings.amp, compiled=True)
        faster = measure_ours(add, settings, compiled, many)
        add(times_eager=ms / faster)
    with record.part("chains") as add:
        require(eager and compiled, "there are no two networks to compare")
        compare_chains(add, settings, compiled, eager)
    gc.collect()
    with record.part("compiled_one") as add:
        require("sample_one" in settings.compiled, "it was not compiled in time")
        measure_ours(add, settings, sampling_network(settings, settings.amp, compiled=True), 1)
