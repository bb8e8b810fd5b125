r"""Time and memory of sampling against the masks of an image, the cases, the side of the images and the processes.

    python benchmarks/growth.py --out benchmarks/results/growth_cpu.json

Each point is a run of segmentation_sample.py in 8 masks at a time. The masks, cases and processes are those of the
shipped model `phantom` (64x64 pixels, 20 calls per mask) on data/testing; the sides are those of untrained networks of
the same widths, in 5 calls per mask. Times are processor seconds on one core, and for the processes seconds by the
clock on one core each; memory is the largest resident set of a process, with that of Python and torch. The exponent is
that of a power law through the last two points, after the time of the first is subtracted.
"""

import json
import math
import os
import tempfile
import time
from typing import Annotated

from machine import machine_name
from running import ROOT, measure, run, write_json

from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

CASES = os.path.join(ROOT, "data", "testing")
NETWORK = (
    "--preset=tuned", "--image_channels=1", "--num_channels=32", "--num_res_blocks=1", "--channel_mult=1,1",
    "--denoiser_mult=1,1",
)  # fmt: skip
SHARED = 16  # cases that the processes share, of 8 masks each


@config()
class GrowthConfig:
    masks: Annotated[tuple[int, ...], Flag("numbers of masks of one image", at_least=1)] = (1, 10, 100, 1000)
    cases: Annotated[tuple[int, ...], Flag("numbers of cases, of 4 masks each", at_least=1)] = (1, 5, 20, 80)
    sides: Annotated[tuple[int, ...], Flag("sides of one image of 2 masks, pixels", at_least=32)] = (64, 128, 256, 512)
    processes: Annotated[tuple[int, ...], Flag("numbers of processes", at_least=1)] = (1, 2)
    out: Annotated[str, Flag("JSON file for the results")] = ""


def sample(folder, cases, masks, model="phantom", data=CASES, *more):
    """(processor seconds, MB) of drawing `masks` of each of the first `cases` cases."""
    own = (f"--model_path={model}", f"--data_dir={data}", f"--num_samples={cases}", f"--num_ensemble={masks}")
    out = f"--out_dir={os.path.join(folder, 'samples')}"
    return measure("segmentation_sample", *own, out, "--overwrite", "--batch_size=8", *more)


def of_side(folder, side):
    """As `sample`, of one image of side `side` by a network for that size."""
    data, run_dir = os.path.join(folder, f"cases{side}"), os.path.join(folder, f"run{side}")
    run("make_phantom", f"--out={data}", f"--size={side}", "--num_cases=2")
    attention = f"--attention_resolutions={side // 4}"
    own = (f"--image_size={side}", attention, f"--data_dir={data}", f"--log_dir={run_dir}", "--iterations=1")
    run("segmentation_train", *NETWORK, *own, "--batch_size=4", "--lr_anneal_steps=200")
    return sample(folder, 1, 2, os.path.join(run_dir, "savedmodel.pt"), data, "--steps=5", "--weights=raw")


def of_processes(folder, processes):
    """(seconds by the clock, None) of drawing the masks of the shared cases by several processes."""
    own = ("--model_path=phantom", f"--data_dir={CASES}", f"--num_samples={SHARED}", "--num_ensemble=8")
    out, begun = f"--out_dir={os.path.join(folder, 'shared')}", time.perf_counter()
    run("segmentation_sample", *own, out, "--overwrite", "--batch_size=8", threads=1, processes=processes)
    return time.perf_counter() - begun, None


def exponent(points):
    """That of a power law through the last two points (x, value, ...), less the value of the first; None: no law."""
    if len(points) < 3:
        return None
    (_, first, *_), *_, (x, y, *_), (last_x, last_y, *_) = points
    if min(y, last_y) <= first:
        return None
    return math.log((last_y - first) / (y - first)) / math.log(last_x / x)


def main():
    with command_line.one_line_errors("benchmarks/growth.py"):
        config = command_line.parse_command_line((GrowthConfig,), __doc__)[GrowthConfig]
        results = {"machine": machine_name()}
        with tempfile.TemporaryDirectory() as folder:
            sweeps = {
                "masks": (config.masks, lambda count: sample(folder, 1, count)),
                "cases": (config.cases, lambda count: sample(folder, count, 4)),
                "sides": (config.sides, lambda side: of_side(folder, side)),
                "processes": (config.processes, lambda count: of_processes(folder, count)),
            }
            for name, (numbers, measured) in sweeps.items():
                points = []
                for number in numbers:
                    points.append((number, *measured(number)))
                    print(name, points[-1], flush=True)
                rows = [dict(zip(("number", "seconds", "mb"), point, strict=True)) for point in points]
                results[name] = {"rows": rows, "exponent": exponent(points)}
        write_json(config.out, results)
        print(json.dumps({name: value.get("exponent") for name, value in results.items() if name != "machine"}))


if __name__ == "__main__":
    main()
