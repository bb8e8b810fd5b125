r"""The same samples scored at the network's size and at the cases' own size.

    python benchmarks/own_size.py --real REAL/brain_growth/training --work results/own_size \
        --out benchmarks/results/own_size.json

Trains a small model on phantoms of 150x200 pixels and, with --real, one on two thirds of a folder of cases; every third
case is for testing. Each draws its masks once. Rerun the command to resume.
"""

import csv
import json
import os
from pathlib import Path
from typing import Annotated

from machine import machine_name
from PIL import Image
from running import run, write_json

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.evaluation.summary import mean_and_interval
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.prepare.phantoms import phantom

FIGURES = ("ged", "ged_of_majority", "rater_diversity", "hm_iou", "max_dice", "dice", "calibration", "area")
HEIGHT, WIDTH = 150, 200  # of the phantoms
SIZES = ("network", "own")
SMALL = {  # and as docs/comparison.md trains it on each kind of images
    "preset": "tuned",
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1,1",
    "denoiser_mult": "1,1",
    "attention_resolutions": 16,
    "batch_size": 8,
    "lr": 2e-3,
    "lr_warmup_steps": 50,
    "image_channels": 1,
    "encoder_guesses": 1,
    "save_interval": 100,
}
AUGMENT = {"phantoms": "flip+rotate", "real": "mirror+deform+contrast"}


@config()
class OwnSizeConfig:
    real: Annotated[str, Flag("folder of cases; empty: phantoms only")] = ""
    work: Annotated[str, Flag("folder for cases, models and samples")] = "results/own_size"
    image_size: Annotated[int, Flag("side of the network's images, pixels")] = 64
    iterations: Annotated[int, Flag("steps of training")] = 600
    num_ensemble: Annotated[int, Flag("masks per case")] = 16
    cases: Annotated[tuple[int, ...], Flag("phantoms for training and for testing")] = (400, 40)
    out: Annotated[str, Flag("JSON file for the results")] = ""


def write_phantoms(folder, count, seed):
    """Phantoms of HEIGHT x WIDTH pixels: the middle of square ones."""
    if folder.exists():
        return
    phantom.write_set(folder, count, seed, size=WIDTH)
    top = (WIDTH - HEIGHT) // 2
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            middle = picture.crop((0, top, WIDTH, top + HEIGHT))
        middle.save(path)


def split(source, folder):
    """Copies of the cases of a folder, every third for testing."""
    if not folder.exists():
        run("../benchmarks/crop_cases", "--data_dir", source, "--out", folder, "--test_every", 3)


def draw(config, folder):
    """Train on folder/training and draw masks for folder/testing; returns the folder of samples."""
    model, samples = folder / "model", folder / "samples"
    lengths = dict.fromkeys(("iterations", "lr_anneal_steps"), config.iterations)
    flags = {**SMALL, **lengths, "image_size": config.image_size, "augment": AUGMENT[folder.name]}
    data = ("--data_dir", folder / "training", "--log_dir", model)
    run("segmentation_train", *as_arguments(flags), *data, threads=1)
    run(
        *("segmentation_sample", "--data_dir", folder / "testing", "--model_path", model / "savedmodel.pt"),
        *("--out_dir", samples, f"--num_ensemble={config.num_ensemble}"),
        threads=1,
    )
    return samples


def score(folder, samples, size):
    """{case: {figure: value}} and the pixels at which a folder of samples is scored."""
    out = folder / f"scored_{size}"
    data = ("--data_dir", folder / "testing", "--samples", samples, "--out_dir", out, "--report=False")
    run("segmentation_evaluate", *data, f"--output_size={size}", threads=1)
    with open(out / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    values = {
        case: {
            name.rsplit("_", 1)[0] if name[-1].isdigit() else name: float(x) for name, x in row.items() if is_value(x)
        }
        for case, row in rows.items()
    }
    return values, json.loads((out / "metrics.json").read_text())["settings"]["pixels"]


def is_value(text):
    try:
        return float(text) is not None
    except ValueError:
        return False


def compare(folder, samples):
    """The figures at both sizes and their paired differences, with intervals."""
    scored = {size: score(folder, samples, size) for size in SIZES}
    (network, own), pixels = (scored[size][0] for size in SIZES), {size: scored[size][1] for size in SIZES}
    rows = {}
    for name in FIGURES:
        cases = [case for case in own if name in own[case] and name in network[case]]
        rows[name] = {
            "network": mean_and_interval([network[case][name] for case in cases]),
            "own": mean_and_interval([own[case][name] for case in cases]),
            "own - network": mean_and_interval([own[case][name] - network[case][name] for case in cases]),
        }
    return {"pixels": pixels, "cases": len(own), "figures": rows}


def main():
    with command_line.one_line_errors("benchmarks/own_size.py"):
        config = command_line.parse_command_line((OwnSizeConfig,), __doc__)[OwnSizeConfig]
        work, sets = Path(config.work), {}
        os.makedirs(work, exist_ok=True)
        for part, count, seed in zip(("training", "testing"), config.cases, (21, 22), strict=True):
            write_phantoms(work / "phantoms" / part, count, seed)
        if config.real:
            split(config.real, work / "real")
        for name in ("phantoms", "real") if config.real else ("phantoms",):
            sets[name] = compare(work / name, draw(config, work / name))
            print(name, sets[name]["pixels"])
            for figure, row in sets[name]["figures"].items():
                print(figure, *(f"{part['mean']:.4f} [{part['low']:.4f}, {part['high']:.4f}]" for part in row.values()))
        write_json(
            config.out,
            {
                "machine": machine_name(),
                "threads": 1,
                "image_size": config.image_size,
                "iterations": config.iterations,
                "num_ensemble": config.num_ensemble,
                "sets": sets,
            },
        )


if __name__ == "__main__":
    main()
