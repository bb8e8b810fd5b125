"""scripts/segmentation_sample.py with all its output, compared with the sampling loop alone."""

import contextlib
import os
import re
import time
from dataclasses import asdict
from unittest import mock

import torch
from sampling import build

from guided_diffusion.checkpoints.format import FORMAT, VERSION
from guided_diffusion.commands import sample
from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags.configs import default_flags, json_like
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling.samplers import SamplerConfig

from ..networks import phantoms, readme_config, readme_flags
from ..record import require
from ..scripts import call_script
from ..timing import synchronize


def save_checkpoint(settings):
    """Write a checkpoint of the network of the paper's README with random weights; returns its path."""
    flags = {**default_flags(DataConfig, SamplerConfig, *MODEL_CONFIGS), **json_like(readme_flags(settings))}
    path = settings.folder("random.pt")
    weights = build(readme_config(settings), "cpu").state_dict()
    state = {
        "format": FORMAT,
        "version": VERSION,
        "step": 0,
        "samples": 0,
        "flags": flags,
        "weights": weights,
        "ema": {},
    }
    torch.save(state, path)
    return path


@contextlib.contextmanager
def observed(report, device):
    """Context in which the sampling loop is warmed up before it starts.

    report  receives "began", the clock at its start, and "alone", which repeats the sampling without writing
    """
    original = sample.draw_ensembles

    def drawing(segmenter, dataset, indices, config, sampler, *more, **named):
        def alone(some, **quiet):
            return sum(
                1 for _ in original(segmenter, dataset, some, config, sampler, even=named.get("even", False), **quiet)
            )

        alone(indices[: max(1, min(len(indices), config.batch_size // config.num_ensemble))])
        synchronize(device)
        report["alone"] = lambda: alone(indices)
        report["began"] = time.perf_counter()
        yield from original(segmenter, dataset, indices, config, sampler, *more, **named)

    with mock.patch.object(sample, "draw_ensembles", drawing):
        yield


def measure(add, settings, data, model, name, *flags):
    """Masks per second of the script including output, and of its loop alone."""
    sizes, report, out = settings.sizes, {}, settings.folder(f"samples_{name}")
    amount = ("--num_ensemble", sizes.masks_per_case, "--num_samples", sizes.cases)
    steps = [
        f"--{flag}={value}"
        for flag, value in asdict(SamplerConfig("dpm++", sizes.calls, "linear", 1.0)).items()
        if flag in ("sampler", "steps", "spacing", "eta")
    ]
    with observed(report, settings.device):
        text = call_script(
            "segmentation_sample",
            "--data_dir",
            data,
            "--model_path",
            model,
            "--out_dir",
            out,
            *amount,
            *steps,
            f"--amp={settings.amp}",
            *flags,
        )
    seconds = time.perf_counter() - report["began"]
    began = time.perf_counter()
    report["alone"]()
    alone = time.perf_counter() - began
    masks, written = sizes.cases * sizes.masks_per_case, len(os.listdir(out))
    at_a_time = re.search(r"(\d+) masks at a time", text)
    add(
        masks=masks,
        masks_at_a_time=int(at_a_time[1]) if at_a_time else None,
        files=written,
        masks_per_second=masks / seconds,
        masks_per_second_of_loop_alone=masks / alone,
        share_of_loop_alone=alone / seconds,
    )
    require(written >= sizes.cases * (2 + sizes.masks_per_case), f"{written} files were written")


def run(record, settings):
    sizes = settings.sizes
    data = phantoms(settings, "sample_cases", sizes.cases, sizes.image_size)
    model = save_checkpoint(settings)
    in_flight = ("--batch_size", max(2, sizes.masks // 4))
    with record.part("eager") as add:
        measure(add, settings, data, model, "eager", *in_flight)
    with record.part("batch_size_auto") as add:
        measure(add, settings, data, model, "auto", "--batch_size=auto")
    with record.part("compiled") as add:
        require("sample_many" in settings.compiled, "it was not compiled in time")
        measure(
            add,
            settings,
            data,
            model,
            "compiled",
            "--batch_size",
            sizes.masks,
            *(() if settings.dry_run else ("--compile",)),
        )
