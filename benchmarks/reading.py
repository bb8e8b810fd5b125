"""Rate of reading cases: opening a folder of 8-bit grey PNG, and items of the dataset from memory and from the cache.

    python benchmarks/reading.py --out benchmarks/results/reading_cpu.json
    python benchmarks/reading.py --other ../earlier --out results/reading_against_earlier.json

A case is an image and four raters at 128x128. Rates are medians over the rounds, each in a separate process. With
--other the package of another checkout is measured in turn with this one; ratios are medians of the ratios within a
round.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import numpy as np
from machine import machine_name
from PIL import Image
from running import ROOT, write_json
from scipy import ndimage

import guided_diffusion
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset

SIDE, RATERS = 128, 4


@config()
class BenchmarkConfig:
    cases: Annotated[int, Flag("cases in the folder")] = 400
    items: Annotated[int, Flag("items taken from an open dataset, per round")] = 4000
    rounds: Annotated[int, Flag("rounds of measurement")] = 7
    other: Annotated[str, Flag("another checkout to compare with; empty: none")] = ""
    out: Annotated[str, Flag("JSON file for the results")] = ""


def write_cases(folder, count):
    """Smooth noisy images, and masks of 0 and 255 with a common core."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    for index in range(count):
        case = os.path.join(folder, f"case{index:05d}")
        os.makedirs(case)
        image = ndimage.gaussian_filter(rng.random((SIDE, SIDE)), 1)
        grey = (255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
        Image.fromarray(grey).save(os.path.join(case, f"image_{index}.png"))
        for k, radius in enumerate(rng.uniform(8, 30, RATERS)):
            mask = (np.hypot(x, y) < radius).astype(np.uint8) * 255
            Image.fromarray(mask).save(os.path.join(case, f"label{k}_.png"))


def items_per_second(dataset, count):
    """Rate of `count` items in a random order."""
    order = np.random.default_rng(0).integers(len(dataset), size=count).tolist()
    started = time.perf_counter()
    for index in order:
        dataset[index]
    return count / (time.perf_counter() - started)


def measure(folder, items):
    """Print the rates of the package that this process imports, as JSON."""
    rates = {}
    for name, size in (("cases opened", SIDE), ("cases opened and resized to 64x64", 64)):
        started = time.perf_counter()
        dataset = LIDCDataset(folder, size)
        rates[name] = len(dataset) / (time.perf_counter() - started)
    rates["items from memory"] = items_per_second(LIDCDataset(folder, SIDE), items)
    with tempfile.TemporaryDirectory() as cache:
        LIDCDataset(folder, SIDE, cache_dir=cache)
        started = time.perf_counter()
        dataset = LIDCDataset(folder, SIDE, cache_dir=cache)
        rates["cases opened from the cache"] = len(dataset) / (time.perf_counter() - started)
        rates["items from the cache"] = items_per_second(dataset, items)
    print(json.dumps({"package": os.path.dirname(os.path.dirname(guided_diffusion.__file__)), "rates": rates}))


def measured(root, folder, items):
    """The rates of the checkout at `root`, measured in a separate process."""
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", folder, str(items)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    assert os.path.samefile(result["package"], root), f"{result['package']} was imported instead of {root}"
    return result["rates"]


def compare(config, folder):
    """{name of a rate: its median, and with --other that of the other checkout and the ratio to it}."""
    roots = {"per_second": ROOT, **({"other_per_second": os.path.abspath(config.other)} if config.other else {})}
    rounds = []
    for turn in range(config.rounds + 1):  # the first, which fills the page cache, does not count
        order = list(roots.items())[:: 1 if turn % 2 else -1]
        rounds.append({way: measured(root, folder, config.items) for way, root in order})
    rows = {}
    for name in rounds[-1]["per_second"]:
        row = {way: statistics.median(turn[way][name] for turn in rounds[1:]) for way in roots}
        if config.other:
            ratios = [turn["per_second"][name] / turn["other_per_second"][name] for turn in rounds[1:]]
            row["times_other"] = statistics.median(ratios)
        rows[name] = {key: round(value, 3) for key, value in row.items()}
    return rows


def main():
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]))
        return
    with command_line.one_line_errors("benchmarks/reading.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        if config.other and not os.path.isdir(os.path.join(config.other, "guided_diffusion")):
            raise ConfigError(f"--other {config.other}: not a checkout of this project; use its root folder")
        with tempfile.TemporaryDirectory() as folder:
            write_cases(folder, config.cases)
            rates = compare(config, folder)
        result = {"machine": machine_name(), "cases": config.cases, "rounds": config.rounds, "rates": rates}
        for name, row in rates.items():
            ratio = f", {row['times_other']:.3f} times the other's" if config.other else ""
            print(f"{name}: {row['per_second']:,.0f} per second{ratio}")
        write_json(config.out, result)


if __name__ == "__main__":
    main()
