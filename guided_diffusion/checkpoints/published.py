"""Bare state dicts of the published code, and of the implicit-ensembles code."""

import os
import re

from ..errors import CheckpointError
from ..system import storage
from .files import load_tensors
from .format import NUMBERED, is_weights


def read_published(path, weights):
    """The state of the bare weights at `path`, with the average and the optimizer that lie beside it."""
    folder, name = os.path.split(path)
    number = NUMBERED.search(name)
    state = {
        "step": int(number[1]) if number else 0,
        "samples": 0,
        "flags": None,
        "weights": _unet_weights(weights),
        "ema": {},
        "optimizer": None,
    }
    if number:
        for beside in storage.names(folder or "."):
            if match := re.fullmatch(rf"emasavedmodel_([\d.]+)_{number[1]}\.pt", beside):
                average = load_tensors(os.path.join(folder, beside))
                if not is_weights(average):
                    raise CheckpointError(
                        f"{os.path.join(folder, beside)}: not an average of the published code; move it away"
                    )
                state["ema"][match[1]] = _unet_weights(average)
        optimizer = os.path.join(folder, f"optsavedmodel{number[1]}.pt")
        if storage.exists(optimizer):
            state["optimizer"] = load_tensors(optimizer)
    return state


def _unet_weights(weights):
    return {f"model.{key.removeprefix('module.')}": value for key, value in weights.items()}
