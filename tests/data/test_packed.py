"""Decoded cases in one file: what goes in comes out, what is damaged is refused, and a cache is made once."""

import errno
import os

import filelock
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.data.case_reader import CaseReader
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.geometry import CaseArrays, Geometry
from guided_diffusion.data.stores import case_cache as case_store
from guided_diffusion.data.stores.packed import PackedCases, write_pack
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.system import folders


def some_cases(rng, count=7):
    for k in range(count):
        size = rng.integers(1, 9, 2)
        image = rng.random((rng.integers(1, 4), *size), dtype=np.float32)
        raters = rng.random((rng.integers(0, 5), *size)) > 0.5
        own = tuple(rng.integers(1, 9, 2).tolist())
        yield f"case {k}", CaseArrays(image, raters, Geometry(f"{k}.png", own, own, image.shape[1:]) if k % 2 else None)


def test_what_goes_in_comes_out(tmp_path):
    path = str(tmp_path / "cases.pack")
    write_pack(path, some_cases(np.random.default_rng(0)), lambda: {"notes": ["a note"]})
    pack = PackedCases(path)
    assert pack.header == {"notes": ["a note"]} and len(pack) == 7
    for index, (name, (image, raters, geometry, _)) in enumerate(some_cases(np.random.default_rng(0))):
        assert pack.ids[index] == name
        got_image, got_raters, got_geometry, ignored = pack.arrays(index)
        assert got_geometry == geometry and ignored is None
        np.testing.assert_array_equal(got_image, image)
        np.testing.assert_array_equal(got_raters, raters)
        assert got_raters.dtype == bool and got_image.dtype == np.float32
        got_image[:] = 0  # memory of its own
    np.testing.assert_array_equal(pack.arrays(6)[0], image)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "whole.pack"
    write_pack(str(path), some_cases(np.random.default_rng(1)), dict)
    return path.read_bytes()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_as_they_were(whole, tmp_path_factory, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(
            st.one_of(st.integers(0, len(whole) - 1), st.integers(max(0, len(whole) - 400), len(whole) - 1))
        )
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    path = tmp_path_factory.getbasetemp() / "damaged.pack"
    path.write_bytes(content)
    expected = list(some_cases(np.random.default_rng(1)))
    try:
        pack = PackedCases(str(path))
        assert pack.ids == [name for name, *_ in expected]
    except DataError as error:
        assert str(path) in str(error)
        return
    damaged = 0
    for index, (name, arrays) in enumerate(expected):
        try:
            assert all(map(np.array_equal, pack.arrays(index)[:2], arrays[:2]))
        except DataError as error:
            assert f"{path}: {name} is damaged" in str(error)
            damaged += 1
    assert pack.is_sound() == (damaged == 0)


@pytest.fixture
def decoded(monkeypatch):
    """The folders that are decoded, one after another."""
    folders, read = [], CaseReader.read
    monkeypatch.setattr(CaseReader, "read", lambda self, folder: folders.append(folder) or read(self, folder))
    return folders


def test_cases_are_decoded_once_until_a_file_or_a_rule_changes(tmp_path, decoded):
    data, cache = tmp_path / "data", tmp_path / "cache"
    phantom.write_set(data, num_cases=3, seed=5, size=16, num_raters=3)
    plain = LIDCDataset(data, 16)
    decoded.clear()
    cached = LIDCDataset(data, 16, cache_dir=cache)
    assert len(decoded) == 3 and len(cached.fingerprint) == 16
    for a, b in zip(plain, [cached[k] for k in range(3)], strict=True):
        assert a.id == b.id and torch.equal(a.image, b.image) and torch.equal(a.raters, b.raters)
    assert LIDCDataset(data, 16, cache_dir=cache).fingerprint == cached.fingerprint and len(decoded) == 3
    assert LIDCDataset(data, 8, cache_dir=cache).notes == LIDCDataset(data, 8, cache_dir=cache).notes != []
    assert len(decoded) == 6
    LIDCDataset(data, 16, config=DataConfig(merge_labels=True), cache_dir=cache)
    assert len(decoded) == 9
    image = data / "phantom0001" / "image_phantom0001.png"
    image.write_bytes((data / "phantom0000" / "image_phantom0000.png").read_bytes())
    changed = LIDCDataset(data, 16, cache_dir=cache)
    assert len(decoded) == 12 and changed.fingerprint != cached.fingerprint
    assert torch.equal(changed[0].image, changed[1].image) and not torch.equal(cached[0].image, cached[1].image)


def test_a_damaged_cache_is_made_anew_and_one_that_cannot_be_written_is_named(cases, tmp_path, decoded):
    cached = LIDCDataset(cases, 16, cache_dir=tmp_path)
    (path,) = tmp_path.glob("*.pack")
    for disturbed in (path.read_bytes()[:-3], b"\xff" + path.read_bytes()[1:]):  # cut off, and a pixel that is NaN
        path.unlink()  # which `cached` still reads
        path.write_bytes(disturbed)
        decoded.clear()
        again = LIDCDataset(cases, 16, cache_dir=tmp_path)
        assert len(decoded) == 6 and torch.equal(again[0].image, cached[0].image)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file.*--cache_dir"):
        LIDCDataset(cases, 16, cache_dir=tmp_path / "file")


def test_a_read_only_cache_is_read_or_else_done_without(cases, tmp_path, monkeypatch, decoded):
    plain = LIDCDataset(cases, 16)

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", path)

    with monkeypatch.context() as patch:
        patch.setattr(filelock, "FileLock", refuse)
        kept = LIDCDataset(cases, 16, cache_dir=tmp_path)
    assert len(kept.notes) == 1 and f"{tmp_path} is read-only" in kept.notes[0] and len(kept.fingerprint) == 16
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.raters, b.raters)
        for a, b in zip(plain, [kept[k] for k in range(6)], strict=True)
    )
    LIDCDataset(cases, 16, cache_dir=tmp_path)
    decoded.clear()
    monkeypatch.setattr(filelock, "FileLock", refuse)
    assert LIDCDataset(cases, 16, cache_dir=tmp_path).notes == [] and decoded == []


