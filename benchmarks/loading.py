"""Bytes read and memory used when loading a `cimd` checkpoint for sampling, and when reading all of it.

    python benchmarks/loading.py --out benchmarks/results/loading_cpu.json

Each variant runs in a separate process, after dropping the file from the page cache. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import torch
from machine import machine_name

from guided_diffusion import script_util
from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.checkpoints.format import RunInfo
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.data.case_reader import READING_RULES
from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS
from guided_diffusion.system.device import peak_memory, reset_peak_memory
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_state import RunState

WAYS = ("to sample", "as a whole")


def save_checkpoint(folder):
    """Save a checkpoint of the preset `cimd` after one step without gradients; returns its path."""
    configs = configs_from_flags(PRESETS["cimd"], TrainConfig, DataConfig, *MODEL_CONFIGS)
    state = RunState(script_util.create_segmenter(configs), configs[TrainConfig], masks_per_step=1)
    for p in state.trained:
        p.grad = torch.zeros_like(p)
    state.move(1e-4, bad=torch.tensor(False))
    return CheckpointFolder(folder).save(state.checkpoint(RunInfo(configs.flags(), 1, 1, None, 0, READING_RULES)))


def bytes_read():
    """Bytes that this process has read from disk."""
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file)["read_bytes"])


def load(path, way):
    """Measure loading and print as JSON: bytes read, additional peak memory of the process, seconds."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    reset_peak_memory("cpu")
    memory, read, start = peak_memory("cpu"), bytes_read(), time.perf_counter()
    if way == "as a whole":
        script_util.load_checkpoint = lambda path, to_sample: load_checkpoint(path)
    script_util.load_segmenter(path, {})
    figures = {
        "read_gb": (bytes_read() - read) / 1e9,
        "memory_gb": (peak_memory("cpu") - memory) / 1e9,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps({"way": way, **figures}))


def main():
    if sys.argv[1:2] == ["--load"]:
        load(*sys.argv[2:])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(folder)
        size, rows = os.path.getsize(path), []
        for way in WAYS:
            command = [sys.executable, __file__, "--load", path, way]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    result = {"machine": machine_name(), "file_gb": size / 1e9, "rows": rows}
    print(json.dumps(result, indent=1))
    if sys.argv[1:2] == ["--out"]:
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
