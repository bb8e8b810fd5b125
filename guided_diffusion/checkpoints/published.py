"""Reads bare state dicts of the published code and of the implicit-ensembles code."""

import os
import re
from typing import Any

from ..errors import CheckpointError
from ..system import storage
from .files import load_tensors
from .format import NUMBERED, Checkpoint, Weights, is_weights


def read_published(path: str, weights: Weights, to_sample: bool = False) -> Checkpoint:
    """The bare weights at `path` as a checkpoint, with the moving average and the optimizer in the same folder.

    to_sample  omit the optimizer, and memory-map the average
    """
    folder, name = os.path.split(path)
    number = NUMBERED.search(name)
    averages: dict[str, Weights] = {}
    optimizer: Any = None
    if number:
        for beside in storage.names(folder or "."):
            if match := re.fullmatch(rf"emasavedmodel_([\d.]+)_{number[1]}\.pt", beside):
                averages[match[1]] = _read_average(os.path.join(folder, beside), to_sample)
        stored = os.path.join(folder, f"optsavedmodel{number[1]}.pt")
        if not to_sample and storage.exists(stored):
            optimizer = load_tensors(stored)
    return Checkpoint(
        step=int(number[1]) if number else 0,
        samples=0,
        weights=_unet_weights(weights),
        ema=averages,
        optimizer=optimizer,
        is_published=True,
    )


def _read_average(path: str, mapped: bool) -> Weights:
    average = load_tensors(path, mapped)
    if not is_weights(average):
        raise CheckpointError(f"{path}: not a moving average of the published code; move it out of this folder")
    return _unet_weights(average)


def _unet_weights(weights: Weights) -> Weights:
    return {f"model.{key.removeprefix('module.')}": value for key, value in weights.items()}
