"""The files of checkpoints, in a folder or a blob store."""

import contextlib
import hashlib
import json
import os
from typing import Any

import torch

from ..errors import CheckpointError
from ..system import storage
from .format import MANIFEST, NEWEST, NUMBERED


def resolve(path: str) -> str:
    """`path`, or what the manifest beside it names where a blob store has no savedmodel.pt of its own."""
    folder, name = os.path.split(path)
    if name != NEWEST or not storage.is_remote(path) or storage.exists(path):
        return path
    entries = read_manifest(folder)
    return os.path.join(folder, entries[-1]["file"]) if entries else path


def read_manifest(folder: str) -> list[dict[str, Any]]:
    """The run's checkpoints [{step, file, sha256}], the newest last; none without a manifest, or with a damaged one."""
    try:
        entries = json.loads(storage.read_bytes(os.path.join(folder, MANIFEST)) or b"{}").get("checkpoints", [])
        return [
            e for e in entries if NUMBERED.fullmatch(e["file"]) and "sha256" in e and isinstance(e.get("step"), int)
        ]
    except (ValueError, AttributeError, KeyError, TypeError):
        return []


def load_tensors(path: str, mapped: bool = False) -> object:
    """What a file or a blob holds, its tensors on the CPU. CheckpointError: missing, a folder, truncated or unsafe.

    mapped  map a local file into memory, so that the tensors that are used are all that is read of it; a file or a file
            system that does not allow this is read as a whole
    """
    if not storage.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint; train first, or correct the path")
    if storage.is_folder(path):
        raise CheckpointError(f"{path}: a folder; name the checkpoint in it, e.g. {os.path.join(path, NEWEST)}")
    if mapped and not storage.is_remote(path):
        with contextlib.suppress(Exception):  # read as a whole, it loads, or what is wrong is reported
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    try:
        with storage.open_to_read(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        lines = str(error).strip().splitlines()
        reason = lines[0][:120] if lines else type(error).__name__
        raise CheckpointError(f"{path}: truncated, damaged or not a checkpoint ({reason}); use another one") from error


def sha256(path: str) -> str:
    """The SHA-256 of a file or a blob, in hexadecimal digits."""
    digest = hashlib.sha256()
    with storage.open_to_read(path) as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: str) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256: which checkpoint made a sample."""
    return sha256(resolve(path))[:16]
