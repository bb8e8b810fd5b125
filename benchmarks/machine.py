"""Description of the machine that a benchmark runs on."""

import os
import platform
import re

import torch


def machine_name(device="cpu"):
    """E.g. "AMD EPYC, 2 cores, torch 2.13.0" or "NVIDIA H100, torch 2.11.0"."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"model name\s*: (.*)", file.read())
        model = found[1].strip() if found else model
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}"
