"""Sampling speed in masks per second: the published code's way, diffusers, and this project.

    python benchmarks/sampling.py --out benchmarks/results/sampling_cpu.json
    python benchmarks/sampling.py --amp bf16 --compile --batches 1,16,64,128 --out benchmarks/results/sampling_gpu.json

The published code draws one mask at a time through every timestep; the rows for diffusers use its U-Net and solver and
are omitted if it is not installed (pip install diffusers). The network is that of the paper's README at 128x128, with
random weights. In each round, every variant is timed once; times are medians over the rounds, and ratios are medians of
the ratios within a round. A variant runs --calls full steps (network call, noise, update); their mean time is scaled to
the length of the chain.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from machine import machine_name
from running import write_json
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion import script_util
from guided_diffusion.flags import command_line
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.flags.presets import FAST
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS
from guided_diffusion.nn import seeded_generator
from guided_diffusion.sampling.samplers import SamplerConfig, sample
from guided_diffusion.system.device import ComputeConfig, compile_model, peak_memory, prepare, reset_peak_memory

PLAIN = ("as published", "plain eager")  # names of the variants that do not use this project
TITLES = (
    "",
    "batch size",
    "calls",
    "ms per call",
    "TFLOP/s",
    "share",
    "masks/s",
    "times plain eager call",
    "times published",
    "GB beside the weights",
)


@config()
class BenchmarkConfig:
    batches: Annotated[tuple[int, ...], Flag("batch sizes")] = (1, 4)
    rounds: Annotated[int, Flag("rounds of measurement")] = 3
    calls: Annotated[
        int | None,
        Flag("steps per variant and round, one network call each; default: 20 on a GPU, 2 on a CPU", none="auto"),
    ] = None
    amp: Annotated[str, Flag("precision of the networks of diffusers and of this project: none or bf16")] = "none"
    compile: Annotated[bool, Flag("add rows with --compile")] = False
    image_size: Annotated[
        int, Flag("side of the images, pixels; other values than 128 are for tests of this script")
    ] = 128
    num_channels: Annotated[int, Flag("U-Net channels; other values than 128 are for tests of this script")] = 128
    out: Annotated[str, Flag("JSON file for the results")] = ""


def build(config, device):
    """The segmenter of the paper's README with random weights, all non-zero."""
    flags = {**PRESETS["cimd"], "image_size": config.image_size, "num_channels": config.num_channels}
    if config.image_size != 128:
        flags["channel_mult"] = (1, 1, 2, 3, 4)
    torch.manual_seed(0)
    segmenter = script_util.create_segmenter(configs_from_flags(flags, *MODEL_CONFIGS)).eval()
    for p in segmenter.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.02)
    return segmenter.to(device)


# -- variants: functions that draw `batch` masks in `calls` network calls ----------------------------------------------


def published(config, device, batch):
    """float32, eager, every timestep: `batch` is 1 in the published code."""
    segmenter = build(config, device).spaced(SamplerConfig(steps=config.calls))
    image = torch.rand(batch, 4, config.image_size, config.image_size, device=device)
    return lambda: sample(segmenter.denoiser(image), segmenter.diffusion, torch.randn_like(image[:, :1]))


def ours(config, device, batch, compiled=False):
    sampler = SamplerConfig(**{**FAST, "steps": config.calls})
    segmenter = build(config, device).spaced(sampler)
    prepare(segmenter.eval(), ComputeConfig(config.amp), device)
    if compiled:
        compile_model(segmenter)
    image = torch.rand(batch, 4, config.image_size, config.image_size, device=device)
    generators = [seeded_generator(k) for k in range(batch)]
    return torch.inference_mode()(lambda: segmenter.sample_masks(image, generators, sampler))


def diffusers_unet(config, device, batch):
    """UNet2DModel of the same widths, depth and attention, with second-order DPM-Solver++."""
    import diffusers

    widths = tuple(config.num_channels * m for m in (1, 1, 2, 3, 4))
    attends = [config.image_size // 2**level == 16 for level in range(5)]
    unet = (
        diffusers.UNet2DModel(
            sample_size=config.image_size,
            in_channels=5,
            out_channels=2,
            layers_per_block=2,
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]),
            attention_head_dim=None,
        )
        .eval()
        .to(device, memory_format=torch.channels_last)
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", final_sigmas_type="zero")
    image = torch.rand(batch, 4, config.image_size, config.image_size, device=device)

    @torch.inference_mode()
    def draw():
        scheduler.set_timesteps(config.calls, device=device)
        x = torch.randn_like(image[:, :1])
        for t in scheduler.timesteps:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.amp == "bf16"):
                output = unet(torch.cat([image, x], dim=1), t).sample[:, :1]
            x = scheduler.step(output.float(), t, x).prev_sample
        return x

    return draw


