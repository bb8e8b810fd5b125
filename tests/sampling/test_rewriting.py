"""Stored samples are written anew at another size, in another format and with other settings, without drawing again."""

import errno
import json

import numpy as np
import pytest
from drawings import put, white
from grids import placed, rotation
from helpers import call_script
from own_size import blobs, draws_nothing, draws_raters, plane_in, sample, write_model

from guided_diffusion.data.geometry import Geometry
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.sampling import store
from guided_diffusion.system import storage

nibabel = pytest.importorskip("nibabel")

PICTURE, SLICE, SAME = "a picture", "a slice", "of the network's size"
SIZES = {PICTURE: (20, 30), SLICE: (24, 20), SAME: (16, 16)}
LATER = ("geometry", "output_size", "save_probabilities", "written_by")  # what samples did not store before


@pytest.fixture
def data(tmp_path):
    """A PNG, a NIfTI slice, and a picture of the network's size, of two raters each."""
    for seed, (name, size) in enumerate(SIZES.items()):
        masks = [blobs(*size, 10 * seed + k) for k in range(2)]
        image = np.where(masks[0], 180, 40).astype(np.uint8)
        put(tmp_path / "data" / name / f"image{'.nii.gz' if name == SLICE else '.png'}", image, affine=placed())
        for k, mask in enumerate(masks):
            put(tmp_path / "data" / name / f"label{k}_.png", white(mask))
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.pt", image_size=16)


@pytest.fixture
def out(data, model, tmp_path, monkeypatch):
    """A folder of samples at the cases' own size; from now on nothing may be drawn."""
    draws_raters(monkeypatch)
    sample(data, model, tmp_path / "out")
    draws_nothing(monkeypatch)
    return tmp_path / "out"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ending(name):
    return ".nii.gz" if name == SLICE else ".png"


def as_before(folder):
    """Remove what earlier versions did not store, from samples whose files have the network's size."""
    for path in folder.glob("*_samples.npz"):
        with np.load(path) as file:
            kept = {name: file[name] for name in file.files if name not in LATER}
        np.savez(path, **kept)


@pytest.fixture
def former(data, model, out, tmp_path):
    """The files of an earlier version, for the same cases."""
    sample(data, model, out, "--output_size=network")
    as_before(out)
    return out


def assert_complete(folder, name, size=None, maps=(), masks=2):
    """The files of a case are those of one size and format, without others."""
    kind = ending(name) if size is None else ".png"
    expected = {f"output{k}{kind}" for k in range(masks)} | {f"{m}{kind}" for m in maps} | {"samples.npz", "sheet.png"}
    assert {path.name.removeprefix(f"{name}_") for path in folder.glob(f"{name}_*")} == expected
    for path in folder.glob(f"{name}_*{kind}"):
        if not path.name.endswith("_sheet.png"):
            assert plane_in(path).shape == (size or SIZES[name])


# -- former samples ---------------------------------------------------------------------------------------------------


def test_former_samples_are_written_at_their_cases_size(data, model, former):
    """Files that would be the same are left as they are."""
    before = content(former)
    text = sample(data, model, former)
    assert "masks of 2 cases written again" in text
    for name in SIZES:
        assert_complete(former, name)
    after = content(former)
    assert all(after[file] == old for file, old in before.items() if file.startswith(SAME))
    for name in (PICTURE, SLICE):
        samples, made_by = store.read_case(str(former / f"{name}_samples.npz"))
        for k, soft in enumerate(samples):
            written = plane_in(former / f"{name}_output{k}{ending(name)}") > 0
            assert (written == (store.geometry_of(made_by).bring_back(soft) > 0.5)).all()
    assert "nothing to do" in sample(data, model, former) and content(former) == after


def test_former_samples_stay_as_they_are_at_the_networks_size(data, model, former):
    before = content(former)
    assert "nothing to do" in sample(data, model, former, "--output_size=network")
    assert content(former) == before


