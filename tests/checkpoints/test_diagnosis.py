"""Files that cannot be loaded as checkpoints: each is named for what it is, with the remedy, in one line."""

import argparse
import errno
import gzip
import io
import json
import pathlib
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.errors import CheckpointError

WEIGHTS = {"time_embed.0.weight": torch.arange(5000.0).reshape(50, 100)}
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Download</title></head><body>Quota exceeded</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def saved(content, **how):
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def packed(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return file.getvalue()


def safetensors():
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def script():
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


class Payload:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("owned"),)


ZIP, OLD = saved(WEIGHTS), saved(WEIGHTS, _use_new_zipfile_serialization=False)
FILES = {
    "empty": (b"", "is empty; copy or download it again"),
    "zeros": (bytes(9000), "zeros"),
    "text": (b"hello", "is a text file"),
    "umlauts": (("ä" * 3000).encode(), "is a text file"),
    "json": (b'{"error": "not found"}', "is a text file"),
    "page": (PAGE, "is a web page"),
    "page of another encoding": (PAGE.decode().encode("utf-16"), "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf" + PAGE, "is a web page"),
    "long page": (b"<html>" + b"<p>text</p>" * 9000, "is a web page"),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "pointer": (POINTER, "Git LFS pointer.*git lfs pull"),
    "cut": (ZIP[: len(ZIP) // 2], "is truncated"),
    "cut at the end": (ZIP[:-3], "is truncated"),
    "cut early": (ZIP[:100], "is truncated"),
    "directory of members": (flipped(ZIP, ZIP.index(b"PK\x01\x02", len(ZIP) // 2) + 1), "is damaged"),
    "pickle": (flipped(ZIP, ZIP.index(b"time_embed") - 4), "is damaged"),
    "old, cut": (OLD[: len(OLD) // 2], "is truncated or damaged"),
    "code": (saved({"time_embed.0.weight": Payload()}), "pathlib.*which could run code.*state_dict"),
    "old code": (saved(Payload(), _use_new_zipfile_serialization=False), "pathlib.*which could run code"),
    "plain pickle": (pickle.dumps(Payload()), "pathlib.*which could run code"),
    "plain pickle of an older protocol": (pickle.dumps(Payload(), protocol=2), "which could run code"),
    "arguments": (saved({"model": WEIGHTS, "args": argparse.Namespace(lr=1)}), "argparse.Namespace.*state_dict"),
    "module": (saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear.*state_dict"),
    "safetensors": (safetensors(), "safetensors.*load_file"),
    "gzip": (gzip.compress(ZIP), "gzip archive.*unpack it"),
    "tar": (tar(), "tar archive.*unpack it"),
    "zip": (packed(["a/model.pt", "a/readme.txt"]), "zip archive that torch.save did not write; unpack it"),
    "script": (script(), "TorchScript.*state_dict"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "noise": (bytes(np.random.default_rng(0).integers(128, 256, 900, dtype=np.uint8)), "damaged or not a checkpoint"),
}


@pytest.mark.parametrize("content, words", FILES.values(), ids=FILES)
def test_what_the_file_is_and_what_to_do(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: pytest.fail(str(arguments)))
    path = tmp_path / "savedmodel.pt"
    path.write_bytes(content)
    for to_sample in (False, True):
        with pytest.raises(CheckpointError, match=f"savedmodel.pt: .*{words}") as refused:
            load_checkpoint(path, to_sample)
        message = str(refused.value)
        assert "\n" not in message and len(message) - len(str(path)) < 250 and "; " in message
        for foreign in ("weights_only", "Traceback", "invalid load key", "PytorchStreamReader", "Unpickl"):
            assert foreign not in message
    assert not (tmp_path / "owned").exists()


def test_no_flipped_byte_raises_anything_else(tmp_path):
    path, rng = tmp_path / "m.pt", np.random.default_rng(0)
    for content in (ZIP, OLD):
        for place in rng.integers(0, len(content), 150):
            path.write_bytes(flipped(content, int(place)))
            try:
                load_checkpoint(path)
            except CheckpointError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_a_folder_names_the_checkpoint_in_it(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder.*has none"):
        load_checkpoint(tmp_path)
    for name in ("a.pt", "b.pt", "savedmodel.pt"):
        torch.save(WEIGHTS, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"is a folder; pass a file in it, e.g. .*/{name}"):
            load_checkpoint(tmp_path)


def test_a_file_that_may_not_be_read_and_one_that_does_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    path.write_bytes(ZIP)

    def too_large(*arguments, **more):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", too_large)
    with pytest.raises(CheckpointError, match="does not fit into memory"):
        load_checkpoint(path)

    def refuse(*arguments, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("guided_diffusion.system.storage.open_to_read", refuse)
    with pytest.raises(CheckpointError, match="cannot be read .Permission denied.; check its permissions"):
        load_checkpoint(path)
