"""Model folders: a trained model to hand on, in the form of the Hugging Face Hub. Nothing in one is ever executed.

model.safetensors  the weights that sampling uses
config.json        what they mean, see CONFIG_PARTS
README.md          the model card, for people
samples.png        its picture
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import CheckpointError, ConfigError
from ..flags.configs import Flags
from ..flags.retired import current_flags
from ..system import folders, storage
from ..system.versions import written_by
from .diagnosis import AGAIN, HEAD, is_safetensors, why_unreadable
from .files import sha256
from .format import PARTS, Checkpoint, Weights, is_weights
from .location import MODEL_CONFIG, MODEL_WEIGHTS

FORMAT, VERSION = "ambiguous-segmentation-diffusion model", 1
CARD, PICTURE = "README.md", "samples.png"
FILES = (MODEL_WEIGHTS, MODEL_CONFIG, CARD, PICTURE)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

CONFIG_PARTS: dict[str, Callable[[object], bool]] = {
    "flags": PARTS["flags"],  # of data and model
    "sampler": PARTS["flags"],
    "weights": lambda value: value in ("ema", "raw"),  # which of the checkpoint's
    "dtype": lambda value: value in DTYPES,
    "step": PARTS["step"],
    "samples": lambda value: value is None or PARTS["samples"](value),  # masks trained on; None: not stored
    "data": PARTS["data"],  # hash of the cases of the training
    "reading": PARTS["reading"],  # version of the reading rules
    "checkpoint": lambda value: isinstance(value, str),  # its fingerprint
    "sha256": lambda value: isinstance(value, str),  # of the weights
    "written_by": PARTS["written_by"],
}


@dataclass(frozen=True)
class Model:
    """What a model folder is written from.

    checkpoint  its weights, flags (of data and model), step, samples, data, reading, and which weights are `exported`
    sampler     {flag: JSON-like value} of the sampler
    dtype       of DTYPES
    source      fingerprint of the checkpoint's file
    """

    checkpoint: Checkpoint
    sampler: Flags
    dtype: str
    source: str


# -- writing ----------------------------------------------------------------------------------------------------------


def check_target(out: str) -> None:
    """ConfigError: `out` cannot become a model folder, because it has other files, or cannot be written to."""
    target = os.path.realpath(out)
    if Path(target) in (current := Path.cwd(), *current.parents):
        raise ConfigError(f"--out {out}: is the current folder, or one above it; name a new folder")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise ConfigError(f"--out {out}: a file of this name exists; name a new folder")
    found = sorted(os.listdir(target)) if os.path.isdir(target) else []
    if other := [name for name in found if name not in FILES]:
        raise ConfigError(f"--out {out}: the folder has files that are not of a model, e.g. {other[0]}; name a new one")
    if found and MODEL_CONFIG not in found:
        raise ConfigError(f"--out {out}: the folder is not empty, and not a model folder; name a new one")
    folders.check_writable(os.path.dirname(target), "out")


@contextlib.contextmanager
def written_whole(out: str) -> Iterator[str]:
    """A context with a new folder, which takes the place of the folder `out` at its end if no exception was raised."""
    target = os.path.realpath(out)
    parent, name = os.path.split(target)
    aside, former = (os.path.join(parent, f".{name}.{word}") for word in ("writing", "former"))
    for left in (aside, former):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    os.makedirs(aside)
    try:
        yield aside
        if os.path.isdir(target):
            os.rename(target, former)
        try:
            os.rename(aside, target)
        except OSError:
            if os.path.isdir(former):
                os.rename(former, target)
            raise
    finally:
        for left in (aside, former):
            shutil.rmtree(left, ignore_errors=True)


def write_model(folder: str, model: Model) -> None:
    """Write the weights and config.json of `model` into the folder."""
    checkpoint, dtype = model.checkpoint, DTYPES[model.dtype]
    weights = {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype, copy=True).contiguous()
        for name, value in sorted(checkpoint.weights.items())
    }
    path = os.path.join(folder, MODEL_WEIGHTS)
    storage.write_bytes(path, safetensors.torch.save(weights, {"format": "pt"}))
    config = {
        "format": FORMAT,
        "version": VERSION,
        "flags": dict(checkpoint.flags),
        "sampler": dict(model.sampler),
        "weights": checkpoint.exported,
        "dtype": model.dtype,
        "step": checkpoint.step,
        "samples": checkpoint.samples,
        "data": checkpoint.data,
        "reading": checkpoint.reading,
        "checkpoint": model.source,
        "sha256": sha256(path),
        "written_by": written_by(),
    }
    storage.write_json(os.path.join(folder, MODEL_CONFIG), config)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_model(folder: str, shown: str) -> Checkpoint:
    """The model in a folder as a checkpoint; its flags include those of the sampler.

    shown  the folder's name in messages
    CheckpointError: a file is missing or damaged, of another program, or of a newer version.
    """
    config = read_config(folder, shown)
    return Checkpoint(
        flags=current_flags({**config["flags"], **config["sampler"]}),
        weights=_read_weights(folder, shown, config["sha256"]),
        exported=config["weights"],
        **{name: config[name] for name in ("step", "samples", "data", "reading", "written_by")},
    )


def read_config(folder: str, shown: str) -> dict[str, Any]:
    """The content of config.json, whose parts are those of CONFIG_PARTS. CheckpointError: as read_model."""
    where = f"{shown}: {MODEL_CONFIG}"
    content = storage.read_bytes(os.path.join(folder, MODEL_CONFIG))
    if content is None:
        raise CheckpointError(f"{where} is missing; {AGAIN}")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged, it cannot be read as JSON; {AGAIN}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{where} is of another program; pass a folder that cimd-export wrote")
    version = config.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(
            f"{where} is of version {version} of the format, this program has version {VERSION}; install a newer "
            "version of this program"
        )
    damaged = [name for name in CONFIG_PARTS if name not in config or not _is_sound(name, config[name])]
    if version != VERSION or damaged:
        raise CheckpointError(f"{where}: missing or damaged parts: {', '.join(damaged or ['version'])}; {AGAIN}")
    return config


def _is_sound(name: str, value: object) -> bool:
    """Whether a part of config.json can be right."""
    try:
        return CONFIG_PARTS[name](value)
    except TypeError:  # a list or dict, which cannot be looked up
        return False


def _read_weights(folder: str, shown: str, digest: str) -> Weights:
    """The weights with this SHA-256; of a local folder, they are memory-mapped. CheckpointError: as read_model."""
    path, where = os.path.join(folder, MODEL_WEIGHTS), f"{shown}: {MODEL_WEIGHTS}"
    if not storage.exists(path):
        raise CheckpointError(f"{where} is missing; {AGAIN}")
    if sha256(path) != digest:
        with storage.open_to_read(path) as file:
            head = file.read(HEAD)
        reason = why_unreadable(path, ValueError())
        if is_safetensors(head):
            reason = f"it is damaged, or not the one that {MODEL_CONFIG} belongs to; {AGAIN}"
        raise CheckpointError(f"{where}: {reason}")
    try:
        if storage.is_remote(path):
            weights = safetensors.torch.load(storage.read_bytes(path) or b"")
        else:
            weights = safetensors.torch.load_file(path)
    except Exception as error:  # safetensors, torch and the file system raise several types
        raise CheckpointError(f"{where}: is damaged ({error}); {AGAIN}") from error
    if not is_weights(weights):
        raise CheckpointError(f"{where}: has tensors of unknown dtypes; {AGAIN}")
    return weights