def test_the_network_size_gives_the_former_files(data, model, out, monkeypatch, tmp_path):
    """Bit for bit those of samples drawn at this size, and of samples that know no other size."""
    own = content(out)
    draws_raters(monkeypatch)
    sample(data, model, tmp_path / "fresh", "--output_size=network")
    geometry_of = LIDCDataset.__getitem__
    with monkeypatch.context() as patch:
        unknown = lambda self, index: type(case := geometry_of(self, index))(case.id, case.image, case.raters)
        patch.setattr(LIDCDataset, "__getitem__", unknown)
        sample(data, model, tmp_path / "former")
    draws_nothing(monkeypatch)
    sample(data, model, out, "--output_size=network")
    for name in SIZES:
        assert_complete(out, name, (16, 16))
    pictures = lambda folder: {name: data for name, data in content(folder).items() if name.endswith(".png")}
    assert pictures(out) == pictures(tmp_path / "fresh") == pictures(tmp_path / "former")
    for path in out.glob("*_samples.npz"):
        samples = [store.read_case(str(folder / path.name))[0] for folder in (out, tmp_path / "former")]
        np.testing.assert_array_equal(*samples)
    sample(data, model, out)
    assert content(out) == own


# -- other settings ---------------------------------------------------------------------------------------------------

SETTINGS = [
    ("--output_size=network",),
    ("--save_probabilities",),
    ("--consensus=mean", "--save_probabilities"),
    ("--consensus=staple", "--output_size=network"),
    (),
    ("--consensus=majority", "--threshold=0.3"),
    ("--save_probabilities", "--output_size=network"),
    ("--fill_holes", "--largest_component"),
    ("--median_blur=3",),
    ("--threshold=0.7", "--save_probabilities"),
]


def test_other_settings_rewrite_what_changes_and_leave_nothing_else(data, model, out, tmp_path, monkeypatch):
    """One after another in the same folder, each as in a folder of its own."""
    for k, flags in enumerate(SETTINGS):
        assert "written again" in sample(data, model, out, *flags)
        assert "nothing to do" in sample(data, model, out, *flags)
        maps = ["consensus"] * ("--consensus" in str(flags)) + ["probability"] * ("--save_probabilities" in flags)
        for name in SIZES:
            assert_complete(out, name, (16, 16) if "--output_size=network" in flags else None, maps)
        with monkeypatch.context() as patch:
            draws_raters(patch)
            sample(data, model, tmp_path / str(k), *flags)
        pictures = [
            {name: data for name, data in content(folder).items() if not name.endswith(".npz")}
            for folder in (out, tmp_path / str(k))
        ]
        assert pictures[0] == pictures[1]


AFFINES = {"another place": placed(origin=(1.0, 2.0, 3.0)), "turned": rotation(10, 0) @ placed()}


@pytest.mark.parametrize("change", AFFINES)
def test_another_affine_of_the_image_is_another_affine_of_the_masks(data, model, out, change):
    path = data / SLICE / "image.nii.gz"
    put(path, plane_in(path), affine=AFFINES[change])
    assert "masks of 1 cases written again" in sample(data, model, out)
    for k in range(2):
        affine = nibabel.load(out / f"{SLICE}_output{k}.nii.gz").affine
        np.testing.assert_allclose(affine, AFFINES[change], atol=1e-5)
    assert "nothing to do" in sample(data, model, out)


def test_another_format_of_the_same_image_is_another_format_of_the_masks(data, model, out):
    """The pixels are the same, so the samples are."""
    whole, folder = content(out), data / SLICE
    image = plane_in(folder / "image.nii.gz")
    (folder / "image.nii.gz").unlink()
    put(folder / "image.png", np.where(image > 100, 255, 0).astype(np.uint8))  # a NIfTI image fills the range, too
    assert "masks of 1 cases written again" in sample(data, model, out)
    assert not list(out.glob("*.nii.gz")) and len(list(out.glob(f"{SLICE}_output*.png"))) == 2
    (folder / "image.png").unlink()
    put(folder / "image.nii.gz", image, affine=placed())
    assert "masks of 1 cases written again" in sample(data, model, out)
    assert content(out) == whole


