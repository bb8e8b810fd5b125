"""The checkpoints of one run, in a folder or in a blob store: which there are, which is whole, which may go.

savedmodelNNNNNN.pt   the last few
savedmodel.pt         a second name of the newest, in a folder; in a blob store manifest.json says which that is
bestmodel.pt          the best by validation
manifest.json         {checkpoints: [{step, file, sha256}]}, the newest last
"""

import hashlib
import os
from typing import IO, Any, NamedTuple, cast

import torch

from ..errors import CheckpointError
from ..system import storage
from .files import read_manifest, sha256
from .format import BEST, MANIFEST, NEWEST, NUMBERED, Checkpoint
from .load import load_checkpoint


class Newest(NamedTuple):
    """The newest whole checkpoint of a folder."""

    checkpoint: Checkpoint
    path: str
    skipped: list[str]  # a line to report for each damaged one that is newer


class CheckpointFolder:
    """The checkpoints in one folder or below one address of a blob store.

    keep  how many numbered checkpoints stay; None: all
    """

    def __init__(self, folder: str, keep: int | None = None) -> None:
        self.folder, self.keep = folder, keep

    def path(self, name: str) -> str:
        """The path of the file `name`."""
        return os.path.join(self.folder, name)

    def save(self, checkpoint: Checkpoint) -> str:
        """Write `checkpoint` as savedmodelNNNNNN.pt and make it the newest; returns its path.

        The order keeps a whole checkpoint named at every moment: the file, then the manifest that names it, then the
        second name, and old files go last.
        """
        step, content = checkpoint.step, checkpoint.content()
        name = f"savedmodel{step:06d}.pt"
        path, entries = self.path(name), read_manifest(self.folder)
        # What the manifest has of a future that was abandoned must not judge the new file.
        if entries and entries[-1]["step"] >= step:
            entries = [e for e in entries if e["step"] < step]
            self._write_manifest(entries)
        digest = hashlib.sha256()
        storage.write_atomically(path, lambda file: torch.save(content, cast(IO[bytes], HashedFile(file, digest))))
        entry = {"step": step, "file": name, "sha256": digest.hexdigest()}
        numbers = [other for other, _ in self._numbered() if other <= step]
        kept = set(numbers[-self.keep :] if self.keep else numbers)
        self._write_manifest([e for e in entries if e["step"] in kept] + [entry])
        if not storage.is_remote(path):
            _link(path, self.path(NEWEST))
        for number, other in self._numbered():
            if number not in kept:  # too old, or of a future that was abandoned
                storage.remove(self.path(other))
        return path

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `checkpoint` as bestmodel.pt, in place of the one before."""
        content = checkpoint.content()
        storage.write_atomically(self.path(BEST), lambda file: torch.save(content, file))

    def _write_manifest(self, entries: list[dict[str, Any]]) -> None:
        storage.write_json(self.path(MANIFEST), {"checkpoints": entries})

    def _numbered(self) -> list[tuple[int, str]]:
        """[(step, file name)] of the numbered checkpoints that are there."""
        found = ((NUMBERED.fullmatch(name), name) for name in storage.names(self.folder))
        return sorted((int(match[1]), name) for match, name in found if match)

    def newest(self) -> Newest | None:
        """The newest whole checkpoint; None where there is none yet.

        One that is damaged, by its checksum or for the reader, is skipped for an older one, with a line to report.
        CheckpointError: there are some, but not one is whole.
        """
        sums = {entry["file"]: entry["sha256"] for entry in read_manifest(self.folder)}
        names = [name for _, name in reversed(self._numbered())]
        if not names and NEWEST in storage.names(self.folder):
            names = [NEWEST]
        skipped: list[str] = []
        for name in names:
            path = self.path(name)
            try:
                if name in sums and sha256(path) != sums[name]:
                    raise CheckpointError(
                        f"{path}: damaged, its SHA-256 is not that of {MANIFEST}; an older one is taken"
                    )
                return Newest(load_checkpoint(path), path, skipped)
            except (CheckpointError, OSError) as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError(f"{skipped[0]}; no checkpoint in {self.folder} is whole: use another --log_dir")
        return None


class HashedFile:
    """An open file to write, whose content also goes into `digest`: reading it back from a blob store is a download."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash") -> None:
        self.file, self.digest, self.flush = file, digest, file.flush

    def write(self, data: bytes) -> int:
        """Write and hash `data`; returns its number of bytes."""
        self.digest.update(data)
        return self.file.write(data)


def _link(path: str, name: str) -> None:
    """Make `name` a second name of the file `path`, in place of what it named; a copy where links cannot be had."""
    aside = f"{name}.new"
    if os.path.exists(aside):
        os.unlink(aside)
    try:
        os.link(path, aside)
        os.replace(aside, name)
    except OSError:
        with open(path, "rb") as whole:
            storage.write_bytes(name, whole.read())
