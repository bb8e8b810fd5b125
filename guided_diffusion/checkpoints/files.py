"""Checkpoint files, in a folder or a blob store."""

import contextlib
import hashlib
import json
import os
import warnings
from functools import cached_property
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..system import storage
from .diagnosis import why_unreadable
from .format import MANIFEST, NEWEST, NUMBERED
from .location import MODEL_CONFIG, MODEL_WEIGHTS, is_model_folder, locate


def resolve(path: str) -> str:
    """`path`; for savedmodel.pt in a blob store, which has no such object, the newest file of the manifest."""
    folder, name = os.path.split(path)
    if name != NEWEST or not storage.is_remote(path) or storage.exists(path):
        return path
    entries = read_manifest(folder)
    return os.path.join(folder, entries[-1]["file"]) if entries else path


def read_manifest(folder: str) -> list[dict[str, Any]]:
    """The run's checkpoints [{step, file, sha256}], newest last; empty if the manifest is missing or damaged."""
    try:
        entries = json.loads(storage.read_bytes(os.path.join(folder, MANIFEST)) or b"{}").get("checkpoints", [])
        return [
            e for e in entries if NUMBERED.fullmatch(e["file"]) and "sha256" in e and isinstance(e.get("step"), int)
        ]
    except (ValueError, AttributeError, KeyError, TypeError):
        return []


def load_tensors(path: str, mapped: bool = False) -> object:
    """The content of a file or blob, with tensors on the CPU. CheckpointError: missing, a folder, damaged or unsafe.

    mapped  memory-map a local file, so that only the tensors that are used are read; falls back to reading the whole
            file if it cannot be mapped
    """
    if not storage.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint; train first, or correct the path")
    if storage.is_folder(path):
        raise CheckpointError(f"{path}: is a folder; {_file_in(path)}")
    try:
        with warnings.catch_warnings(action="ignore"):
            return _load(path, mapped and not storage.is_remote(path))
    except Exception as error:  # on damaged files, torch.load raises any type of exception
        raise CheckpointError(f"{path}: {why_unreadable(path, error)}") from error


def _load(path: str, mapped: bool) -> object:
    if mapped:
        with contextlib.suppress(Exception):  # on failure, the code below loads the file or reports the error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with storage.open_to_read(path) as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _file_in(folder: str) -> str:
    """Which file of a folder to pass."""
    names = storage.names(folder)
    checkpoints = [name for name in (NEWEST, *reversed(names)) if name in names and name.endswith(".pt")]
    if not checkpoints:
        return f"pass a checkpoint, e.g. the {NEWEST} that training writes; this folder has none"
    return f"pass a file in it, e.g. {os.path.join(folder, checkpoints[0])}"


def sha256(path: str) -> str:
    """The SHA-256 of a file or blob, in hexadecimal."""
    digest = hashlib.sha256()
    with storage.open_to_read(path) as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: str) -> str:
    """16 hexadecimal digits that identify the checkpoint of a sample: the first of its file's SHA-256.

    Of a model folder, they are those of the SHA-256 of the SHA-256 of its weights and of its config.json.
    """
    path = resolve(locate(path))
    if not is_model_folder(path):
        return sha256(path)[:16]
    both = "".join(sha256(os.path.join(path, name)) for name in (MODEL_WEIGHTS, MODEL_CONFIG))
    return hashlib.sha256(both.encode()).hexdigest()[:16]


class CheckpointFile:
    """The file that a model was loaded from; a local one must not change until its hash has been computed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._before = self._state()

    def __str__(self) -> str:
        return self.path

    def _state(self) -> tuple[int, int] | None:
        """Time and size of a local file that exists."""
        path = locate(self.path)
        path = os.path.join(path, MODEL_WEIGHTS) if is_model_folder(path) else path
        if storage.is_remote(path) or not os.path.exists(path):
            return None
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size

    @cached_property
    def fingerprint(self) -> str:
        """The hash that identifies the checkpoint of a sample. ConfigError: the file has changed."""
        if self._state() != self._before:
            raise ConfigError(f"{self.path} has changed since it was loaded: load it and sample again")
        return fingerprint(self.path)
