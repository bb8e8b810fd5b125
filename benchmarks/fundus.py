r"""Four methods on images of two classes, disc and cup, whose raters choose them in dependent pairs.

    python scripts/make_phantom.py --kind fundus --out results/fundus/training --num_cases 1500 --seed 11
    python scripts/make_phantom.py --kind fundus --out results/fundus/validation --num_cases 24 --seed 12
    python scripts/make_phantom.py --kind fundus --out results/fundus/testing --num_cases 160 --seed 13
    python benchmarks/fundus.py --work results/fundus --out benchmarks/results/fundus_cpu.json

Each method trains for the same processor time with each seed, on one core; the number of steps follows from the
processor time of a step, measured beforehand, so that other programs do not change it. The learning rate is the better
one of two on the validation cases after a fifth of that time. Then each draws 16 masks of each test case. Two
runs work at a time. Rerun the command to resume.
"""

import csv
import itertools
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
from machine import machine_name
from running import run, write_json

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

PROBES = (20, 80)  # steps of the two trainings whose difference in processor time gives that of a step
TRIAL_SHARE, TRIAL_ENSEMBLE = 0.2, 8  # of the training; masks of each validation case
LRS = (5e-4, 2e-3)
DRAWS = 10_000  # of seeds and cases, for an interval
FIGURES = (
    "ged_unbiased_excess_16", "ged_16", "hm_iou_16", "max_dice_16", "joint_tv_16", "joint_excess_16", "diversity_16",
)  # fmt: skip
OF_RATERS = ("joint_tv_of_perfect_16", "ged_of_truth_16", "ged_of_majority", "rater_diversity")

COMMON = {"image_size": 64, "image_channels": 3, "batch_size": 16, "augment": "flip+rotate", "ema_rate": 0.999}
SMALL = {"num_channels": 32, "num_res_blocks": 1, "attention_resolutions": 16}
METHODS = {
    "tuned": {"preset": "tuned", **SMALL, "channel_mult": "1,1", "denoiser_mult": "1,1"},
    "cimd": {"preset": "cimd", **SMALL, "channel_mult": "1,1,2", "num_filters": "8,16,24"},
    "prob-unet": {"preset": "prob-unet", "num_filters": "16,32,64,96"},
    "ssn": {"preset": "ssn", "num_filters": "16,32,64,96"},
}


@config()
class FundusConfig:
    work: Annotated[str, Flag("folder with training/, validation/ and testing/; runs are written here")] = (
        "results/fundus"
    )
    minutes: Annotated[float, Flag("processor minutes of training", above=0)] = 10.0
    seeds: Annotated[tuple[int, ...], Flag("seeds of weights and masks; a run for each")] = (0, 1, 2)
    num_ensemble: Annotated[int, Flag("masks per case")] = 16
    out: Annotated[str, Flag("JSON file for the results")] = ""


