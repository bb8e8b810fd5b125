"""Throughput of scripts/prepare_lidc.py in slices per minute, on synthetic DICOM files of realistic size.

    python benchmarks/prepare_lidc.py --out benchmarks/results/prepare_lidc_cpu.json

The slices have 512x512 pixels of 0.7 mm and are resampled to 0.5 mm.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Annotated

from machine import machine_name
from running import write_json

from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.prepare.phantoms.files import make_cases
from guided_diffusion.prepare.phantoms.lidc_files import write_lidc

SPACING = (0.7, 0.7)  # mm per pixel; differs from that of the crops, so that slices are resampled


@config()
class BenchmarkConfig:
    cases: Annotated[int, Flag("slices, two per series")] = 600
    processes: Annotated[int, Flag("series processed in parallel")] = 2
    out: Annotated[str, Flag("JSON file for the results")] = ""


def main():
    with command_line.one_line_errors("benchmarks/prepare_lidc.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        script = os.path.join(os.path.dirname(__file__), "..", "scripts", "prepare_lidc.py")
        with tempfile.TemporaryDirectory() as folder:
            write_lidc(folder, make_cases(config.cases, seed=1, size=96, num_raters=4), spacing=SPACING)
            started = time.monotonic()
            command = [
                sys.executable,
                script,
                f"--dicom={folder}/dicom",
                f"--xml={folder}/xml",
                f"--out={folder}/out",
                f"--processes={config.processes}",
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds = time.monotonic() - started
        result = {
            "machine": machine_name(),
            "slices": config.cases,
            "processes": config.processes,
            "seconds": round(seconds, 1),
            "slices per minute": round(60 * config.cases / seconds),
        }
        print(json.dumps(result, indent=1))
        write_json(config.out, result)


if __name__ == "__main__":
    main()
