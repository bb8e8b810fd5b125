"""The files of checkpoints, in a folder or a blob store."""

import hashlib
import json
import os

import torch

from ..errors import CheckpointError
from ..system import storage
from .format import MANIFEST, NEWEST, NUMBERED


def resolve(path):
    """`path`, or what the manifest beside it names where a blob store has no savedmodel.pt of its own."""
    folder, name = os.path.split(path)
    if name != NEWEST or not storage.is_remote(path) or storage.exists(path):
        return path
    entries = read_manifest(folder)
    return os.path.join(folder, entries[-1]["file"]) if entries else path


def read_manifest(folder):
    """The run's checkpoints [{step, file, sha256}], the newest last; none where there is no manifest, or a damaged one."""
    try:
        entries = json.loads(storage.read_bytes(os.path.join(folder, MANIFEST)) or b"{}").get("checkpoints", [])
        return [
            e for e in entries if NUMBERED.fullmatch(e["file"]) and "sha256" in e and isinstance(e.get("step"), int)
        ]
    except (ValueError, AttributeError, KeyError, TypeError):
        return []


def load_tensors(path):
    """What a file or a blob holds, its tensors on the CPU. CheckpointError: missing, a folder, truncated or unsafe."""
    if not storage.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint; train first, or correct the path")
    if storage.is_folder(path):
        raise CheckpointError(f"{path}: a folder; name the checkpoint in it, e.g. {os.path.join(path, NEWEST)}")
    try:
        with storage.open_to_read(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: truncated, damaged or not a checkpoint ({reason}); use another one") from error


def sha256(path):
    """The SHA-256 of a file or a blob, in hexadecimal digits."""
    digest = hashlib.sha256()
    with storage.open_to_read(path) as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path):
    """The first 16 hexadecimal digits of the file's SHA-256: which checkpoint made a sample."""
    return sha256(resolve(path))[:16]
