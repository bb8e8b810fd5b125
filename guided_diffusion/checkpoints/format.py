"""What a checkpoint holds, and what its parts must be. It describes itself and is safe to load.

A checkpoint is a dict of plain tensors and JSON-like values, which torch.load(weights_only=True) opens:

    format, version      what this file is
    step, samples        optimizer steps done, and masks drawn from the data over all processes
    processes, data      how many processes there were, and the hash of the cases that they trained on
    threads              that each process computed with; None: on a GPU. Checkpoints made before it was stored lack it
    flags                every flag of the run, by name
    weights              the segmenter: model.*, prior.*, posterior.*
    ema                  {rate: weights}, averaged
    optimizer, schedule_sampler, scaler
    random               the seed; each step's randomness follows from it and the place in the data
    best                 {settings, step, score} of the best validation so far; None: there was none
    bad_steps            [steps left out so far, because a loss or a gradient was not finite; the last ones of them in a row]

Bare state dicts of the published code, and of the implicit-ensembles code, are read too.
"""

import math
import re

import torch

from ..errors import CheckpointError

FORMAT, VERSION = "ambiguous-segmentation-diffusion", 1
NEWEST, BEST, MANIFEST = "savedmodel.pt", "bestmodel.pt", "manifest.json"
NUMBERED = re.compile(r"savedmodel(\d+)\.pt$")


def check_complete(state, path):
    """CheckpointError: the checkpoint lacks parts that are needed to resume; sampling may still work."""
    if state["flags"] is not None and (missing := [name for name in TO_GO_ON if name not in state]):
        raise CheckpointError(f"{path}: a run cannot go on from it, for it lacks {', '.join(missing)}; use another one")


# -- what its parts must be, so that no reader of a damaged one fails ---------------------------------------------------

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def is_tensor(value):
    """Whether a value is a plain tensor in main memory."""
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and value.dtype in DTYPES


def is_weights(value):
    return isinstance(value, dict) and all(isinstance(k, str) and is_tensor(v) for k, v in value.items())


def _is_plain(value, depth=8):
    """Whether a value is JSON-like, and nested no deeper."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _is_count(value, least=0):
    return isinstance(value, int) and value >= least


def _is_scaler(value):
    """Whether a value is the state of a GradScaler; an empty one is that of a scaler that is not used."""
    if value == {}:
        return True
    names = ("scale", "growth_factor", "backoff_factor")
    return (
        _is_plain(value)
        and isinstance(value, dict)
        and all(isinstance(value.get(n), float) and 0 < value[n] < math.inf for n in names)
        and _is_count(value.get("growth_interval"), 1)
        and _is_count(value.get("_growth_tracker"))
    )


def _is_best(value):
    if value is None:
        return True
    right = _is_plain(value) and isinstance(value, dict) and isinstance(value.get("settings"), dict)
    return right and _is_count(value.get("step")) and isinstance(value.get("score"), float)


PARTS = {
    "step": _is_count,
    "samples": _is_count,
    "processes": lambda value: _is_count(value, 1),
    "threads": lambda value: value is None or _is_count(value, 1),
    "data": lambda value: value is None or isinstance(value, str),
    "flags": lambda value: isinstance(value, dict) and _is_plain(value),
    "weights": is_weights,
    "ema": lambda value: isinstance(value, dict) and all(map(is_weights, value.values())),
    "optimizer": lambda value: value is None or isinstance(value, dict),
    "schedule_sampler": is_weights,
    "scaler": _is_scaler,
    "best": _is_best,
    "bad_steps": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
}
TO_SAMPLE = ("step", "flags", "weights", "ema")
TO_GO_ON = (*TO_SAMPLE, "samples", "optimizer", "schedule_sampler", "scaler")
