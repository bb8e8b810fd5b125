"""Slices a minute of scripts/prepare_lidc.py, on phantom DICOM of the size of the download's.

    python benchmarks/prepare_lidc.py --out benchmarks/results/prepare_lidc_cpu.json

The phantoms have 512x512 pixels of 0.7 mm, which are resampled to 0.5 mm.
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

SPACING = (0.7, 0.7)  # mm, of pixels; not that of the crops, so that they are resampled


@config()
class BenchmarkConfig:
    cases: Annotated[int, Flag("slices, two for each series")] = 600
    processes: Annotated[int, Flag("series at a time")] = 2
    out: Annotated[str, Flag("JSON file for the figures")] = ""


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
            "slices a minute": round(60 * config.cases / seconds),
        }
        print(json.dumps(result, indent=1))
        write_json(config.out, result)


if __name__ == "__main__":
    main()
