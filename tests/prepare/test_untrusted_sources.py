"""Sources of converters that are malicious or broken are refused by name, and nothing is written outside."""

import collections
import os
import pickle

import numpy as np
import pytest
from conversions import convert
from helpers import assert_refused

from guided_diffusion.errors import DataError
from guided_diffusion.prepare.formats import safe_pickle
from guided_diffusion.prepare.phantoms import files as phantom_files

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")

GREY = phantom_files.make_cases(12, seed=3, size=48, num_raters=4)


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused_without_running_it(tmp_path, protocol):
    marker = tmp_path / "owned"
    for content in (
        Payload(f"touch {marker}"),
        {"a": {"image": Payload(f"touch {marker}"), "masks": [], "series_uid": "1"}},
    ):
        with open(tmp_path / "bad.pickle", "wb") as file:
            pickle.dump(content, file, protocol=protocol)
        done = convert("lidc-pickle", tmp_path / "bad.pickle", tmp_path / "out")
        assert_refused(done, "bad.pickle", "system")
        assert not marker.exists()


def test_pickles_of_arrays_and_plain_containers_open_whatever_the_protocol(tmp_path):
    content = {
        "a": [np.arange(6.0).reshape(2, 3), np.float32(2.5), (1, "x", None, True, b"y")],
        "b": collections.OrderedDict(c=np.asfortranarray(np.eye(3))),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with open(tmp_path / "good.pickle", "wb") as file:
            pickle.dump(content, file, protocol=protocol)
        got = safe_pickle.load(tmp_path / "good.pickle")
        np.testing.assert_array_equal(got["a"][0], content["a"][0])
        np.testing.assert_array_equal(got["b"]["c"], np.eye(3))
        assert got["a"][1] == 2.5 and got["a"][2] == content["a"][2]
    for bad in (np.array([print, os.system]), dict.fromkeys):
        with open(tmp_path / "bad.pickle", "wb") as file:
            pickle.dump(bad, file)
        with pytest.raises(DataError, match="bad.pickle: refused"):
            safe_pickle.load(tmp_path / "bad.pickle")


def convert_key(tmp_path, key):
    with open(tmp_path / "x.pickle", "wb") as file:
        pickle.dump({key: {"image": np.zeros((8, 8)), "masks": [np.zeros((8, 8))], "series_uid": "1"}}, file)
    return convert("lidc-pickle", tmp_path / "x.pickle", tmp_path / "deep" / "out")


@pytest.mark.parametrize(
    "key",
    ["../escaped", "/tmp/escaped", "a/../../escaped", "..", ".", "", "..\\escaped", "C:\\escaped", "\\\\host\\escaped"],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    assert_refused(convert_key(tmp_path, key), "x.pickle", "is not a valid file name")
    assert not list(tmp_path.rglob("*escaped*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x.pickle"]


@pytest.mark.parametrize("key", ["a/b", "a\\b", ".hidden", "x" * 300, "...", "a\x00b", "~/x", "a\nb", "\udc80"])
def test_other_names_stay_within_the_folder(tmp_path, key):
    done = convert_key(tmp_path, key)
    assert done.returncode == 0, done.stderr
    (case,) = (tmp_path / "deep" / "out" / "training").iterdir()
    assert {path.name for path in case.iterdir()} == {f"image_{case.name}.png", "label0_.png"}
    assert not case.name.startswith(".") and not set("/\\\0\n") & set(case.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x.pickle"]


def test_a_file_that_grows_enormously_when_opened_is_refused_by_name(tmp_path):
    """HDF5 and NIfTI that claim to be huge, in a few kilobytes."""
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        group = file.create_group("train")
        group.create_dataset("images", shape=(10**6, 10**5, 10**5), dtype="f4", chunks=(1, 64, 64), compression="gzip")
        group.create_dataset(
            "labels", shape=(10**6, 10**5, 10**5, 4), dtype="u1", chunks=(1, 64, 64, 1), compression="gzip"
        )
    assert_refused(
        convert("lidc-hdf5", tmp_path / "bomb.h5", tmp_path / "out"), "bomb.h5, train", "100000x100000x4 pixels"
    )
    header = nibabel.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    (tmp_path / "q" / "a").mkdir(parents=True)
    import gzip

    with gzip.open(tmp_path / "q" / "a" / "image.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4 + 2**20))
    (tmp_path / "q" / "a" / "task01_seg01.nii.gz").write_bytes((tmp_path / "q" / "a" / "image.nii.gz").read_bytes())
    assert_refused(convert("qubiq", tmp_path / "q", tmp_path / "out"), "image.nii.gz")


@pytest.mark.parametrize(
    "content, words",
    [
        ([1, 2], "a dict of cases"),
        ({"a": {"image": np.zeros((8, 8))}}, "masks"),
        ({"a": {"image": np.full((8, 8), 7.0), "masks": [np.zeros((8, 8))], "series_uid": "1"}}, "[0, 1]"),
        ({"a": {"image": np.full((8, 8), np.nan), "masks": [np.zeros((8, 8))], "series_uid": "1"}}, "[0, 1]"),
        ({"a": {"image": np.zeros((8, 8)), "masks": [np.zeros((7, 8))], "series_uid": "1"}}, "shapes"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, content, words):
    with open(tmp_path / "x.pickle", "wb") as file:
        pickle.dump(content, file)
    assert_refused(convert("lidc-pickle", tmp_path / "x.pickle", tmp_path / "out"), "x.pickle", words)


def test_two_cases_of_one_name_and_a_used_folder_are_refused(tmp_path):
    image = {"image": np.zeros((8, 8)), "masks": [np.zeros((8, 8))], "series_uid": "1"}
    with open(tmp_path / "x.pickle", "wb") as file:
        pickle.dump({"1": image, 1: image}, file)
    assert_refused(convert("lidc-pickle", tmp_path / "x.pickle", tmp_path / "out"), "two cases are named 1")
    phantom_files.write_folders(tmp_path / "x", GREY)
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    assert_refused(
        convert("folders", tmp_path / "x", tmp_path / "out"), str(tmp_path / "out"), "already contains converted cases"
    )
    assert_refused(convert("folders", tmp_path / "x", tmp_path / "new", "--seed=-1"), "--seed")


def test_crafted_types_of_numpy_are_refused(tmp_path):
    """A type whose state denies that it holds objects would have bytes taken for pointers."""
    evil = (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
        b"bU\x08AAAAAAAA\x86R."
    )
    (tmp_path / "evil.pickle").write_bytes(evil)
    (tmp_path / "memo.pickle").write_bytes(
        b"\x80\x02]r\xff\xff\xff\x0f."
    )  # a memo of 2^28 places, for one of which there is use
    assert_refused(
        convert("lidc-pickle", tmp_path / "evil.pickle", tmp_path / "out"), "evil.pickle", "arrays of type 'O8'"
    )
    assert_refused(
        convert("lidc-pickle", tmp_path / "memo.pickle", tmp_path / "out"), "memo.pickle", "not a dict of cases"
    )
