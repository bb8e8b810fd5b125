"""The checkpoints of one run, in a folder or in a blob store: which there are, which is whole, which may go.

savedmodelNNNNNN.pt   the last few
savedmodel.pt         a second name of the newest, in a folder; in a blob store manifest.json says which that is
bestmodel.pt          the best by validation
manifest.json         {checkpoints: [{step, file, sha256}]}, the newest last
"""

import hashlib
import os

import torch

from ..errors import CheckpointError
from ..system import storage
from .files import read_manifest, sha256
from .format import BEST, MANIFEST, NEWEST, NUMBERED
from .load import load_checkpoint


class CheckpointFolder:
    """keep  how many numbered checkpoints stay; None: all"""

    def __init__(self, folder, keep=None):
        self.folder, self.keep = folder, keep

    def path(self, name):
        return os.path.join(self.folder, name)

    def save(self, state):
        """Write `state` as savedmodelNNNNNN.pt and make it the newest; returns its path.

        The order keeps a whole checkpoint named at every moment: the file, then the manifest that names it, then the
        second name, and old files go last.
        """
        name = f"savedmodel{state['step']:06d}.pt"
        path, entries = self.path(name), read_manifest(self.folder)
        if (
            entries and entries[-1]["step"] >= state["step"]
        ):  # of a future that was left: it must not judge the new file
            entries = [e for e in entries if e["step"] < state["step"]]
            self._write_manifest(entries)
        digest = hashlib.sha256()
        storage.write_atomically(path, lambda file: torch.save(state, HashedFile(file, digest)))
        entry = {"step": state["step"], "file": name, "sha256": digest.hexdigest()}
        numbers = [step for step, _ in self._numbered() if step <= state["step"]]
        kept = set(numbers[-self.keep :] if self.keep else numbers)
        self._write_manifest([e for e in entries if e["step"] in kept] + [entry])
        if not storage.is_remote(path):
            _link(path, self.path(NEWEST))
        for step, other in self._numbered():
            if step not in kept:  # too old, or of a future that was left
                storage.remove(self.path(other))
        return path

    def save_best(self, state):
        """Write `state` as bestmodel.pt, in place of the one before."""
        storage.write_atomically(self.path(BEST), lambda file: torch.save(state, file))

    def _write_manifest(self, entries):
        storage.write_json(self.path(MANIFEST), {"checkpoints": entries})

    def _numbered(self):
        """[(step, file name)] of the numbered checkpoints that are there."""
        found = ((NUMBERED.fullmatch(name), name) for name in storage.names(self.folder))
        return sorted((int(match[1]), name) for match, name in found if match)

    def newest(self):
        """(state, path, lines to tell) of the newest whole checkpoint; (None, None, []) where there is none yet.

        One that is damaged, by its checksum or for the reader, is passed over for an older one, with a line.
        CheckpointError: there are some, but not one is whole.
        """
        sums = {entry["file"]: entry["sha256"] for entry in read_manifest(self.folder)}
        names = [name for _, name in reversed(self._numbered())]
        if not names and NEWEST in storage.names(self.folder):
            names = [NEWEST]
        skipped = []
        for name in names:
            path = self.path(name)
            try:
                if name in sums and sha256(path) != sums[name]:
                    raise CheckpointError(
                        f"{path}: damaged, its SHA-256 is not that of {MANIFEST}; an older one is taken"
                    )
                return load_checkpoint(path), path, skipped
            except (CheckpointError, OSError) as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError(f"{skipped[0]}; no checkpoint in {self.folder} is whole: use another --log_dir")
        return None, None, []


class HashedFile:
    """An open file to write, whose content goes into `digest` too: read back from a blob store, it would be downloaded."""

    def __init__(self, file, digest):
        self.file, self.digest, self.flush = file, digest, file.flush

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)


def _link(path, name):
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