class Variant(NamedTuple):
    """A way of drawing masks."""

    name: str
    batch: int  # masks at a time
    steps: int  # of the whole chain
    draw: Callable[[], object]


def variants(config, device):
    """All variants; the first one represents the published code."""
    rows = [Variant("as published", 1, 1000, published(config, device, 1))]
    for batch in config.batches:
        if batch > 1:  # with one mask, this is the first row
            rows.append(Variant("plain eager", batch, 1000, published(config, device, batch)))
        if importlib.util.find_spec("diffusers"):
            rows.append(Variant("diffusers", batch, FAST["steps"], diffusers_unet(config, device, batch)))
        rows.append(Variant("this project", batch, FAST["steps"], ours(config, device, batch)))
        if config.compile:
            draw = ours(config, device, batch, compiled=True)
            rows.append(Variant("this project, --compile", batch, FAST["steps"], draw))
    return rows


# -- measuring --------------------------------------------------------------------------------------------------------


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device):
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def flop_of_call(config):
    """Floating-point operations of one network call for one mask; a multiplication and an addition are two."""
    segmenter = build(config, "cpu")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        segmenter.model(torch.zeros(1, 5, config.image_size, config.image_size), torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops()


def matrix_products(dtype, device):
    """(function, its number of operations): a square matrix product large enough for the machine's full rate."""
    side = 8192 if torch.device(device).type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return (lambda: a @ b), 2 * side**3


class Timing(NamedTuple):
    """The measurements of a variant."""

    variant: Variant
    seconds: list[float]  # of a call, for each round
    peak: int  # bytes beside the weights


def measure(config, device):
    """The results of all variants."""
    product, product_flop = matrix_products(torch.bfloat16 if config.amp == "bf16" else torch.float32, device)
    flop = flop_of_call(config)
    timings, product_times = [], []
    for variant in variants(config, device):  # compiles, chooses kernels; shows the memory
        reset_peak_memory(device)
        held = peak_memory(device)  # the networks of all variants
        variant.draw()
        timings.append(Timing(variant, [], peak_memory(device) - held))
    for _ in range(config.rounds):
        product_times.append(seconds(product, device))
        for variant, times, _ in timings:
            times.append(seconds(variant.draw, device) / config.calls)
    rate = product_flop / statistics.median(product_times)
    return {
        "machine": machine_name(device),
        "amp": config.amp,
        "gflop_per_call": flop / 1e9,
        "matrix_product_tflops": rate / 1e12,
        "rounds": config.rounds,
        "calls": config.calls,
        "rows": [figures_of(timing, timings, flop, rate) for timing in timings],
    }


def figures_of(timing, timings, flop, rate):
    """The row of one of `timings`; a network call has `flop` operations, and the machine does `rate` per second."""
    (_, batch, steps, _), times, peak = timing
    published = timings[0].seconds
    plain = next(t.seconds for t in timings if t.variant.name in PLAIN and t.variant.batch == batch)
    call = statistics.median(times)
    speedup = [1000 * first / (steps * own / batch) for first, own in zip(published, times, strict=True)]
    return {
        "name": timing.variant.name,
        "batch": batch,
        "steps": steps,
        "ms_per_call": 1000 * call,
        "masks_per_second": batch / (steps * call),
        "tflops": batch * flop / call / 1e12,
        "share_of_matrix_products": batch * flop / call / rate,
        "times_published": statistics.median(speedup),
        "peak_memory_gb": peak / 1e9,  # beside the weights
        "per_call_times_plain": statistics.median(eager / own for eager, own in zip(plain, times, strict=True)),
        "seconds": times,
    }


def main():
    with command_line.one_line_errors("benchmarks/sampling.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = replace(config, calls=config.calls or (FAST["steps"] if device == "cuda" else 2))
        result = measure(config, device)
        products = f"matrix products {result['matrix_product_tflops']:.3f} TFLOP/s"
        print(f"{result['machine']}; {result['gflop_per_call']:.1f} GFLOP per call; {products}")
        print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
        for row in result["rows"]:
            print(
                f"| {row['name']} | {row['batch']} | {row['steps']} | {row['ms_per_call']:.0f} | {row['tflops']:.3f} | "
                f"{100 * row['share_of_matrix_products']:.0f} % | {row['masks_per_second']:.4g} | "
                f"{row['per_call_times_plain']:.2f} | {row['times_published']:.1f} | {row['peak_memory_gb']:.1f} |"
            )
        write_json(config.out, result)


if __name__ == "__main__":
    main()