def train(work, method, name, steps, **flags):
    """Train to `steps` steps, or resume; returns the folder."""
    folder = os.path.join(work, "runs", f"{method}-{name}")
    values = {**COMMON, **METHODS[method], **flags, "log_dir": folder, "data_dir": os.path.join(work, "training")}
    values |= dict.fromkeys(("iterations", "lr_anneal_steps", "save_interval"), steps)
    if method == "tuned":
        values["lr_warmup_steps"] = min(100, steps // 10)
    run("segmentation_train", *as_arguments(values), threads=1)
    return folder


def draw(work, folder, method, cases, seed, num_ensemble):
    """Sample and score the cases of a part; returns the folder of the samples."""
    data, samples = os.path.join(work, cases), os.path.join(folder, cases)
    fast = ["--fast"] if method == "cimd" else []
    model = os.path.join(folder, "savedmodel.pt")
    more = (f"--seed={seed}", f"--num_ensemble={num_ensemble}", "--batch_size=16", *fast)
    run("segmentation_sample", f"--data_dir={data}", f"--model_path={model}", f"--out_dir={samples}", *more, threads=1)
    truth = f"--truth={os.path.join(data, 'truth.json')}"
    run("segmentation_evaluate", f"--data_dir={data}", f"--samples={samples}", truth, "--report=False", threads=1)
    return samples


def seconds_per_step(work, method):
    """Processor seconds of a training step."""
    path = os.path.join(work, "runs", f"{method}-seconds.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    spent = []
    for steps in PROBES:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        train(work, method, f"probe{steps}", steps)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    found = (spent[1] - spent[0]) / (PROBES[1] - PROBES[0])
    write_json(path, found)
    return found


def mean_of(samples, figure):
    """The mean of a figure over the cases, from metrics.json."""
    with open(os.path.join(samples, "metrics.json"), encoding="utf-8") as file:
        return json.load(file)["figures"][figure]["mean"]


def trial(config, method, lr, steps):
    """The unbiased GED on the validation cases after a short training at a learning rate."""
    folder = train(config.work, method, f"lr{lr:g}", steps, lr=lr, seed=100)
    samples = draw(config.work, folder, method, "validation", 100, TRIAL_ENSEMBLE)
    return mean_of(samples, f"ged_unbiased_{TRIAL_ENSEMBLE}")


def full_run(config, method, seed, steps, lr):
    """Train and draw with a seed; returns the folder of the samples."""
    folder = train(config.work, method, f"seed{seed}", steps, lr=lr, seed=seed)
    return draw(config.work, folder, method, "testing", seed, config.num_ensemble)


def read_figures(samples, names):
    """{figure: values of the cases, in order of their names} of a folder; a figure that a case lacks is NaN there."""
    with open(os.path.join(samples, "metrics.csv"), encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["case"])
    return {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in names}


def two_level(values, rng):
    """{"mean", "low", "high"} of values [seeds, cases]: seeds and cases are both drawn with replacement."""
    seeds, cases = values.shape
    means = [
        np.nanmean(values[rng.integers(seeds, size=seeds)][:, rng.integers(cases, size=cases)]) for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(np.nanmean(values)), "low": float(low), "high": float(high)}


def tabulate(config, folders):
    """{method: {figure: interval, figure of tuned subtracted: interval}}, and the figures of the raters."""
    values = {
        method: {
            name: np.stack([read_figures(folders[method, seed], [name])[name] for seed in config.seeds])
            for name in (*FIGURES, *OF_RATERS)
        }
        for method in METHODS
    }
    rows = {}
    for method, own in values.items():
        rows[method] = {name: two_level(own[name], np.random.default_rng(0)) for name in FIGURES}
        less = {name: own[name] - values["tuned"][name] for name in FIGURES}
        rows[method]["less_tuned"] = {name: two_level(less[name], np.random.default_rng(0)) for name in FIGURES}
    raters = {name: float(np.nanmean(values["tuned"][name])) for name in OF_RATERS}
    return {"methods": rows, "raters": raters}


def main():
    with command_line.one_line_errors("benchmarks/fundus.py"):
        config = command_line.parse_command_line((FundusConfig,), __doc__)[FundusConfig]
        steps = {}
        for method in METHODS:
            steps[method] = round(60 * config.minutes / seconds_per_step(config.work, method))
            print(f"{method}: {steps[method]} steps", flush=True)
        with ThreadPoolExecutor(2) as pool:
            pairs = list(itertools.product(METHODS, LRS))
            scores = list(pool.map(lambda pair: trial(config, *pair, round(TRIAL_SHARE * steps[pair[0]])), pairs))
            tried = dict(zip(pairs, scores, strict=True))
            lrs = {method: min(LRS, key=lambda lr: tried[method, lr]) for method in METHODS}  # noqa: B023
            print(f"learning rates: {lrs}", flush=True)
            jobs = [(method, seed) for seed in config.seeds for method in METHODS]
            done = pool.map(lambda job: full_run(config, *job, steps[job[0]], lrs[job[0]]), jobs)
            folders = dict(zip(jobs, done, strict=True))
        trials = {f"{method} {lr:g}": score for (method, lr), score in tried.items()}
        setting = {"machine": machine_name(), "minutes": config.minutes, "steps": steps, "lrs": lrs, "trials": trials}
        results = {**setting, "flags": METHODS, "common": COMMON, **tabulate(config, folders)}
        write_json(config.out, results)
        print(json.dumps(results["methods"], indent=1))


if __name__ == "__main__":
    main()
