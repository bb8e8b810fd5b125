"""Time and memory of the evaluation.

    python benchmarks/metrics.py --cases 1000 --samples 100 --raters 4 --size 128

Writes cases with soft samples in the format of segmentation_sample.py and scores them from disk in a separate process.
Then times all metrics of a case against a plain double loop over its pairs; the two alternate.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import numpy as np
from machine import machine_name
from PIL import Image
from running import write_json
from scipy import ndimage

from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.masks import metrics

ROUNDS = 7


@config()
class BenchmarkConfig:
    cases: Annotated[int, Flag("cases")] = 1000
    samples: Annotated[int, Flag("samples per case")] = 100
    raters: Annotated[int, Flag("raters per case")] = 4
    size: Annotated[int, Flag("side of the masks, pixels")] = 128
    out: Annotated[str, Flag("JSON file for the results")] = ""


def blobs(rng, count, size):
    """Masks with a common core and different borders, [count, size, size] bool."""
    y, x = np.mgrid[:size, :size] - size / 2
    rough = ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (0, size / 16, size / 16))
    return np.hypot(x, y) < size * (0.2 + 2 * rough)


def soft(rng, masks):
    """Samples like those of a network: mostly 0 and 1, with noise in a sixth of the pixels."""
    noise = np.where(rng.random(masks.shape) < 1 / 6, rng.normal(scale=0.02, size=masks.shape), 0)
    return abs(masks - abs(noise)).clip(0, 1).astype(np.float32)


def write_cases(folder, config):
    rng = np.random.default_rng(0)
    os.makedirs(os.path.join(folder, "samples"))
    for index in range(config.cases):
        name = f"case{index:05d}"
        case = os.path.join(folder, "data", name)
        os.makedirs(case)
        masks = blobs(rng, config.samples + config.raters, config.size)
        Image.fromarray((rng.random((config.size, config.size)) * 255).astype(np.uint8)).save(
            os.path.join(case, "image.png")
        )
        for k, mask in enumerate(masks[config.samples :]):
            Image.fromarray(mask).save(os.path.join(case, f"label{k}_.png"))
        np.savez_compressed(
            os.path.join(folder, "samples", f"{name}_samples.npz"),
            samples=soft(rng, masks[: config.samples]),
            threshold=0.5,
        )


def time_evaluation(folder, report):
    """(seconds, peak GB so far) of the whole evaluation as a command, with or without report.html."""
    script = os.path.join(os.path.dirname(__file__), "..", "scripts", "segmentation_evaluate.py")
    started = time.monotonic()
    subprocess.run(
        [
            sys.executable,
            script,
            "--data_dir",
            os.path.join(folder, "data"),
            "--samples",
            os.path.join(folder, "samples"),
            f"--report={report}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def ged_by_loops(samples, raters):
    """The GED, computed pair by pair."""

    def mean_distance(a, b):
        total = 0.0
        for x in a:
            for y in b:
                union = np.logical_or(x, y).sum()
                total += 1 - np.logical_and(x, y).sum() / union if union else 0
        return total / (len(a) * len(b))

    return 2 * mean_distance(samples, raters) - mean_distance(samples, samples) - mean_distance(raters, raters)


def time_against_loops(config):
    """Median speedup over the double loop for the GED: of our GED, and of all our metrics together."""
    masks = blobs(np.random.default_rng(1), config.samples + config.raters, config.size)
    samples, raters = masks[: config.samples], masks[config.samples :]
    ways = {
        "loops": lambda: ged_by_loops(samples, raters),
        "ged": lambda: float(metrics.squared_ged(samples, raters).total),
        "all figures": lambda: float(metrics.all_figures(samples, raters)["ged"]),
    }
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS):
        values = []
        for name, way in ways.items():
            started = time.perf_counter()
            values.append(way())
            seconds[name].append(time.perf_counter() - started)
        assert max(values) - min(values) < 1e-9
    return {
        name: statistics.median(a / b for a, b in zip(seconds["loops"], seconds[name], strict=True))
        for name in ("ged", "all figures")
    }


def main():
    with command_line.one_line_errors("benchmarks/metrics.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        with tempfile.TemporaryDirectory() as folder:
            write_cases(folder, config)
            seconds, memory = time_evaluation(folder, report=False)
            seconds_with_report, memory_with_report = time_evaluation(folder, report=True)
        result = {
            **{k: v for k, v in vars(config).items() if k != "out"},
            "machine": machine_name(),
            "seconds": round(seconds, 1),
            "peak GB": round(memory, 2),
            "seconds with the report": round(seconds_with_report, 1),
            "peak GB with the report": round(memory_with_report, 2),
            "times faster than the double loop": {
                name: round(ratio, 1) for name, ratio in time_against_loops(config).items()
            },
        }
    print(json.dumps(result, indent=1))
    write_json(config.out, result)


if __name__ == "__main__":
    main()
