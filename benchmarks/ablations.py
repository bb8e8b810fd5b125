r"""Ablations: one change at a time from a base setting, on phantoms with a known truth.

    python scripts/make_phantom.py --out results/ablations/training --num_cases 1500 --size 32 --seed 11
    python scripts/make_phantom.py --out results/ablations/testing --num_cases 24 --size 32 --seed 12
    python benchmarks/ablations.py --work results/ablations --out benchmarks/results/ablations_cpu.json
    python benchmarks/ablations.py --base tuned --train_steps 300 --work results/ablations \
        --out benchmarks/results/ablations_tuned_cpu.json

Every change is trained with every seed for the same number of steps and sampled with the same settings. Results are
means over the cases; the deviation is over the seeds. Rerun the command to resume.
"""

import json
import os
from typing import Annotated, Literal

import numpy as np
from machine import machine_name
from running import run, write_json

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

FIGURES = ("ged_unbiased_excess", "mode_tv", "implausible", "max_dice", "diversity")

# The paper's objective on the demo's network; prediction type and mask scaling are among the changes
BASE = {
    "preset": "demo",
    "prediction": "eps",
    "predict_xstart": False,
    "learn_sigma": True,
    "mask_low": 0,
    "noise_schedule": "linear",
    "num_filters": "8,16",
    "no_convs_per_block": 1,
    "lr": 1e-3,
    "batch_size": 8,
    "sampler": "ddim",
    "steps": 10,
    "eta": 1,
}
BETTER = {"prediction": "x0", "learn_sigma": False, "mask_low": -1, "noise_schedule": "cosine"}
WITHOUT = {"method": "implicit-ensemble", "num_filters": None, "no_convs_per_block": None}  # it refuses encoders' flags
WEAKER = {**BETTER, "mask_scale": 0.5}
CHANGES = {
    "as published: eps, 0/1, linear": {},
    "encoders as initialised": {"train_encoders": False},
    "the controlling network sees the mask": {"ambiguity_input": "x0"},
    "KL weight 0": {"kl_weight": 0},
    "KL weight 0.01": {"kl_weight": 0.01},
    "x_0-prediction, fixed variance": {"prediction": "x0", "learn_sigma": False},
    "x_0, -1/1": {"prediction": "x0", "learn_sigma": False, "mask_low": -1},
    "x_0, -1/1, cosine": BETTER,
    "x_0, -1/1, cosine, no encoders": {**BETTER, **WITHOUT},
    "v, -1/1, cosine": {**BETTER, "prediction": "v"},
    "x_0, -1/1, cosine, mask scale 0.5": WEAKER,
    "x_0, -1/1, cosine, mask scale 0.5, 4 raters an image": {**WEAKER, "raters_per_image": 4},
}
# The tuned preset's network, small enough to train in minutes
TUNED = {
    "preset": "tuned",
    "image_size": 32,
    "image_channels": 1,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1,1",
    "denoiser_mult": "1,1",
    "attention_resolutions": 8,
    "batch_size": 32,
    "lr": 3e-3,
    "lr_warmup_steps": 50,
}
ONE = {"encoder_guesses": 1}
TUNED_CHANGES = {
    "tuned": {},
    "guess weight 1": {"guess_weight": 1},
    "one guess": ONE,
    "one guess, the target is one rater's mask": {**ONE, "stable_target": False},
    "no guess": {"encoder_guesses": 0},
    "one U-Net": {"architecture": "unet", "denoiser_mult": None},
    "one guess, mask scale 1": {**ONE, "mask_scale": 1},
    "one guess, 1 rater an image": {**ONE, "raters_per_image": 1, "stable_target": False},
    "one guess, v-prediction": {**ONE, "prediction": "v"},
}
# {change: reference that it is compared with, seed by seed}; default: the paper's setting
AGAINST = {
    "x_0, -1/1": "x_0-prediction, fixed variance",
    "x_0, -1/1, cosine": "x_0, -1/1",
    "x_0, -1/1, cosine, no encoders": "x_0, -1/1, cosine",
    "v, -1/1, cosine": "x_0, -1/1, cosine",
    "x_0, -1/1, cosine, mask scale 0.5": "x_0, -1/1, cosine",
    **{change: "x_0, -1/1, cosine, mask scale 0.5" for change in CHANGES if "mask scale 0.5," in change},
    **{change: "one guess" for change in TUNED_CHANGES if change not in ("tuned", "guess weight 1", "one guess")},
    "one guess, 1 rater an image": "one guess, the target is one rater's mask",
}
BASES = {"paper": (BASE, CHANGES), "tuned": (TUNED, TUNED_CHANGES)}


