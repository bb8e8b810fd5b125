"""Trains the preset `tuned` at 128x128 on phantoms, and measures the GED of its masks.

    python benchmarks/gpu_tuned.py --work results/gpu_tuned --out benchmarks/results/gpu_tuned.json

Generates the phantoms first. A short training measures the speed; the number of steps, and the annealing of the
learning rate, are chosen to fit into --train_seconds. Then 100 masks are drawn for each of 20 other phantoms, and the
first 16 and all 100 are scored. Intermediate results are written after each stage. With --dry_run, everything is small
and runs on the CPU.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated

import torch
from machine import machine_name
from running import run

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.logger import read_rows
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.system.workers import usable_cores

FIGURES = ("ged", "ged_unbiased_excess", "mode_tv", "hm_iou", "max_dice", "diversity")
SHARD = 25  # phantoms that a process makes at a time
DRY = {  # in place of the preset's
    "image_size": 32,
    "channel_mult": "1,1,2",
    "num_channels": 32,
    "feature_channels": 16,
    "batch_size": 8,
    "attention_resolutions": "8",
    "denoiser_mult": "1,1",
    "steps": 2,
    "lr_warmup_steps": 1,
}


@config()
class TunedConfig:
    work: Annotated[str, Flag("folder for the phantoms, the run and the samples, new or empty")] = "results/gpu_tuned"
    cases: Annotated[int, Flag("phantoms to train on")] = 1500
    test_cases: Annotated[int, Flag("phantoms to sample")] = 20
    num_ensemble: Annotated[int, Flag("masks per phantom")] = 100
    counts: Annotated[tuple[int, ...], Flag("numbers of masks to score")] = (16, 100)
    train_seconds: Annotated[int, Flag("training time, seconds")] = 240
    probe_steps: Annotated[int, Flag("steps of the speed measurement")] = 200
    amp: Annotated[str, Flag("precision of the network")] = "bf16"
    dry_run: Annotated[bool, Flag("small sizes on the CPU, two steps")] = False
    out: Annotated[str, Flag("JSON file for the results")] = ""


def small(config):
    """The config with the values of --dry_run."""
    return TunedConfig(config.work, 8, 2, 4, (2, 4), 0, 2, "none", True, config.out)


def check(config):
    """ConfigError: the flags are invalid, or there is no GPU."""
    if os.path.isdir(config.work) and os.listdir(config.work):
        raise ConfigError(f"--work {config.work} is not empty: use a new folder")
    if not config.dry_run and not torch.cuda.is_available():
        raise ConfigError("no GPU is visible to PyTorch: use a machine with a GPU, or --dry_run")
    for name in ("cases", "test_cases", "num_ensemble", "train_seconds"):
        if getattr(config, name) < (0 if config.dry_run else 1):
            raise ConfigError(f"--{name} {getattr(config, name)}: must be at least 1")


def make_shard(folder, count, seed, size):
    phantom.write_set(folder, num_cases=count, seed=seed, size=size, num_raters=4)


def make_phantoms(config, size):
    """Generate the folders of training and test cases, on all cores."""
    training = os.path.join(config.work, "training")
    shards = [(k, min(SHARD, config.cases - k)) for k in range(0, config.cases, SHARD)]
    with ProcessPoolExecutor(usable_cores()) as pool:
        done = [
            pool.submit(make_shard, os.path.join(training, f"shard{k:05d}"), count, 100 + k, size)
            for k, count in shards
        ]
        for future in done:
            future.result()
    phantom.write_set(os.path.join(config.work, "testing"), config.test_cases, seed=7, size=size, num_raters=8)


def train(config, name, steps, log_interval):
    """Train for `steps` steps; returns the rows of the log."""
    folder = os.path.join(config.work, name)
    flags = {
        **(DRY if config.dry_run else {}),
        "data_dir": os.path.join(config.work, "training"),
        "log_dir": folder,
        "cache_dir": os.path.join(config.work, "cache"),
        "iterations": steps,
        "lr_anneal_steps": steps,
        "log_interval": log_interval,
        "amp": config.amp,
    }
    run("segmentation_train", "--preset=tuned", *as_arguments(flags))
    return read_rows(os.path.join(folder, "progress.csv"))


def score(config):
    """Sample and score; returns {"ged_16": {"mean", "low", "high"}, ...} and the seconds of sampling."""
    data, out = os.path.join(config.work, "testing"), os.path.join(config.work, "samples")
    model = os.path.join(config.work, "run", "savedmodel.pt")
    masks = ("--num_ensemble", config.num_ensemble, "--batch_size", min(128, config.num_ensemble), "--amp", config.amp)
    began = time.monotonic()
    run("segmentation_sample", "--data_dir", data, "--model_path", model, "--out_dir", out, *masks)
    seconds = time.monotonic() - began
    scored = (
        "--counts",
        ",".join(map(str, config.counts)),
        "--truth",
        os.path.join(data, "truth.json"),
        "--report=False",
    )
    run("segmentation_evaluate", "--data_dir", data, "--samples", out, *scored)
    with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
        figures = json.load(file)["figures"]
    kept = {f"{name}_{count}": figures[f"{name}_{count}"] for name in FIGURES for count in config.counts}
    return {"sampling_seconds": seconds, "masks": config.test_cases * config.num_ensemble, "figures": kept}


def measure(config, report):
    """Run all stages, add their results to `report`, and yield after each."""
    size = DRY["image_size"] if config.dry_run else PRESETS["tuned"]["image_size"]
    batch = DRY["batch_size"] if config.dry_run else PRESETS["tuned"]["batch_size"]
    began = time.monotonic()
    make_phantoms(config, size)
    report |= {"cases": config.cases, "phantom_seconds": time.monotonic() - began}
    yield
    rows = train(config, "speed", config.probe_steps, max(1, config.probe_steps // 2))
    speed = float(rows[-1]["samples_per_second"]) / batch
    report |= {"steps_per_second": speed, "steps": max(config.probe_steps, round(speed * config.train_seconds))}
    yield
    began = time.monotonic()
    rows = train(config, "run", report["steps"], max(1, report["steps"] // 20))
    report |= {
        "training_seconds": time.monotonic() - began,
        "loss": float(rows[-1]["loss"]),
        "memory_gb": float(rows[-1]["memory_gb"]),
    }
    yield
    report |= score(config)
    yield


def main():
    with command_line.one_line_errors("benchmarks/gpu_tuned.py"):
        config = command_line.parse_command_line((TunedConfig,), __doc__)[TunedConfig]
        check(config)
        if config.dry_run:
            os.environ["CUDA_VISIBLE_DEVICES"], config = "", small(config)
        report = {
            "machine": machine_name("cpu" if config.dry_run else "cuda"),
            "amp": config.amp,
            "dry_run": config.dry_run,
        }
        for _ in measure(config, report):
            print(json.dumps(report), flush=True)
            if config.out:
                with open(config.out, "w", encoding="utf-8") as file:
                    file.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
