"""The networks of the paper's README used by the stages, with random weights, all non-zero."""

import functools
from dataclasses import replace

import sampling as benchmark
import torch
from sampling import BenchmarkConfig, build

from guided_diffusion.flags.presets import FAST
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.nn import seeded_generator
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.system.device import ComputeConfig, compile_model, prepare


def readme_config(settings):
    """BenchmarkConfig of the network."""
    return BenchmarkConfig(image_size=settings.sizes.image_size, num_channels=settings.sizes.num_channels)


def readme_flags(settings):
    """The flags of the network in benchmarks/sampling.py, {name: value}."""
    flags = {**PRESETS["cimd"], "image_size": settings.sizes.image_size, "num_channels": settings.sizes.num_channels}
    return flags if settings.sizes.image_size == 128 else {**flags, "channel_mult": (1, 1, 2, 3, 4)}


def sampling_network(settings, amp, compiled=False):
    """(segmenter ready to sample in `amp`, SamplerConfig), of --fast. `compiled` has no effect in a dry run."""
    sampler = SamplerConfig(**{**FAST, "steps": settings.sizes.calls})
    segmenter = build(readme_config(settings), "cpu").spaced(sampler)
    prepare(segmenter.eval(), ComputeConfig(amp), settings.device)
    if compiled and not settings.dry_run:
        compile_model(segmenter)
    return segmenter, sampler


def images(settings, count, seed=0, device=None):
    """Random images [count, 4, H, W] in [0, 1], the same on every device."""
    side = settings.sizes.image_size
    drawn = torch.rand(count, 4, side, side, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device or settings.device)


@torch.inference_mode()
def draw(segmenter, sampler, image, seed=0):
    """Soft masks [B, 1, H, W] of images [B, C, H, W], from newly seeded generators."""
    return segmenter.sample_masks(image, [seeded_generator(seed, k) for k in range(len(image))], sampler)


def warm_up(segmenter, sampler, image):
    """Warm up with a short chain: loads, selects, compiles and records kernels."""
    short = replace(sampler, steps=min(4, sampler.steps))
    draw(segmenter.spaced(short), short, image)


@functools.cache
def flop_of_call(settings):
    """Floating-point operations of one call of the network for one mask; a multiplication and an addition are two."""
    return benchmark.flop_of_call(readme_config(settings))


def phantoms(settings, name, count, size, raters=4):
    """A folder of phantom cases, written on first use."""
    folder = settings.folder(name)
    phantom.write_set(folder, num_cases=count, seed=len(name), size=size, num_raters=raters)
    return folder