@config()
class AblationConfig:
    base: Annotated[Literal["paper", "tuned"], Flag("base setting")] = "paper"
    work: Annotated[str, Flag("folder with training/ and testing/; runs are written here")] = "results/ablations"
    train_steps: Annotated[int, Flag("training steps per run")] = 400
    seeds: Annotated[tuple[int, ...], Flag("random seeds of weights, draws and masks")] = (0, 1, 2)
    num_ensemble: Annotated[int, Flag("masks per case")] = 16
    out: Annotated[str, Flag("JSON file for the results")] = ""


def figures_of(config, change, seed):
    """{metric: mean over the cases} of one training."""
    base, changes = BASES[config.base]
    name = "".join(c if c.isalnum() else "_" for c in change)
    folder = os.path.join(config.work, "runs", f"{name}-{config.train_steps}x{config.num_ensemble}-{seed}")
    data, samples = os.path.join(config.work, "testing"), os.path.join(folder, "samples")
    path = os.path.join(samples, "metrics.json")
    if not os.path.exists(path):
        flags = {flag: value for flag, value in {**base, **changes[change]}.items() if value is not None}
        lengths = [f"--{name}={config.train_steps}" for name in ("iterations", "lr_anneal_steps", "save_interval")]
        training = (f"--data_dir={os.path.join(config.work, 'training')}", f"--log_dir={folder}", f"--seed={seed}")
        run("segmentation_train", *as_arguments(flags), *training, *lengths)
        drawing = (f"--model_path={os.path.join(folder, 'savedmodel.pt')}", f"--out_dir={samples}", f"--seed={seed}")
        ensemble = (f"--num_ensemble={config.num_ensemble}", "--batch_size=64")
        run("segmentation_sample", f"--data_dir={data}", *drawing, *ensemble)
        truth = f"--truth={os.path.join(data, 'truth.json')}"
        run("segmentation_evaluate", f"--data_dir={data}", f"--samples={samples}", truth, "--report=False")
    with open(path, encoding="utf-8") as file:
        means = json.load(file)["figures"]
    return {figure: means[f"{figure}_{config.num_ensemble}"]["mean"] for figure in FIGURES}


def table_row(change, seeds):
    """A row of the table: mean and standard deviation of each metric over the seeds."""
    cells = [np.array([seed[figure] for seed in seeds]) for figure in FIGURES]
    spread = [cell.std(ddof=1) if len(cell) > 1 else 0 for cell in cells]
    shown = (f"{cell.mean():.3f} ± {deviation:.3f}" for cell, deviation in zip(cells, spread, strict=True))
    return f"| {change} | {' | '.join(shown)} |"


def print_differences(rows):
    """Print differences of the first metric from the setting in AGAINST: mean over the seeds and standard error."""
    excess = {row["change"]: np.array([seed[FIGURES[0]] for seed in row["seeds"]]) for row in rows}
    for change in list(excess)[1:]:
        against = AGAINST.get(change, next(iter(excess)))
        differences = excess[change] - excess[against]
        error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0
        print(f"{change} minus {against}: {differences.mean():+.3f} ± {error:.3f}")


def main():
    with command_line.one_line_errors("benchmarks/ablations.py"):
        config = command_line.parse_command_line((AblationConfig,), __doc__)[AblationConfig]
        rows, (base, changes) = [], BASES[config.base]
        print("| change | " + " | ".join(FIGURES) + " |")
        for change in changes:
            seeds = [figures_of(config, change, seed) for seed in config.seeds]
            rows.append({"change": change, "seeds": seeds})
            print(table_row(change, seeds), flush=True)
            setting = {"steps": config.train_steps, "num_ensemble": config.num_ensemble, "base": base}
            write_json(config.out, {"machine": machine_name(), **setting, "rows": rows})
        print_differences(rows)


if __name__ == "__main__":
    main()
