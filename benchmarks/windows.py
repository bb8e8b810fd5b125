"""
What Visdom windows cost a run: steps of a small network with and without 20 updates each, in turns, 10,000 updates in all.

    python -m guided_diffusion.visualize serve &
    python benchmarks/windows.py --out benchmarks/results/windows_cpu.json
"""

import json
import statistics
import time
from dataclasses import dataclass
from typing import Annotated

import torch
from machine import machine_name
from PIL import Image

from guided_diffusion import command_line, script_util
from guided_diffusion.presets import PRESETS
from guided_diffusion.windows import NullWindows, VisdomConfig, Windows


@dataclass(frozen=True)
class BenchmarkConfig:
    visdom_server: Annotated[str, "of the Visdom server"] = "http://localhost"
    visdom_port: Annotated[int, "of the Visdom server"] = 8097
    steps: Annotated[int, "steps with windows, and as many without"] = 500
    out: Annotated[str, "JSON file for the figures"] = ""


def main():
    with command_line.one_line_errors("benchmarks/windows.py"):
        given, _ = command_line.parse_command_line((BenchmarkConfig,), __doc__)
        (config,) = command_line.configs_from_flags(given, BenchmarkConfig)
        segmenter = script_util.create_segmenter(command_line.pick_flags(PRESETS["demo"], *script_util.MODEL_CONFIGS))
        image, mask = torch.rand(8, 1, 32, 32), (torch.rand(8, 1, 32, 32) > 0.5).float()
        page = Image.new("RGB", (800, 400))

        def step(number, windows):
            started = time.perf_counter()
            segmenter(image, mask, torch.randint(0, 1000, (8,)))["loss"].mean().backward()
            for window in range(19):
                windows.lines(f"window {window}", number, {"value": number})
            windows.picture("sheet", page)
            return time.perf_counter() - started

        told = []
        shown, hidden = Windows(VisdomConfig(True, config.visdom_server, config.visdom_port, "benchmark"), told.append), NullWindows()
        ratios = []
        for number in range(config.steps // 10):
            blocks = {id(windows): sum(step(10 * number + k, windows) for k in range(10)) for windows in (hidden, shown)}
            ratios.append(blocks[id(shown)] / blocks[id(hidden)])
        shown.close()
        result = {"machine": machine_name(), "updates": 20 * config.steps, "slower": statistics.median(ratios) - 1, "server lost": bool(told)}
        print(json.dumps(result, indent=1))
        if config.out:
            with open(config.out, "w", encoding="utf-8") as file:
                file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
