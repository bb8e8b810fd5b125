"""Folders that can be written to and those that cannot, paths between drives, and the user's cache."""

import errno
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from guided_diffusion.errors import ConfigError
from guided_diffusion.system.folders import PROGRAM, check_writable, relative, user_cache


def test_a_usable_folder_is_made_and_left_empty(tmp_path, monkeypatch):
    check_writable(str(tmp_path / "a" / "b"), "out_dir")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "a" / "b") == []
    check_writable(str(tmp_path / "a" / "b"), "out_dir")
    monkeypatch.chdir(tmp_path)
    check_writable("", "out_dir")  # the current folder
    check_writable("c", "out_dir")
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
    check_writable("gs://bucket/folder", "out_dir")  # not tried
    (tmp_path / "link").symlink_to("a")
    check_writable("link", "out_dir")


def unusable(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return {
        tmp_path / "file": "a file or link of this name exists",
        tmp_path / "dangling": "a file or link of this name exists",
        tmp_path / "file" / "below": "a part of the path is a file",
        tmp_path / "made" / ("x" * 300): "the name is too long",
        tmp_path / "made" / "a\0b": "null",
    }


def test_an_unusable_folder_is_refused_in_one_line_and_nothing_is_left(tmp_path):
    for folder, reason in unusable(tmp_path).items():
        with pytest.raises(ConfigError) as refused:
            check_writable(str(folder), "out_dir")
        message = str(refused.value)
        assert message.startswith(f"--out_dir {folder}: cannot be written to, ") and reason in message
        assert message.endswith("; use another folder") and "\n" not in message
        assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]
    with pytest.raises(ConfigError, match="^--samples .*; pass --out_dir$"):
        check_writable(str(tmp_path / "file"), "samples", "pass --out_dir")


@pytest.mark.parametrize(
    "number, reason",
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.ENOSPC, "disk is full"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync"])
def test_what_the_system_refuses_is_named(tmp_path, monkeypatch, call, number, reason):
    """Root may write everywhere, so that the refusal is simulated."""

    def refuse(*arguments, **more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile._os.open" if call == "open" else f"os.{call}", refuse)
    with pytest.raises(ConfigError, match=f"--log_dir .*: cannot be written to, .*{reason}.*; use another folder"):
        check_writable(str(tmp_path / "a" / "b"), "log_dir")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="permissions do not bind this user")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no permission to write"):
        check_writable(str(tmp_path / "new"), "out_dir")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system without files of users")
def test_a_file_system_that_takes_no_files_is_refused():
    with pytest.raises(ConfigError, match="--out_dir /proc/results: cannot be written to"):
        check_writable("/proc/results", "out_dir")


def test_a_path_between_drives_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative("data", "runs/a") == os.path.join("..", "..", "data")

    def on_two_drives(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", on_two_drives)
    found = relative("data", "runs/a")
    assert found == str(tmp_path / "data") and os.path.join("runs/a", found) == found


def test_the_cache_is_the_users():
    home = os.path.join(os.path.expanduser("~"), ".cache", PROGRAM)
    assert user_cache({}, "linux") == user_cache({"XDG_CACHE_HOME": ""}, "linux") == user_cache({}, "win32") == home
    assert user_cache({"XDG_CACHE_HOME": "/x", "LOCALAPPDATA": "/y"}, "win32") == f"/x/{PROGRAM}"
    assert user_cache({"LOCALAPPDATA": "/y"}, "win32") == f"/y/{PROGRAM}"
    assert user_cache({"LOCALAPPDATA": "/y"}, "linux") == home


def test_scores_are_refused_before_any_case_is_read(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "samples").mkdir()
    command = [sys.executable, "-m", "guided_diffusion.commands.evaluate", "--data_dir=data/testing"]
    flags = [f"--samples={tmp_path / 'samples'}", f"--out_dir={tmp_path / 'file' / 'scores'}"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        f"--out_dir {tmp_path / 'file' / 'scores'}: cannot be written to, a part of the path is a file" in done.stderr
    )
