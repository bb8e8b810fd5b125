"""Loads a checkpoint of this package or of the published code, or a model folder."""

import os
from dataclasses import replace
from typing import Any

from ..errors import CheckpointError
from .files import load_tensors, resolve
from .format import FORMAT, PARTS, TO_SAMPLE, VERSION, Checkpoint
from .location import is_model_folder, locate
from .model_folder import read_model
from .published import read_published


def load_checkpoint(path: str | os.PathLike[str], to_sample: bool = False) -> Checkpoint:
    """The checkpoint at `path`, on the CPU; `locate` lists what a path may be.

    Bare weights of the published code are loaded with the moving average and the optimizer in the same folder, and
    unwrapped as read_published describes.

    to_sample  omit what only training needs; of a local file, only the weights that are used are read
    CheckpointError: missing, damaged, unsafe or of an unknown format.
    """
    found = locate(path)
    if is_model_folder(found):
        return read_model(found, os.fspath(path))
    path = resolve(found)
    content = load_tensors(path, mapped=to_sample)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        _check_content(content, path)
        checkpoint = Checkpoint.from_content(content)
        return replace(checkpoint, optimizer=None, schedule_sampler=None) if to_sample else checkpoint
    return read_published(path, content, to_sample)


def refuse_newer_reading(checkpoint: Checkpoint, path: str, known: int) -> None:
    """CheckpointError: the cases of the checkpoint's run were read by later rules than those of version `known`."""
    if checkpoint.reading > known:
        raise CheckpointError(
            f"{path}: its cases were read by version {checkpoint.reading} of the reading rules, this program has "
            f"version {known}; use the version of this program that wrote it"
        )


def _check_content(content: dict[str, Any], path: str) -> None:
    """CheckpointError: the file's content has an unsupported version, or parts are missing or damaged."""
    version = content.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {version} is not supported, only {VERSION}; use the version that wrote it"
        )
    damaged = [name for name, is_sound in PARTS.items() if name in content and not is_sound(content[name])]
    if damaged := damaged + [name for name in TO_SAMPLE if name not in content]:
        raise CheckpointError(f"{path}: missing or damaged parts: {', '.join(damaged)}; use another checkpoint")
