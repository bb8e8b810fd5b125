"""
Score the samples of every case against its raters:

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/samples

Writes metrics.csv (a row per case) and metrics.json (the summary) beside the samples. Next to the samples' energy
distance stands that of always answering the raters' majority, and the difference with its paired bootstrap interval.
"""

import csv
import json
import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy import stats

from guided_diffusion import ensemble, metrics, script_util
from guided_diffusion.lidcloader import DataConfig, DataError, LIDCDataset
from guided_diffusion.nn import ConfigError
from guided_diffusion.postprocess import binarise


@dataclass(frozen=True)
class EvaluateConfig:
    data_dir: Annotated[str, "folder of cases with their raters"] = ""
    samples: Annotated[str, "folder that segmentation_sample.py wrote"] = "results/samples"


def score(samples, raters):
    """The figures of one case: samples [M, H, W] and raters [R, H, W], bool."""
    M = len(samples)
    majority = metrics.majority_vote(raters)[None]
    row = {
        f"ged_{M}": metrics.squared_ged(samples, raters).total,
        f"dice_{M}": metrics.mean_mask_dice(samples, raters),
        "ged_of_majority": metrics.squared_ged(majority, raters).total,
    }
    if M > 1 and len(raters) > 1:
        row[f"ged_unbiased_{M}"] = metrics.squared_ged(samples, raters, unbiased=True).total
    row["ged_less_majority"] = row[f"ged_{M}"] - row["ged_of_majority"]
    return {name: float(value) for name, value in row.items()}


def mean_and_interval(values):
    """Mean, and its 95 % bootstrap interval over the cases (percentiles of 10,000 draws); None with a single case."""
    values = np.asarray(values)
    if len(values) < 2:
        return float(values.mean()), None
    drawn = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    return float(values.mean()), [float(end) for end in drawn.confidence_interval]


def score_folder(dataset, folder):
    """{case: figures} of every case of `dataset` that has samples in `folder`. DataError: not one has."""
    rows = {}
    for index, (name, folder_of_case) in enumerate(dataset.folders):
        path = ensemble.samples_path(folder, name)
        if not os.path.exists(path):
            continue
        samples, made_by = ensemble.read_case(path)
        raters = dataset[index].raters.numpy() > 0.5
        if samples.shape[1:] != raters.shape[1:]:
            raise DataError(f"{path}: {samples.shape[1:]} pixels, but the other samples have {raters.shape[1:]}")
        if made_by["image"] != ensemble.image_hash(dataset[index]):
            raise DataError(f"{path}: drawn for another image than that in {folder_of_case}; is --data_dir right?")
        rows[name] = score(binarise(samples, made_by["threshold"], made_by["median_blur"]), raters)
    if not rows:
        raise DataError(f"{folder}: no samples of the cases in {dataset.directory}; draw them with segmentation_sample.py")
    return rows


def read_settings(folder):
    """The side in pixels of the samples in `folder`, and the flags they were made with. DataError: there are none."""
    names = sorted(name for name in os.listdir(folder) if name.endswith("_samples.npz")) if os.path.isdir(folder) else []
    if not names:
        raise DataError(f"{folder}: no samples (--samples); draw them with segmentation_sample.py")
    samples, made_by = ensemble.read_case(os.path.join(folder, names[0]))
    return samples.shape[-1], ensemble.spread(made_by)


def write_report(folder, rows, num_cases):
    """Write metrics.csv and metrics.json into `folder`, and print the summary."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with open(os.path.join(folder, "metrics.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case", *names])
        writer.writeheader()
        writer.writerows({"case": case, **row} for case, row in rows.items())

    summary = {"cases": len(rows), "figures": {}}
    print(f"{len(rows)} of {num_cases} cases\n{'':20s} {'mean':>8s}   95 % interval over cases")
    for name in names:
        mean, interval = mean_and_interval([row[name] for row in rows.values() if name in row])
        low, high = interval or (None, None)
        summary["figures"][name] = {"mean": mean, "low": low, "high": high}
        print(f"{name:20s} {mean:8.4f}   " + (f"{low:.4f} to {high:.4f}" if interval else "-"))
    with open(os.path.join(folder, "metrics.json"), "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1)
        file.write("\n")


def main(argv=None):
    with script_util.one_line_errors("segmentation_evaluate.py"):
        given, _ = script_util.parse_command_line((EvaluateConfig, DataConfig), __doc__, argv)
        (config,) = script_util.configs_from_flags(given, EvaluateConfig)
        if not config.data_dir:
            raise ConfigError("--data_dir is missing: name the folder of cases with their raters")
        size, flags = read_settings(config.samples)
        (data_config,) = script_util.configs_from_flags({**flags, **given}, DataConfig)  # images are read as they were
        dataset = LIDCDataset(config.data_dir, size, image_channels=None, config=data_config)
        write_report(config.samples, score_folder(dataset, config.samples), len(dataset))


if __name__ == "__main__":
    main()
