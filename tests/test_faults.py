"""A short campaign of faults against training, and files of untrusted origin against the readers."""

import sys
import zlib

import numpy as np
import pytest
import torch
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion import checkpoint
from guided_diffusion.image_files import DataError, read_image, read_label
from guided_diffusion.lidcloader import LIDCDataset

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults  # noqa: E402

bounded = settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
def test_every_fault_is_survived():
    rows = faults.run_campaign(faults.FaultsConfig(kills=4, seed=1))
    assert [row["fault"] for row in rows] == list(faults.FAULTS)
    assert not [failure for row in rows for failure in row["failures"]]


# -- untrusted files --------------------------------------------------------------------------------------------------


def disturbed(data, content):
    """`content` with some bytes changed, cut off or put in between."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        what = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del content[place : place + data.draw(st.integers(1, 64))]
        else:
            content[place:place] = data.draw(st.binary(max_size=16))
    return bytes(content)


def picture_files(folder):
    """One file of each kind, by ending."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray((pixels.astype(np.uint16) * 257)).save(folder / "b.png")
    np.save(folder / "a.npy", pixels.astype(np.float32))
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(pixels.astype(np.int16), np.eye(4)), folder / "a.nii.gz")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return picture_files(tmp_path_factory.mktemp("pictures"))


@pytest.mark.filterwarnings("ignore")
@bounded
@given(data=st.data())
def test_readers_of_pictures_give_an_image_or_name_the_file(pictures, tmp_path, data):
    name = data.draw(st.sampled_from(sorted(pictures)))
    path = tmp_path / name
    path.write_bytes(disturbed(data, pictures[name]))
    for read in (read_image, lambda file: read_label(file, merge_labels=True)[0]):
        try:
            array = read(str(path))
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert array.ndim == 2 and np.isfinite(array).all()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "savedmodel.pt"
    torch.save({"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "step": 1, "flags": {"a": [1]},
                "weights": {"model.time_embed.0.weight": torch.arange(4.0)}, "ema": {}}, path)  # fmt: skip
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@bounded
@given(data=st.data())
def test_the_reader_of_checkpoints_gives_one_or_names_the_file(stored, tmp_path, data):
    path = tmp_path / "fuzzed.pt"
    path.write_bytes(disturbed(data, stored))
    try:
        state = checkpoint.load(str(path))
        assert isinstance(state["step"], int) and isinstance(state["weights"], dict) and isinstance(state["flags"], dict | None)
    except checkpoint.CheckpointError as error:
        assert str(path) in str(error)


def test_a_picture_of_billions_of_pixels_is_refused_by_name_without_reading_it(tmp_path):
    """60,000 x 60,000 pixels in a file of a few kilobytes, and one that is cut off."""
    case = tmp_path / "a"
    case.mkdir()
    Image.fromarray(np.zeros((60_000, 8), dtype=bool)).save(case / "label0_.png")
    content = bytearray((case / "label0_.png").read_bytes())
    content[16:20] = (60_000).to_bytes(4, "big")  # the width, and with it the header's checksum
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (case / "image.png").write_bytes(content)
    with pytest.raises(DataError, match="image.png.*3600000000 pixels"):
        LIDCDataset(tmp_path)
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    whole.save(case / "image.png")
    (case / "image.png").write_bytes((case / "image.png").read_bytes()[:900])
    with pytest.raises(DataError, match="image.png.*truncated"):
        LIDCDataset(tmp_path)


@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**62, 4)])
def test_an_array_that_claims_to_be_huge_is_refused_by_name(tmp_path, shape):
    path = tmp_path / "image.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with pytest.raises(DataError, match="image.npy"):
        read_image(str(path))
