"""Overhead of Visdom windows: steps of a small network with and without 20 updates each, 10,000 updates in total.

    python -m guided_diffusion.visualize serve &
    python benchmarks/windows.py --out benchmarks/results/windows_cpu.json

Stretches of steps with and without windows alternate. Each stretch has separate windows, so that its updates do not
slow down the next one, and lasts at least as long as the interval between updates of the server.
"""

import json
import time
from typing import Annotated

import numpy as np
import torch
from machine import machine_name
from PIL import Image
from running import write_json

from guided_diffusion import script_util
from guided_diffusion.flags import command_line
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.logger import NullSink
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS
from guided_diffusion.visualize.connection import VisdomConfig
from guided_diffusion.visualize.windows import Windows


@config()
class BenchmarkConfig:
    visdom_server: Annotated[str, Flag("address of the Visdom server")] = "http://localhost"
    visdom_port: Annotated[int, Flag("port of the Visdom server")] = 8097
    steps: Annotated[int, Flag("steps with windows, and the same number without")] = 500
    stretches: Annotated[int, Flag("number of stretches for each")] = 25
    out: Annotated[str, Flag("JSON file for the results")] = ""


def measure(config):
    """The relative overhead of the windows per step, and whether the server was lost."""
    segmenter = script_util.create_segmenter(configs_from_flags(PRESETS["demo"], *MODEL_CONFIGS))
    image, mask = torch.rand(8, 1, 32, 32), (torch.rand(8, 1, 32, 32) > 0.5).float()
    page = Image.new("RGB", (800, 400))

    def seconds(windows, numbers):
        """[wall time, processor time] of a stretch of steps."""
        with windows() as shown:
            started, cpu_started = time.perf_counter(), time.process_time()
            for number in numbers:
                segmenter(image, mask, torch.randint(0, 1000, (8,)))["loss"].mean().backward()
                for window in range(19):
                    shown.lines(f"window {window}", number, {"value": number})
                shown.picture("sheet", page)
            return np.array([time.perf_counter() - started, time.process_time() - cpu_started])

    complaints, ratios = [], []
    visdom = VisdomConfig(True, config.visdom_server, config.visdom_port, "benchmark")
    ways = [NullSink, lambda: Windows(visdom, complaints.append)]
    length = config.steps // config.stretches
    seconds(ways[1], range(length))  # warm-up
    for start in range(0, config.steps, length):
        numbers = range(start, start + length)
        took = {way: seconds(way, numbers) for way in (ways if len(ratios) % 2 else ways[::-1])}
        ratios.append(took[ways[1]] / took[ways[0]])
    slower, more_cpu = (round(float(share), 4) for share in np.median(ratios, axis=0) - 1)
    return {"slower": slower, "more processor time": more_cpu, "server lost": bool(complaints)}


def main():
    with command_line.one_line_errors("benchmarks/windows.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        result = {"machine": machine_name(), "updates": 20 * config.steps, **measure(config)}
        print(json.dumps(result, indent=1))
        write_json(config.out, result)


if __name__ == "__main__":
    main()