DAMAGE = {
    "a mask is gone": lambda path: path.unlink(),
    "a mask is damaged": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "a mask is empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_are_gone_or_damaged_are_written_again(data, model, out, damage):
    sample(data, model, out, "--consensus=mean", "--save_probabilities")
    whole = content(out)
    for name, file in ((PICTURE, "output1"), (SLICE, "output0"), (SLICE, "probability"), (SAME, "consensus")):
        DAMAGE[damage](out / f"{name}_{file}{ending(name)}")
        assert "masks of 1 cases written again" in sample(data, model, out, "--consensus=mean", "--save_probabilities")
        assert content(out) == whole


def test_a_mask_of_the_other_format_is_removed(data, model, out):
    """Left behind, it would be taken for one of the ensemble."""
    whole = content(out)
    (out / f"{SLICE}_output0.png").write_bytes(whole[f"{PICTURE}_output0.png"])
    (out / f"{PICTURE}_output2.png").write_bytes(whole[f"{PICTURE}_output0.png"])
    (out / f"{PICTURE}_probability.png").write_bytes(whole[f"{PICTURE}_output0.png"])
    assert "masks of 2 cases written again" in sample(data, model, out)
    assert content(out) == whole


@pytest.mark.parametrize("entry", ["geometry", "output_size"])
@pytest.mark.parametrize("value", ["", "[]", "{}", "null", 3])
def test_an_entry_that_cannot_be_is_written_again(data, model, out, entry, value):
    whole = content(out)
    path = out / f"{PICTURE}_samples.npz"
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files}
    np.savez(path, **{**entries, entry: np.array(value)})
    assert "masks of 1 cases written again" in sample(data, model, out)
    with np.load(path) as file:
        assert all((file[name] == value).all() for name, value in entries.items())
    assert {name: data for name, data in content(out).items() if "npz" not in name} == {
        name: data for name, data in whole.items() if "npz" not in name
    }


def test_fewer_masks_leave_none_of_more(data, model, out, monkeypatch):
    draws_raters(monkeypatch)
    for name in (PICTURE, SLICE):
        assert (out / f"{name}_output1{ending(name)}").exists()
    sample(data, model, out, "--overwrite", masks=1)
    for name in SIZES:
        assert_complete(out, name, masks=1)


@pytest.mark.parametrize("file", ["output0", "output1", "consensus", "probability", "sheet"])
def test_an_interrupted_write_is_finished_by_the_next_run(data, model, out, monkeypatch, file):
    """Whichever file fails, also while the format changes; never are masks of two settings taken for an ensemble."""
    flags = ("--consensus=mean", "--save_probabilities")
    write = storage.write_bytes

    def full(path, content, sync=True):
        if f"{SLICE}_{file}" in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, content, sync)

    for more in ((), ("--output_size=network",), ()):
        with monkeypatch.context() as broken:
            broken.setattr(storage, "write_bytes", full)
            arguments = (f"--data_dir={data}", f"--model_path={model}", f"--out_dir={out}", "--num_ensemble=2")
            done = call_script("segmentation_sample", *arguments, "--steps=2", *flags, *more)
            assert done.returncode == 2 and "No space left" in done.stderr, done.stderr
        assert sample(data, model, out, *flags, *more)
        for name in SIZES:
            assert_complete(out, name, (16, 16) if more else None, ["consensus", "probability"])
        assert "nothing to do" in sample(data, model, out, *flags, *more)


def test_what_is_stored_says_where_the_pixels_came_from(out):
    stored = {name: store.read_case(str(out / f"{name}_samples.npz"))[1] for name in SIZES}
    for name, size in SIZES.items():
        geometry = store.geometry_of(stored[name])
        assert geometry == Geometry(f"image{ending(name)}", size, size, (16, 16), nifti=geometry.nifti)
        assert (geometry.nifti is not None) == (name == SLICE)
        assert json.loads(stored[name]["geometry"])["size"] == list(size)
        assert stored[name]["output_size"] == "own" and stored[name]["save_probabilities"] is False
