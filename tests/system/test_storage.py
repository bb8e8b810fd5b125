"""Files and blob stores: what is written whole, what blobfile raises, and a platform without locks."""

import errno
import json
import os
import subprocess
import sys

import blobfile
import pytest
from blob_store import BlobStore
from helpers import ROOT

from guided_diffusion.flags.command_line import one_line_errors
from guided_diffusion.system import storage


@pytest.mark.parametrize("remote", [False, True])
def test_bytes_text_and_json_are_read_back_as_they_were(tmp_path, monkeypatch, remote):
    store = BlobStore(monkeypatch)
    folder = "gs://bucket/run" if remote else str(tmp_path)
    value = {"name": "Mitralklappe ü", "values": [1, 2.5, None]}
    storage.write_bytes(f"{folder}/a", memoryview(b"\x00\xff"))
    storage.write_text(f"{folder}/b", "first\r\nsecond ü\n")
    storage.write_json(f"{folder}/c", value)
    assert storage.read_bytes(f"{folder}/a") == b"\x00\xff"
    assert storage.read_bytes(f"{folder}/b") == "first\r\nsecond ü\n".encode()
    assert json.loads(storage.read_bytes(f"{folder}/c")) == value
    assert storage.names(folder) == ["a", "b", "c"] and len(store.objects) == 3 * remote
    assert storage.exists(f"{folder}/a") and storage.is_folder(folder) and not storage.is_folder(f"{folder}/a")
    storage.remove(f"{folder}/a")
    storage.remove(f"{folder}/a")
    assert storage.read_bytes(f"{folder}/a") is None and storage.names(f"{folder}/none") == []


def test_a_value_that_is_not_json_leaves_the_file_as_it_was(tmp_path):
    storage.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "a.json", {1, 2})
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n" and os.listdir(tmp_path) == ["a.json"]


CALLS = {
    "exists": lambda: storage.exists("gs://bucket/a"),
    "is_folder": lambda: storage.is_folder("gs://bucket/a"),
    "names": lambda: storage.names("gs://bucket/a"),
    "read_bytes": lambda: storage.read_bytes("gs://bucket/a"),
    "remove": lambda: storage.remove("gs://bucket/a"),
    "write_bytes": lambda: storage.write_bytes("gs://bucket/a", b""),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_error_of_the_blob_store_is_one_line(monkeypatch, capsys, call):
    def fail(*arguments):
        raise blobfile.Error("no such bucket")

    for name in ("BlobFile", "exists", "isdir", "listdir", "remove"):
        monkeypatch.setattr(blobfile, name, fail)
    with pytest.raises(OSError, match="no such bucket"):
        call()
    with pytest.raises(SystemExit), one_line_errors("program"):
        call()
    assert capsys.readouterr().err == "program: no such bucket\n"


def test_an_error_while_an_object_is_read_is_an_os_error(monkeypatch):
    BlobStore(monkeypatch).objects["gs://bucket/a"] = b"whole"
    with pytest.raises(OSError, match="cut off"), storage.open_to_read("gs://bucket/a") as file:
        assert file.read() == b"whole"
        raise blobfile.Error("cut off")


# The modules of POSIX are missing, and signals of a job too
ELSEWHERE = """
import signal, sys
sys.modules["fcntl"] = None
del signal.SIGUSR1, signal.SIGCHLD, signal.pthread_sigmask

import guided_diffusion.data.stores.case_cache, guided_diffusion.data.stream, guided_diffusion.system.workers
from guided_diffusion.system import signals, storage

with storage.FolderLock(sys.argv[1]) as lock, signals.Signals() as asked:
    lock.take()
    signal.raise_signal(signal.SIGTERM)
    assert asked.stop == "SIGTERM" and not asked.save
    print(open(lock.file.name).read())
assert "blobfile" not in sys.modules
"""


def test_a_platform_without_locks_and_signals_of_a_job_does_without(tmp_path):
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("process ")


def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with storage.FolderLock(str(tmp_path)) as lock:
        lock.take()
        assert lock.file