def test_another_way_of_decoding_makes_a_file_of_its_own(cases, tmp_path, monkeypatch, decoded):
    LIDCDataset(cases, 16, cache_dir=tmp_path)
    monkeypatch.setattr(case_store, "READING_RULES", case_store.READING_RULES + 1)
    decoded.clear()
    LIDCDataset(cases, 16, cache_dir=tmp_path)
    assert len(decoded) == 6 and len(list(tmp_path.glob("*.pack"))) == 2


def test_broken_cases_are_named_and_leave_no_cache(tmp_path):
    phantom.write_set(tmp_path / "data", num_cases=3, seed=5, size=16, num_raters=3)
    for k in (0, 2):
        (tmp_path / "data" / f"phantom000{k}" / "label1_.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"(?s)phantom0000.*phantom0002"):
        LIDCDataset(tmp_path / "data", 16, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*pack*"))


def test_a_cache_is_decoded_by_whoever_has_its_lock(cases, tmp_path, monkeypatch, decoded):
    """While a case is read the lock cannot be had; afterwards it can, and its file stays for others that wait."""
    read, held = CaseReader.read, []

    def look(self, folder):
        (path,) = tmp_path.glob(".*.lock")
        try:
            with filelock.FileLock(path, blocking=False):
                held.append(False)
        except filelock.Timeout:
            held.append(True)
        return read(self, folder)

    monkeypatch.setattr(CaseReader, "read", look)
    LIDCDataset(cases, 16, cache_dir=tmp_path)
    (path,) = tmp_path.glob(".*.lock")
    with filelock.FileLock(path, blocking=False):
        assert held == [True] * 6


def count_readings(data_dir, cache_dir):
    """Print how many cases this process decodes, and what one of them has in it."""
    read, count = CaseReader.read, []
    CaseReader.read = lambda self, folder: count.append(1) or read(self, folder)
    dataset = LIDCDataset(data_dir, 16, cache_dir=cache_dir)
    print(len(count), float(dataset[2].image.sum()))


def test_processes_that_start_together_decode_once(ranks, cases, tmp_path):
    done = ranks.run(tmp_path, count_readings, str(cases), str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    counts = sorted(line.split() for line in done.stdout.splitlines())
    assert [int(count) for count, _ in counts] == [0, 6] and len({total for _, total in counts}) == 1


def test_the_default_cache_is_the_users():
    assert folders.user_cache({"XDG_CACHE_HOME": "/x"}) == "/x/ambiguous-segmentation"
    assert folders.user_cache({}) == os.path.expanduser("~/.cache/ambiguous-segmentation")
