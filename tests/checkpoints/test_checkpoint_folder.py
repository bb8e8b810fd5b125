"""The checkpoints of a run: what stays, which is whole, in a folder and in a blob store."""

import contextlib
import json
import os
import resource
import signal
from dataclasses import replace

import pytest
import torch
from blob_store import BlobStore
from helpers import TINY, segmenter_of

from guided_diffusion.checkpoints.files import fingerprint, read_manifest, sha256
from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.checkpoints.format import Checkpoint
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.errors import CheckpointError
from guided_diffusion.system import storage


def state(step):
    weights = {"model.time_embed.0.weight": torch.full((4,), float(step))}
    return Checkpoint(step=step, flags=dict(TINY), weights=weights)


def steps_of(folder):
    return [step for step, _ in CheckpointFolder(str(folder))._numbered()]


def flip_a_bit(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("keep, left", [(1, [50]), (3, [30, 40, 50]), (None, [10, 20, 30, 40, 50])])
def test_the_newest_are_kept_and_the_best(tmp_path, keep, left):
    folder = CheckpointFolder(str(tmp_path), keep)
    folder.save_best(state(10))
    for step in (10, 20, 30, 40, 50):
        path = folder.save(state(step))
        assert path == str(tmp_path / f"savedmodel{step:06d}.pt")
        assert load_checkpoint(tmp_path / "savedmodel.pt").step == step
    assert steps_of(tmp_path) == left
    assert load_checkpoint(tmp_path / "bestmodel.pt").step == 10
    entries = json.loads((tmp_path / "manifest.json").read_text())["checkpoints"]
    assert [entry["step"] for entry in entries] == left
    assert all(entry["sha256"] == sha256(str(tmp_path / entry["file"])) for entry in entries)
    assert not [name for name in os.listdir(tmp_path) if "writing" in name or "new" in name]


@pytest.mark.parametrize("place", [0.001, 0.2, 0.5, 0.8, 0.999])
def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path, place):
    folder = CheckpointFolder(str(tmp_path))
    for step in (10, 20):
        folder.save(state(step))
    flip_a_bit(tmp_path / "savedmodel000020.pt", place)
    checkpoint, path, lines = folder.newest()
    assert checkpoint.step == 10 and path.endswith("savedmodel000010.pt")
    assert len(lines) == 1 and "savedmodel000020.pt" in lines[0] and "SHA-256" in lines[0]


def test_an_abandoned_future_goes_when_the_run_comes_by_again(tmp_path):
    """A damaged newest one would, once its checksum is forgotten, be taken for whole."""
    folder = CheckpointFolder(str(tmp_path))
    for step in (10, 20, 30):
        folder.save(state(step))
    flip_a_bit(tmp_path / "savedmodel000030.pt", 0.8)
    assert folder.newest().checkpoint.step == 20
    folder.save(state(25))
    assert steps_of(tmp_path) == [10, 20, 25] and folder.newest().checkpoint.step == 25


def test_a_kill_between_any_two_writes_leaves_the_old_or_the_new_one(tmp_path, monkeypatch):
    """Also where the same step is saved again with other content."""
    for again in (10, 20):
        for writes in range(8):
            home = tmp_path / f"{again}-{writes}"
            home.mkdir()
            folder = CheckpointFolder(str(home), keep=2)
            folder.save(state(10))
            left = [writes]

            def dying(real):
                def call(*arguments):
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    left[0] -= 1
                    return real(*arguments)

                return call

            with monkeypatch.context() as patch:
                for name in ("replace", "link", "unlink"):
                    patch.setattr(os, name, dying(getattr(os, name)))
                with contextlib.suppress(KeyboardInterrupt):
                    folder.save(replace(state(again), samples=1))
            step = CheckpointFolder(str(home), keep=2).newest().checkpoint.step
            assert step in (10, again) and (step == again or writes < 3)
            folder.save(state(30))
            assert folder.newest().checkpoint.step == 30


NO_STEP = '{"checkpoints": [{"file": "savedmodel000010.pt", "step": "10", "sha256": ""}]}'


@pytest.mark.parametrize(
    "text",
    [
        NO_STEP,
        "",
        "{",
        "[]",
        '{"checkpoints": [1]}',
        '{"checkpoints": [{"file": "../x"}]}',
        '{"checkpoints": {"a": 1}}',
    ],
)
def test_a_damaged_manifest_is_passed_over(tmp_path, text):
    folder = CheckpointFolder(str(tmp_path))
    folder.save(state(10))
    (tmp_path / "manifest.json").write_text(text)
    assert folder.newest().checkpoint.step == 10
    folder.save(state(20))
    assert read_manifest(str(tmp_path))[-1]["step"] == 20


@pytest.mark.parametrize("store", ["gs://bucket/run", "az://account/container/run"])
def test_a_blob_store_gets_whole_objects_and_then_the_manifest(store, monkeypatch):
    blobs = BlobStore(monkeypatch)
    folder = CheckpointFolder(store, keep=2)
    assert folder.newest() is None
    for step in (10, 20, 30):
        folder.save(state(step))
    assert not [path for path in blobs.read if path.endswith(".pt")]  # what is written is not downloaded again
    assert [name for kind, name in blobs.log[-3:]] == [
        f"{store}/savedmodel000030.pt",
        f"{store}/manifest.json",
        f"{store}/savedmodel000010.pt",
    ]
    assert sorted(blobs.objects) == [
        f"{store}/{name}" for name in ("manifest.json", "savedmodel000020.pt", "savedmodel000030.pt")
    ]
    assert folder.newest().checkpoint.step == 30
    for to_sample in (False, True):  # savedmodel.pt is what the manifest names
        assert load_checkpoint(f"{store}/savedmodel.pt", to_sample).step == 30
    assert fingerprint(f"{store}/savedmodel.pt") == fingerprint(f"{store}/savedmodel000030.pt")
    content = bytearray(blobs.objects[f"{store}/savedmodel000030.pt"])
    content[len(content) // 2] ^= 1
    blobs.objects[f"{store}/savedmodel000030.pt"] = bytes(content)
    assert folder.newest().checkpoint.step == 20


def test_an_upload_that_fails_leaves_no_object(monkeypatch):
    blobs = BlobStore(monkeypatch)

    def write(file):
        file.write(b"half")
        raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        storage.write_atomically("gs://bucket/object", write)
    assert blobs.objects == {}


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for a user who is not root
    with pytest.raises(PermissionError, match=str(tmp_path)):
        storage.make_folder(str(tmp_path))


def test_weights_of_a_real_segmenter_come_back(tmp_path):
    weights = segmenter_of(TINY).state_dict()
    CheckpointFolder(str(tmp_path)).save(replace(state(1), weights=weights))
    found = CheckpointFolder(str(tmp_path)).newest().checkpoint.weights
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(str(tmp_path / "none.pt"))


def test_a_full_disk_is_reported_although_the_writer_hides_it(tmp_path):
    before, after = resource.getrlimit(resource.RLIMIT_FSIZE), 100_000
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        with pytest.raises(OSError, match="File too large: .*savedmodel000001.pt"):
            CheckpointFolder(str(tmp_path)).save(replace(state(1), weights={"a": torch.zeros(10**6)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []
