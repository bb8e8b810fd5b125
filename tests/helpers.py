"""What several tests need: golden cases, small models, small data, and the scripts run as a user runs them."""

import contextlib
import importlib.util
import io
import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import torch

from guided_diffusion.data.files.decoded import to_unit
from guided_diffusion.data.files.read import read_file
from guided_diffusion.data.surveys.levels import read_masks

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"

# A small U-Net with a short process: seconds, not minutes
TINY = {
    "image_size": 16,
    "image_channels": 1,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_heads": 2,
    "diffusion_steps": 40,
    "noise_schedule": "cosine",
    "num_filters": "4,8",
    "learn_sigma": True,
}

# The smallest U-Net there is, for tests of what is around it: one level of one block, no attention
LEAST = {**TINY, "image_size": 8, "channel_mult": "1", "attention_resolutions": ""}


def segmenter_of(flags):
    """The segmenter of model flags {name: value}; others are passed over."""
    from guided_diffusion.data.config import DataConfig
    from guided_diffusion.flags.configs import configs_from_flags
    from guided_diffusion.script_util import MODEL_CONFIGS, create_segmenter

    return create_segmenter(configs_from_flags(flags, DataConfig, *MODEL_CONFIGS))


def write_checkpoint(path, reading=None, **flags):
    """A checkpoint of a tiny untrained network in the format of training; `reading` is the version of its rules."""
    from guided_diffusion.checkpoints.format import FORMAT, VERSION
    from guided_diffusion.data.config import DataConfig
    from guided_diffusion.flags.configs import configs_from_flags
    from guided_diffusion.sampling.samplers import SamplerConfig
    from guided_diffusion.script_util import MODEL_CONFIGS

    torch.manual_seed(0)
    flags = configs_from_flags({**TINY, **flags}, DataConfig, SamplerConfig, *MODEL_CONFIGS).flags()
    weights = nonzero(segmenter_of(flags)).state_dict()
    state = {"format": FORMAT, "version": VERSION, "step": 0, "flags": flags, "weights": weights, "ema": {}}
    torch.save(state if reading is None else {**state, "reading": reading}, path)
    return path


def as_arguments(flags):
    return [f"--{name}={value}" for name, value in flags.items()]


def golden(name):
    """(arrays as tensors, flags and notes) of a golden case."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    return arrays, json.loads((GOLDEN / f"{name}.json").read_text())


def seeded_weights(module, seed):
    """Fill a module's parameters, in their order, from one generator, as the golden cases were filled."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            drawn = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(drawn / math.sqrt(p[0].numel()))
            else:
                p.copy_(1 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn)
    return module


def nonzero(module):
    """Fill the layers that start at zero, behind which nothing else would be seen to learn."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if not p.any():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return module


def run_script(name, *arguments, cwd=ROOT, env=None, launcher=()):
    """Run scripts/NAME.py in a process of its own, as a user does; returns the completed process, with its text."""
    command = [sys.executable, *launcher, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300
    )


def load_file(path):
    """A Python file as a module, which no other import finds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_script(name):
    """scripts/NAME.py as a module."""
    return load_file(ROOT / "scripts" / f"{name}.py")


def call_script(name, *arguments, **more):
    """The same as `run_script` in this process, which saves importing torch; an exception that is not caught is raised.

    more  arguments of its main
    """
    return call_main(load_script(name).main, *arguments, **more)


def call_main(main, *arguments, **more):
    """Call the main of a command; returns its status and text as a completed process."""
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            main([str(argument) for argument in arguments], **more)
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess([main.__module__, *arguments], status, stdout.getvalue(), stderr.getvalue())


def wait_for(condition, seconds=20):
    """Return once condition() holds. AssertionError: it does not within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def assert_refused(process, *words):
    """The process ended with status 2 and one line that has all the words, without a traceback."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    for word in words:
        assert word in process.stderr, process.stderr


def read_image(file):
    """The image in a file, float32 [H, W] in [0, 1]."""
    decoded = read_file(file)
    return to_unit(decoded.planes, decoded.full_scale)[0]


def read_label(file, merge_labels=False):
    """The mask in a file, a set of its own, bool [H, W]."""
    return read_masks([file], merge=merge_labels)[file]
