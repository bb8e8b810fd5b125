"""The checkpoints of one run, in a folder or a blob store: saving, pruning, and finding the newest intact one.

savedmodelNNNNNN.pt   the last few checkpoints
savedmodel.pt         hard link to the newest; absent in a blob store, where manifest.json names the newest
bestmodel.pt          the best checkpoint by validation
manifest.json         {checkpoints: [{step, file, sha256}]}, newest last
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
    """The newest intact checkpoint of a folder."""

    checkpoint: Checkpoint
    path: str
    skipped: list[str]  # a message for each newer checkpoint that is damaged


class CheckpointFolder:
    """The checkpoints in a folder or below an address of a blob store.

    keep  number of numbered checkpoints to keep; None: all
    """

    def __init__(self, folder: str, keep: int | None = None) -> None:
        self.folder, self.keep = folder, keep

    def path(self, name: str) -> str:
        """The path of the file `name`."""
        return os.path.join(self.folder, name)

    def save(self, checkpoint: Checkpoint) -> str:
        """Write `checkpoint` as savedmodelNNNNNN.pt and make it the newest; returns its path.

        The order guarantees that an intact checkpoint is always available: first the file, then the manifest, then the
        link, and finally the removal of old files.
        """
        step, content = checkpoint.step, checkpoint.content()
        name = f"savedmodel{step:06d}.pt"
        path, entries = self.path(name), read_manifest(self.folder)
        # Drop entries of later steps, left from a run that was rewound: their checksums do not apply to the new file.
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
            if number not in kept:  # too old, or of a later step of a run that was rewound
                storage.remove(self.path(other))
        return path

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `checkpoint` as bestmodel.pt, replacing the previous one."""
        content = checkpoint.content()
        storage.write_atomically(self.path(BEST), lambda file: torch.save(content, file))

    def _write_manifest(self, entries: list[dict[str, Any]]) -> None:
        storage.write_json(self.path(MANIFEST), {"checkpoints": entries})

    def _numbered(self) -> list[tuple[int, str]]:
        """[(step, file name)] of the existing numbered checkpoints."""
        found = ((NUMBERED.fullmatch(name), name) for name in storage.names(self.folder))
        return sorted((int(match[1]), name) for match, name in found if match)

    def newest(self) -> Newest | None:
        """The newest intact checkpoint; None if there are no checkpoints yet.

        Checkpoints with a wrong checksum, and those that cannot be read, are skipped and reported.
        CheckpointError: all checkpoints are damaged.
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
                        f"{path}: damaged, its SHA-256 differs from {MANIFEST}; using an older checkpoint"
                    )
                return Newest(load_checkpoint(path), path, skipped)
            except (CheckpointError, OSError) as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError(f"{skipped[0]}; no checkpoint in {self.folder} is intact: use another --log_dir")
        return None


class HashedFile:
    """A writable file that also updates `digest`, which avoids reading a blob back to hash it."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash") -> None:
        self.file, self.digest, self.flush = file, digest, file.flush

    def write(self, data: bytes) -> int:
        """Write and hash `data`; returns the number of bytes."""
        self.digest.update(data)
        return self.file.write(data)


def _link(path: str, name: str) -> None:
    """Replace `name` by a hard link to the file `path`, or by a copy if links are not supported."""
    aside = f"{name}.new"
    if os.path.exists(aside):
        os.unlink(aside)
    try:
        os.link(path, aside)
        os.replace(aside, name)
    except OSError:
        with open(path, "rb") as file:
            storage.write_bytes(name, file.read())
