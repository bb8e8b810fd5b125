"""Reads bare state dicts of the published code and of the implicit-ensembles code, also in the wraps of others."""

import os
import re
from typing import Any, TypeGuard

from ..errors import CheckpointError
from ..system import storage
from .files import load_tensors
from .format import NUMBERED, Checkpoint, Weights, is_weights

WRAPPERS = ("state_dict", "model")  # entries in which other programs store the weights
KNOWN = "time_embed.0.weight"  # in the weights of every U-Net of this family


def read_published(path: str, content: object, to_sample: bool = False) -> Checkpoint:
    """The bare weights at `path` as a checkpoint, with the moving average and the optimizer in the same folder.

    content    of the file: weights, or a dict with weights as its only entry of WRAPPERS. The prefixes that
               DistributedDataParallel and torch.compile add to their names, "module." and "_orig_mod.", are removed
    to_sample  omit the optimizer, and memory-map the average
    CheckpointError: the content is something else, or ambiguous.
    """
    weights = _unwrapped(path, content)
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
        weights=_unet_weights(path, weights),
        ema=averages,
        optimizer=optimizer,
        is_published=True,
    )


def _read_average(path: str, mapped: bool) -> Weights:
    average = load_tensors(path, mapped)
    if not is_weights(average):
        raise CheckpointError(f"{path}: not a moving average of the published code; move it out of this folder")
    return _unet_weights(path, average)


def _unwrapped(path: str, content: object) -> Weights:
    """The weights in the content of a file. CheckpointError: there are none of a U-Net, or several."""
    if _is_unet(content):
        return content
    found = {name: value for name, value in content.items() if _is_unet(value)} if isinstance(content, dict) else {}
    if len(found) == 1 and (name := next(iter(found))) in WRAPPERS:
        return found[name]
    if found:
        raise CheckpointError(
            f"{path}: it is unclear which weights to use, the entry {' or '.join(map(repr, found))}; save one of them "
            "alone, by torch.save(torch.load(FILE)[ENTRY], NEW_FILE)"
        )
    if is_weights(content) and content:
        raise CheckpointError(
            f"{path}: these are weights of another network (without {KNOWN}, but with {next(iter(content))[:80]}); "
            "use a checkpoint of this program or of the published code"
        )
    raise CheckpointError(f"{path}: not a checkpoint of this program or of the published code; use another file")


def _is_unet(value: object) -> TypeGuard[Weights]:
    return is_weights(value) and any(name.endswith(KNOWN) for name in value)


def _unet_weights(path: str, weights: Weights) -> Weights:
    """The weights with the names of this program. CheckpointError: two weights have the same name without prefixes."""
    renamed = {f"model.{_plain_name(name)}": value for name, value in weights.items()}
    if len(renamed) < len(weights):
        raise CheckpointError(
            f"{path}: some weights occur twice, with and without the prefix module. or _orig_mod.; save one set of them"
        )
    return renamed


def _plain_name(name: str) -> str:
    """The name of a weight without what DistributedDataParallel and torch.compile, in any order, add to it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[0] == "module" else parts)
