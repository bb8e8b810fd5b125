r"""The tuned preset in 10 network calls against the paper's objective in 1000, trained for the same time.

    python scripts/make_phantom.py --out results/against64/training --num_cases 1500 --size 64 --seed 11
    python scripts/make_phantom.py --out results/against64/testing --num_cases 8 --size 64 --seed 13
    python benchmarks/against_cimd.py --work results/against64 --image_size 64 \
        --out benchmarks/results/against_cimd64_cpu.json

Both train in parallel, each on one core. The number of steps follows from the training time and a speed measured
beforehand; each uses a learning rate suited to such a short training. Then both sample on all cores. Rerun the command
to resume.
"""

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
from ablations import TUNED
from machine import machine_name
from running import run, write_json

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.compare.table import training_of
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.logger import read_rows
from guided_diffusion.system.workers import usable_cores

FIGURES = ("ged", "ged_unbiased_excess", "mode_tv", "hm_iou", "max_dice", "diversity")
DRAWS = 10_000  # of cases, for an interval
PROBE_STEPS = 120  # by whose second half the speed is measured

METHODS = {
    "tuned": {**TUNED, "batch_size": 16, "steps": 10},
    "cimd": {  # the demo's network, and encoders that are small too
        "preset": "demo",
        "predict_xstart": False,
        "learn_sigma": True,
        "mask_low": 0,
        "noise_schedule": "linear",
        "augment": "flip+rotate",
        "batch_size": 8,
        "lr": 1e-3,
        "sampler": "ddpm",
        "steps": 1000,
    },
}


@config()
class AgainstConfig:
    work: Annotated[str, Flag("folder with training/ and testing/; runs are written here")] = "results/against_cimd"
    image_size: Annotated[int, Flag("side of the cases, a multiple of 4")] = 24
    minutes: Annotated[tuple[int, ...], Flag("training minutes on one core; one run per value")] = (20,)
    num_ensemble: Annotated[int, Flag("masks per case")] = 16
    out: Annotated[str, Flag("JSON file for the results")] = ""


def train(config, method, name, steps):
    """Train to `steps` steps in total, or resume; returns the folder."""
    folder = os.path.join(config.work, f"{method}-{name}")
    data = ("--data_dir", os.path.join(config.work, "training"), "--log_dir", folder)
    lengths = [f"--{name}={steps}" for name in ("iterations", "lr_anneal_steps", "save_interval")]
    lengths.append(f"--log_interval={min(100, PROBE_STEPS // 2)}")
    size = {"image_size": config.image_size, "attention_resolutions": config.image_size // 4}
    run("segmentation_train", *as_arguments({**METHODS[method], **size}), *data, *lengths, threads=1)
    return folder


def speed(config, method):
    """Steps per minute."""
    rows = read_rows(os.path.join(train(config, method, "speed", PROBE_STEPS), "progress.csv"))
    return 60 * float(rows[-1]["samples_per_second"]) / METHODS[method]["batch_size"]


def sample(config, folder):
    data = ("--data_dir", os.path.join(config.work, "testing"), "--out_dir", os.path.join(folder, "samples"))
    model = f"--model_path={os.path.join(folder, 'savedmodel.pt')}"
    ensemble = (f"--num_ensemble={config.num_ensemble}", "--batch_size=16")
    run("segmentation_sample", *data, model, *ensemble, processes=usable_cores())


def ratio_of_means(path, tuned, cimd, name):
    """{"mean", "low", "high"}: ratio of a metric's means in two folders, with its 95 % interval.

    The interval is a bootstrap over the cases.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    a, b = (np.array([float(row[name]) for row in rows if row["samples"] == folder]) for folder in (tuned, cimd))
    drawn = np.random.default_rng(0).integers(len(a), size=(DRAWS, len(a)))
    low, high = np.quantile(a[drawn].mean(1) / b[drawn].mean(1), (0.025, 0.975))
    return {"mean": a.mean() / b.mean(), "low": low, "high": high}


def compare(config, folders):
    """Score the samples: the metrics of each method, their differences, and the ratio of the GEDs.

    A method's entry is {"training_seconds", metric: {"mean", ...}}.
    """
    tuned, cimd = (os.path.join(folders[method], "samples") for method in ("tuned", "cimd"))
    data = os.path.join(config.work, "testing")
    scored = (f"--data_dir={data}", f"--samples={tuned}", f"--compare={cimd}")
    run("segmentation_evaluate", *scored, f"--truth={os.path.join(data, 'truth.json')}", "--report=False")
    with open(os.path.join(tuned, "metrics.json"), encoding="utf-8") as file:
        scores = json.load(file)
    names = [f"{figure}_{config.num_ensemble}" for figure in FIGURES]
    parts = {"tuned": scores, "cimd": scores["compared"][0]}
    row = {method: {name: parts[method]["figures"][name] for name in names} for method in parts}
    for method, folder in folders.items():
        row[method]["training_seconds"] = training_of(folder)["training_seconds"]
    ged = names[0]
    ratio = ratio_of_means(os.path.join(tuned, "metrics.csv"), tuned, cimd, ged)
    return {"ratio": ratio, **row, "cimd_less_tuned": parts["cimd"]["differences"][ged]}


def measure(config, minutes, speeds, pool):
    """Train both in parallel, each on one core, and compare them."""
    steps = {method: round(minutes * speeds[method]) for method in METHODS}
    folders = dict(
        zip(METHODS, pool.map(lambda method: train(config, method, minutes, steps[method]), METHODS), strict=True)
    )
    for folder in folders.values():
        sample(config, folder)
    return {"minutes": minutes, "steps": steps, **compare(config, folders)}


def main():
    with command_line.one_line_errors("benchmarks/against_cimd.py"):
        config = command_line.parse_command_line((AgainstConfig,), __doc__)[AgainstConfig]
        rows = []
        with ThreadPoolExecutor(len(METHODS)) as pool:
            speeds = dict(zip(METHODS, pool.map(lambda method: speed(config, method), METHODS), strict=True))
            for minutes in config.minutes:
                rows.append(measure(config, minutes, speeds, pool))
                print(json.dumps(rows[-1]), flush=True)
        setting = {"image_size": config.image_size, "num_ensemble": config.num_ensemble, "methods": METHODS}
        write_json(config.out, {"machine": machine_name(), **setting, "rows": rows})


if __name__ == "__main__":
    main()
