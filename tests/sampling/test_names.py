"""Names of the files of samples: long ones, and those that a file system does not take."""

import builtins
import errno
import os
import string
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.errors import DataError
from guided_diffusion.masks.postprocess import PostprocessConfig
from guided_diffusion.sampling import names, store
from guided_diffusion.sampling.config import SampleConfig, finish, identity
from guided_diffusion.sampling.names import PROBE, check_names, stem_of

LONG = ["x" * 231, "ü" * 120, "日" * 100, "a-" * 400]
KEPT = ["a", "Müller 1", "a, b", "x" * names.MOST_BYTES, "日" * 75]


@pytest.mark.parametrize("name", KEPT)
def test_a_name_that_fits_is_kept(name):
    assert stem_of(name) == name


@pytest.mark.parametrize("name", LONG)
def test_a_long_name_keeps_its_start_and_gets_a_hash(name, tmp_path):
    stem = stem_of(name)
    assert name.startswith(stem[:50]) and stem != stem_of(name + "x") and stem == stem_of(name)
    for longest in (PROBE.format(stem), f".{stem}_probability.nii.gz.writing", f".{stem}_samples.npz.writing"):
        assert len(longest.encode()) <= 255
        (tmp_path / longest).touch()


@given(st.text(min_size=1, max_size=300))
def test_stems_fit_and_differ(name):
    name = name.encode(errors="ignore").decode()
    assert len(stem_of(name).encode()) <= names.MOST_BYTES
    assert stem_of(name) == name or len(name.encode()) > names.MOST_BYTES


def test_names_that_are_shortened_are_counted_in_one_line(tmp_path):
    assert check_names(str(tmp_path), KEPT) == []
    (line,) = check_names(str(tmp_path), [*KEPT, *LONG])
    assert "4 names" in line and len(line) < 120 and stem_of(LONG[0])[-12:] in line
    assert not list(tmp_path.iterdir())


def test_the_samples_of_a_long_name_are_written_and_found(tmp_path):
    name, samples = LONG[1], np.random.default_rng(0).random((2, 4, 4), dtype=np.float32)
    case = SimpleNamespace(
        id=name, image=torch.zeros(1, 4, 4), raters=torch.zeros(0, 4, 4), colour=False, geometry=None
    )
    config = SampleConfig(out_dir=str(tmp_path), consensus="majority")
    made_by = identity(config, None, 1, "none", {}, ""), finish(config, PostprocessConfig())
    store.write_case(str(tmp_path), case, samples, *made_by, frames=[samples[0]] * 2)
    assert len(list(tmp_path.iterdir())) == 6
    found, stored = store.find_samples(str(tmp_path), name, lambda: None)
    np.testing.assert_array_equal(found, samples)
    assert stored["case"] == name
    members = {"ids": [name], "__getitem__": lambda self, index: case, "own_arrays": lambda self, index: None}
    cases = type("Cases", (), members)()
    assert store.unfinished(cases, [0], config, *made_by) == []


# -- file systems that take less --------------------------------------------------------------------------------------


def like_a_file_system(monkeypatch, most=255, forbidden="", same=lambda name: name):
    """Names are refused as by a file system with a limit in bytes and forbidden characters, or folded by `same`."""
    plain_open, plain_exists, made = builtins.open, os.path.exists, set()

    def checked(path, mode="r", *more, **options):
        name = os.path.basename(str(path))
        if "w" in mode:
            if len(name.encode()) > most:
                raise OSError(errno.ENAMETOOLONG, "File name too long", path)
            if set(name) & set(forbidden):
                raise OSError(errno.EINVAL, "Invalid argument", path)
            made.add(same(name))
        return plain_open(path, mode, *more, **options)

    monkeypatch.setattr(builtins, "open", checked)
    monkeypatch.setattr(os.path, "exists", lambda path: plain_exists(path) or same(os.path.basename(path)) in made)


@pytest.mark.parametrize(
    "name, limits", [("y" * 130, {"most": 143}), ("a: b", {"forbidden": ':?"'}), ("why?", {"forbidden": "?"})]
)
def test_a_name_that_the_file_system_does_not_take_is_refused(tmp_path, monkeypatch, name, limits):
    like_a_file_system(monkeypatch, **limits)
    with pytest.raises(DataError) as error:
        check_names(str(tmp_path), ["a", name, "b"])
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{name}: ") and "rename" in line and f"--out_dir {tmp_path}" in line
    assert not list(tmp_path.iterdir())


def test_all_names_that_are_not_taken_are_counted(tmp_path, monkeypatch):
    like_a_file_system(monkeypatch, forbidden="?")
    with pytest.raises(DataError, match=r"12 cases \(a0\?, a1\?, .* and 7 more\)"):
        check_names(str(tmp_path), [f"a{k}?" for k in range(12)])


@pytest.mark.parametrize("pair", [("Scan", "scan"), ("Müller", "Mu\u0308ller")])
def test_names_that_the_file_system_takes_for_the_same_are_refused(tmp_path, monkeypatch, pair):
    assert check_names(str(tmp_path), pair) == []
    like_a_file_system(monkeypatch, same=lambda name: unicodedata.normalize("NFC", name).casefold())
    with pytest.raises(DataError) as error:
        check_names(str(tmp_path), pair)
    assert str(error.value).startswith(f"{pair[1]}: ") and pair[0] in str(error.value)
    assert check_names(str(tmp_path), [*string.ascii_lowercase]) == []


def test_an_error_of_the_folder_is_no_fault_of_a_name(tmp_path, monkeypatch):
    def full(path, mode="r", *more):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(OSError, match="No space left"):
        check_names(str(tmp_path), ["Müller"])
