"""Versions of the run's dependencies, and the card."""

import importlib.metadata
import os
import platform
import shutil
import subprocess

import torch
from machine import machine_name

from ..timing import is_cuda

PACKAGES = ("torch", "triton", "numpy", "scipy", "pillow", "blobfile")
QUERY = "name,driver_version,memory.total,pstate,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def card_figures(device):
    """The card's properties according to torch."""
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_mb": properties.L2_cache_size / 2**20,
        "memory_gib": total / 2**30,
        "free_gib": free / 2**30,
        "gpus": torch.cuda.device_count(),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def run(record, settings):
    name = torch.cuda.get_device_name(settings.device) if is_cuda(settings.device) else platform.machine()
    record.add(
        card=name,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        python=platform.python_version(),
        machine=machine_name(settings.device),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        packages={package: version_of(package) for package in PACKAGES},
        compiler=shutil.which("g++") or shutil.which("clang++"),
    )
    if is_cuda(settings.device):
        with record.part("device") as add:
            add(**card_figures(settings.device))
    if is_cuda(settings.device) and shutil.which("nvidia-smi"):
        with record.part("nvidia_smi") as add:
            done = subprocess.run(
                ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            add(text=(done.stdout or done.stderr).strip().splitlines())
