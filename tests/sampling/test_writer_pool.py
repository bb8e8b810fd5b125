"""A case's files: after a kill at any moment, after a power failure, and with several threads."""

import os
from functools import partial

import numpy as np
import pytest

from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import pictures
from guided_diffusion.masks.postprocess import PostprocessConfig
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import SampleConfig, finish, identity
from guided_diffusion.sampling.writer_pool import CaseWriter, PackedArrays
from guided_diffusion.system import storage


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def dataset(cases):
    return LIDCDataset(cases, 16, 1)


def soft(seed, count):
    return np.random.default_rng(seed).random((count, 16, 16), dtype=np.float32)


def writing(folder, seed=0, count=3, threshold=0.5, consensus="majority"):
    """(config, drawn_by, finished_by, a function that writes a case) of one run."""
    config = SampleConfig(out_dir=str(folder), num_ensemble=count, seed=seed, consensus=consensus)
    drawn_by = identity(config, None, 1, "none", {}, "")
    finished_by = finish(config, PostprocessConfig(threshold=threshold))
    write = lambda case: store.write_case(str(folder), case, soft(seed, count), drawn_by, finished_by)
    return config, drawn_by, finished_by, write


def content(folder):
    """{name: bytes} of the files that readers look at: not those that are written aside."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def die_at(monkeypatch, number):
    """From the `number`-th change of the folder on, no file is renamed or removed any more: as after a kill."""
    changes = []

    def dying(change, *paths):
        changes.append(paths)
        if len(changes) > number:
            raise Killed
        change(*paths)

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, partial(dying, getattr(os, name)))
    return changes


def kill_everywhere(monkeypatch, prepare, write):
    """Yield after a kill at each moment of write() in turn, until one run ends; `prepare` makes the folder before."""
    for number in range(100):
        prepare()
        with monkeypatch.context() as mortal:
            die_at(mortal, number)
            try:
                write()
            except Killed:
                pass
            else:
                assert number > 4
                return
        yield number
    raise AssertionError("write() never came to its end")


@pytest.mark.parametrize("before", [None, {"threshold": 0.3}, {"seed": 1, "count": 5}, {"consensus": "none"}])
def test_a_kill_at_any_moment_leaves_no_case_that_looks_finished_but_is_not(dataset, tmp_path, monkeypatch, before):
    case, folder, whole = dataset[0], tmp_path / "killed", tmp_path / "whole"
    for made in (folder, whole):
        made.mkdir()
    config, drawn_by, finished_by, write = writing(folder)
    writing(whole)[-1](case)

    def prepare():
        for path in folder.iterdir():
            path.unlink()
        if before:
            writing(folder, **before)[-1](case)

    path = folder / f"{case.id}_samples.npz"
    for _ in kill_everywhere(monkeypatch, prepare, lambda: write(case)):
        made_by = store.read_case(str(path))[1] if path.exists() else {}
        same = all(made_by.get(name) == value for name, value in {**drawn_by, **finished_by}.items())
        assert not same, "only the last rename marks the case as complete"
        if made_by.get("seed") == 0:  # the samples are there: nothing is drawn again
            np.testing.assert_array_equal(store.read_case(str(path))[0], soft(0, 3))
            assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == []
        else:
            write(case)
        assert content(folder) == content(whole)


def test_what_a_power_cut_damages_is_written_again(dataset, tmp_path):
    case = dataset[0]
    config, drawn_by, finished_by, write = writing(tmp_path)
    write(case)
    whole = content(tmp_path)
    for name in (name for name in whole if name.endswith(".png")):
        for damaged in (b"", whole[name][:-9], None):
            if damaged is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_bytes(damaged)
            assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == []
            assert content(tmp_path) == whole
    (tmp_path / f"{case.id}_output3.png").write_bytes(b"of a larger ensemble, removed shortly before the power cut")
    assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == [] and content(tmp_path) == whole
    (tmp_path / f"{case.id}_samples.npz").write_bytes(b"")
    assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == [0]


def test_files_from_before_the_checksums_are_finished(dataset, tmp_path):
    case, path = dataset[0], tmp_path / f"{dataset[0].id}_samples.npz"
    config, drawn_by, finished_by, write = writing(tmp_path)
    write(case)
    with np.load(path) as file:
        np.savez_compressed(path, **{name: file[name] for name in file.files if name != "pictures"})
    before = content(tmp_path)
    assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == [] and content(tmp_path) == before


def test_a_case_waits_for_the_disk_once_and_at_its_end(dataset, tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        note = lambda *which, name=name, real=real: (events.append((name, str(which[-1]))), real(*which))
        monkeypatch.setattr(os, name, note)
    monkeypatch.setattr(storage, "_sync_folder", lambda folder: events.append(("folder", folder)))
    write = writing(tmp_path)[-1]
    write(dataset[0])
    kinds = [kind for kind, _ in events]
    assert kinds == ["replace"] * 6 + ["fsync", "replace", "folder"]  # samples, three masks, consensus, sheet; samples
    events.clear()
    write(dataset[0])  # over a finished one, which must be gone from the disk before its pictures are
    waited = ["fsync", "replace", "folder"]
    assert [kind for kind, _ in events] == [*waited, *["replace"] * 5, *waited]
    assert events[1][1].endswith("_samples.npz") and events[-2][1].endswith("_samples.npz")


def test_samples_survive_an_error_in_making_their_pictures(dataset, tmp_path, monkeypatch):
    config, drawn_by, finished_by, write = writing(tmp_path)
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr(pictures, "sheet", lambda *args, **more: (_ for _ in ()).throw(MemoryError))
        write(dataset[0])
    np.testing.assert_array_equal(store.find_samples(str(tmp_path), dataset.ids[0], lambda: None)[0], soft(0, 3))
    assert store.unfinished(dataset, [0], config, drawn_by, finished_by) == []
    assert (tmp_path / f"{dataset.ids[0]}_sheet.png").exists()


def test_many_threads_write_the_files_of_one(dataset, tmp_path):
    written = []
    for writers in (1, 4):
        folder = tmp_path / str(writers)
        folder.mkdir()
        _, drawn_by, finished_by, _ = writing(folder)
        write = partial(store.write_case, str(folder), drawn_by=drawn_by, finished_by=finished_by)
        with CaseWriter(write, writers) as writer:
            for index in range(len(dataset)):
                writer(dataset[index], soft(index, 3), frames=[soft(index, 1)[0]] * 2)
        written.append(content(folder))
    assert written[0] == written[1] and len(written[0]) == 7 * len(dataset)


class Handed:
    """A future of a task that ends when somebody waits for it."""

    def __init__(self):
        self.ended = False

    def done(self):
        return self.ended

    def result(self):
        self.ended = True


@pytest.mark.parametrize("writers, at_once, most", [(1, 1, 2), (3, 1, 6), (2, 9, 9)])
def test_the_cases_that_wait_are_bounded(writers, at_once, most):
    handed, open_ones = [], []

    def submit(*args):
        handed.append(Handed())
        open_ones.append(sum(not future.ended for future in handed))
        return handed[-1]

    with CaseWriter(print, writers, at_once) as writer:
        writer.pool.submit = submit
        for case in range(20):
            writer(case, None)
    assert max(open_ones) == most and all(future.ended for future in handed)


def test_of_several_errors_that_of_the_first_case_is_raised():
    def write(case, samples):
        if case in (2, 3):
            raise OSError(f"case {case}")

    with pytest.raises(OSError, match="case 2"), CaseWriter(write, 4, at_once=9) as writer:
        for case in range(6):
            writer(case, None)


# -- packed arrays ----------------------------------------------------------------------------------------------------


def test_packed_arrays_are_read_by_numpy_and_grow_without_compressing_again(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    packed = PackedArrays(values=values, seed=3, name="ä")
    packed.write(str(tmp_path / "first.npz"))
    packed.add(more=0.5, sums=np.array([2**32 - 1], dtype=np.uint32))
    packed.write(str(tmp_path / "second.npz"))
    with np.load(tmp_path / "first.npz") as first, np.load(tmp_path / "second.npz") as second:
        assert first.files == ["values", "seed", "name"] and second.files == [*first.files, "more", "sums"]
        for file in (first, second):
            assert file["values"].dtype == np.float32 and file["seed"].item() == 3 and file["name"].item() == "ä"
            np.testing.assert_array_equal(file["values"], values)
        assert second["more"].item() == 0.5 and second["sums"].tolist() == [2**32 - 1]
        entry = first.zip.getinfo("values.npy")
        end = entry.header_offset + entry.compress_size
    contents = [(tmp_path / name).read_bytes() for name in ("first.npz", "second.npz")]
    assert entry.compress_size < values.nbytes + 128 and contents[0][:end] == contents[1][:end]
    again = PackedArrays(values=values, seed=3, name="ä")
    assert again.file.getvalue() == contents[0]


def test_no_objects_are_packed():
    with pytest.raises(ValueError, match="allow_pickle"):
        PackedArrays(values=np.array([None]))
