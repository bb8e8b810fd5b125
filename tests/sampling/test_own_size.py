"""Files of samples have the size, orientation and affine of the image that they belong to."""

import itertools
import json
import zlib

import numpy as np
import pytest
import torch
from drawings import DISCS, GREY, STORED, exif, put, put_case, put_nifti, white
from grids import GRIDS, on_another_grid, placed, rotation
from helpers import call_script
from image_formats import FORMATS, PNG, drawn, in_png, in_tiff
from own_size import assert_within_a_pixel, blobs, draws_raters, plane_in, sample, write_model
from PIL import Image

from guided_diffusion.data.resize import canvas
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling import store

nibabel = pytest.importorskip("nibabel")


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    draws_raters(monkeypatch)


def draws(monkeypatch, samples):
    """Replace the network by a function count -> soft samples."""
    draw = "guided_diffusion.sampling.draw.draw_batch"
    monkeypatch.setattr(draw, lambda segmenter, cases, batch, *more, **named: samples(len(batch)))


def put_labels(folder, masks):
    for k, mask in enumerate(masks):
        put(folder / f"label{k}_.png", white(mask))


def written(out, name, masks=2, ending=".png"):
    """The written masks of a case, [M, H, W]."""
    planes = np.stack([plane_in(out / f"{name}_output{k}{ending}") for k in range(masks)])
    assert set(np.unique(planes)) <= ({0, 255} if ending == ".png" else {0, 1})
    return planes > 0


def assert_back(out, name, masks, network, pad=False, ending=".png"):
    for one, mask in zip(written(out, name, len(masks), ending), masks, strict=True):
        assert_within_a_pixel(one, mask, network, canvas(mask.shape, network) if pad else None)


# -- formats, orientations, sizes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_format(tmp_path_factory):
    """A case of each format, each of another size; (folder, {case: its masks})."""
    folder, masks = tmp_path_factory.mktemp("formats"), {}
    for name, form in FORMATS.items():
        seed = zlib.crc32(name.encode())
        height, width = np.random.default_rng(seed).integers(9, 70, 2)
        case = f"{len(masks)} " + "".join(c if c.isalnum() else "_" for c in name)
        (folder / case).mkdir()
        form.write(folder / case / f"image{form.suffix}", drawn(form, height, width, seed).astype(form.dtype))
        masks[case] = [blobs(height, width, seed + k) for k in range(2)]
        put_labels(folder / case, masks[case])
    return folder, masks


@pytest.mark.parametrize(
    "size, pad", [("16", False), ("16", True), pytest.param("24,40", True, marks=pytest.mark.slow), ("48,32", False)]
)
def test_masks_of_every_format_and_size_are_those_drawn(every_format, tmp_path, size, pad):
    folder, masks = every_format
    model = write_model(tmp_path / "model.pt", image_size=size, pad=pad, grey=True)
    sample(folder, model, tmp_path / "out")
    network = tuple(int(side) for side in (size.split(",") * 2)[:2])
    for name, of_case in masks.items():
        assert_back(tmp_path / "out", name, of_case, network, pad, ".nii.gz" if "NIfTI" in name else ".png")
    assert len(list((tmp_path / "out").glob("*_sheet.png"))) == len(FORMATS)


TAGGED = {
    "JPEG": (".jpg", lambda path, a, tag: put(path, a, exif=exif(tag), quality=100)),
    "PNG": (".png", in_png(8)),
    "WebP": (".webp", lambda path, a, tag: put(path, a, exif=exif(tag), lossless=True)),
    "TIFF": (".tif", in_tiff),
}


@pytest.mark.parametrize("pad", [False, True])
def test_masks_of_turned_pictures_are_upright_and_without_a_tag(tmp_path, pad):
    """As viewers show the picture: every orientation of EXIF and TIFF, in each format that has one."""
    masks = [blobs(30, 50, k) for k in range(2)]
    image = np.where(masks[0], 200, 50).astype(np.uint8)
    for (name, (suffix, write)), tag in itertools.product(TAGGED.items(), STORED):
        case = tmp_path / "data" / f"{name}{tag}"
        case.mkdir(parents=True)
        write(case / f"image{suffix}", STORED[tag](np.dstack([image] * 3) if name == "WebP" else image), tag)
        put_labels(case, masks)
    out = tmp_path / "out"
    sample(tmp_path / "data", write_model(tmp_path / "model.pt", image_size="16,24", pad=pad), out)
    for name, tag in itertools.product(TAGGED, STORED):
        assert_back(out, f"{name}{tag}", masks, (16, 24), pad)
        with Image.open(out / f"{name}{tag}_output0.png") as picture:
            assert picture.size == (50, 30) and not picture.getexif()
        assert store.geometry_of(store.read_case(str(out / f"{name}{tag}_samples.npz"))[1]).orientation == tag


def test_pictures_of_the_networks_size_get_masks_of_exactly_the_samples(tmp_path):
    masks = [np.random.default_rng(k).random((16, 24)) > 0.5 for k in range(2)]
    names = [name for name in PNG if "named" not in name]
    for k, name in enumerate(names):
        form = PNG[name]
        (tmp_path / "data" / f"c{k}").mkdir(parents=True)
        form.write(tmp_path / "data" / f"c{k}" / "image.png", drawn(form, 16, 24, k).astype(form.dtype))
        put_labels(tmp_path / "data" / f"c{k}", masks)
    model = write_model(tmp_path / "model.pt", image_size="16,24", grey=True)
    sample(tmp_path / "data", model, tmp_path / "out")
    for k in range(len(names)):
        assert (written(tmp_path / "out", f"c{k}") == masks).all()


# -- what else is written ---------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of 200 x 150 pixels, with two raters; a folder, and the masks."""
    masks = {}
    rows, columns = np.mgrid[:150, :200]
    for c in range(4):
        away = np.hypot(rows - 60 - c, columns - 120)
        masks[f"c{c}"] = [away < 30, away < 24]
        put_case(tmp_path / "data" / f"c{c}", map(white, masks[f"c{c}"]), np.where(away < 30, 180, 40).astype(np.uint8))
    return tmp_path / "data", masks


@pytest.mark.parametrize("pad", [False, True])
def test_pictures_get_masks_maps_sheets_and_movies_of_their_size(pictures, tmp_path, pad):
    folder, masks = pictures
    model, out = write_model(tmp_path / "model.pt", image_size=32, pad=pad), tmp_path / "out"
    text = sample(folder, model, out, "--consensus=mean", "--save_probabilities", "--evaluate", "--movie")
    assert "scored at 200x150 pixels, the cases' own size" in text
    for name, of_case in masks.items():
        for kind in ("output0", "output1", "consensus", "probability"):
            with Image.open(out / f"{name}_{kind}.png") as picture:
                assert picture.size == (200, 150)
                assert picture.mode == ("I;16" if kind == "probability" else "L")
        assert_back(out, name, of_case, (32, 32), pad)
        mean = written(out, name).mean(0)
        assert abs(plane_in(out / f"{name}_probability.png") / 65535 - mean).max() <= 0.5 / 65535
        assert abs(plane_in(out / f"{name}_consensus.png") / 255 - mean).max() <= 0.5 / 255
        for kind in ("sheet.png", "movie.gif"):
            with Image.open(out / f"{name}_{kind}") as picture:
                assert picture.width > 2 * 200 and picture.height > 150
        with Image.open(out / f"{name}_movie.gif") as movie:
            assert 150 < movie.height < 250


def test_a_mean_of_three_masks_is_written_to_the_precision_of_its_format(tmp_path, monkeypatch):
    soft = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    draws(monkeypatch, lambda count: soft[:count])
    put(tmp_path / "data" / "a.png", GREY)
    put_nifti(tmp_path / "data" / "b.nii.gz", GREY.T.astype(np.float32), placed())
    out = tmp_path / "out"
    sample(
        tmp_path / "data", write_model(tmp_path / "model.pt"), out, "--save_probabilities", "--batch_size=3", masks=3
    )
    for name, ending in (("a", ".png"), ("b", ".nii.gz")):
        samples, made_by = store.read_case(str(out / f"{name}_samples.npz"))
        back = store.geometry_of(made_by).bring_back
        masks = binarise(samples, bring_back=back)
        assert (masks == written(out, name, 3, ending)).all()
        mean = plane_in(out / f"{name}_probability{ending}")
        if ending == ".png":
            assert abs(mean / 65535 - masks.mean(0)).max() <= 0.5 / 65535
        else:
            assert mean.dtype == np.float32 and (mean == masks.mean(0, dtype=np.float32)).all()


def test_a_bare_picture_gets_a_mask_of_its_size(tmp_path, monkeypatch):
    disc = DISCS[0].astype(np.float32)[::8, ::8]
    draws(monkeypatch, lambda count: np.stack([disc] * count))
    put(tmp_path / "scan 1.jpg", np.rot90(np.tile(GREY, (1, 2)), 1), exif=exif(6))
    model = write_model(tmp_path / "model.pt")
    sample(tmp_path / "scan 1.jpg", model, tmp_path / "out")
    with Image.open(tmp_path / "out" / "scan 1_output1.png") as picture:
        assert picture.size == (128, 64)


def test_files_of_an_earlier_run_are_never_inputs(tmp_path):
    """The output folder lies in the folder of pictures."""
    put(tmp_path / "a.png", GREY)
    put_nifti(tmp_path / "b.nii.gz", GREY.T.astype(np.float32), placed())
    for name in "ab":
        put(tmp_path / "labelled" / name / f"image{'.png' if name == 'a' else '.nii.gz'}", GREY)
        put(tmp_path / "labelled" / name / "label0_.png", white(DISCS[0]))
    model, out = write_model(tmp_path / "m" / "model.pt"), tmp_path / "labelled" / "out"
    flags = ("--consensus=mean", "--save_probabilities")
    sample(tmp_path / "labelled", model, out, *flags)
    assert (out / "b_probability.nii.gz").exists() and (out / "a_probability.png").exists()
    assert "all 2 cases are drawn" in sample(tmp_path / "labelled", model, out, *flags)


# -- NIfTI ------------------------------------------------------------------------------------------------------------

SHAPES = {"[x, y]": (30, 20), "[x, y, 1]": (30, 20, 1), "[1, y, z]": (1, 30, 20), "[x, 1, z]": (30, 1, 20)}
SHAPES |= {"[x, y, 1, 1]": (30, 20, 1, 1), "[x, 1, z, 1]": (30, 1, 20, 1)}
TURNED = rotation(25, 0) @ rotation(40, 2) @ placed()
CODES = {"sform": (1, 0), "qform": (0, 1), "both": (4, 2), "neither": (0, 0)}


def put_header(path, array, affine, sform_code, qform_code, other=None):
    """A NIfTI file with these codes, zooms of time and units; `other`: the affine of the sform, if it differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    if array.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], 2.5))
    image.set_qform(affine, qform_code)
    image.set_sform(affine if other is None else other, sform_code)
    nibabel.save(image, path)


def assert_same_place(path, like):
    """Two NIfTI files have the same shape and place their voxels alike."""
    a, b = nibabel.load(path), nibabel.load(like)
    assert a.shape == b.shape
    for name in ("pixdim", "sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(a.header[name], b.header[name].astype(a.header[name].dtype), err_msg=name)
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        np.testing.assert_array_equal(a.header[name], b.header[name].astype(np.float32), err_msg=name)
    np.testing.assert_allclose(a.affine, b.affine, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_nifti_slice_gets_masks_with_its_shape_and_header(tmp_path, shape, codes):
    masks = [blobs(30, 20, k) for k in range(2)]
    sizes = SHAPES[shape]
    for name, affine in {"turned": TURNED, "mirrored": placed() @ np.diag([-1.0, 1, 1, 1]), "plain": np.eye(4)}.items():
        image = np.where(masks[0], 180, 40).astype(np.int16).reshape(sizes)
        put_header(tmp_path / "data" / name / "image.nii.gz", image, affine, *CODES[codes])
        for k, mask in enumerate(masks):
            label = mask.astype(np.uint8).reshape(sizes)
            put_header(tmp_path / "data" / name / f"label{k}_.nii.gz", label, affine, *CODES[codes])
    out = tmp_path / "out"
    model = write_model(tmp_path / "model.pt", image_size=16, pad=True)
    sample(tmp_path / "data", model, out, "--consensus=mean", "--save_probabilities")
    for name, kind in itertools.product(("turned", "mirrored", "plain"), ("output0", "consensus", "probability")):
        path = out / f"{name}_{kind}.nii.gz"
        assert_same_place(path, tmp_path / "data" / name / "image.nii.gz")
        assert nibabel.load(path).get_data_dtype() == (np.uint8 if kind == "output0" else np.float32)
    for name, (k, mask) in itertools.product(("turned", "mirrored", "plain"), enumerate(masks)):
        array = np.asarray(nibabel.load(out / f"{name}_output{k}.nii.gz").dataobj).reshape(30, 20)
        assert_within_a_pixel(array.T > 0, mask.T, (16, 16), (30, 30))
    mean = np.asarray(nibabel.load(out / "plain_probability.nii.gz").dataobj).reshape(30, 20)
    arrays = [np.asarray(nibabel.load(out / f"plain_output{k}.nii.gz").dataobj).reshape(30, 20) for k in range(2)]
    np.testing.assert_array_equal(mean, np.mean(arrays, axis=0, dtype=np.float32))
    assert not list(out.glob("*_output*.png"))


HEADERS = {
    "sheared sform": lambda image: image.set_sform(
        placed() @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), 2
    ),
    "forms that differ": lambda image: (image.set_qform(placed(), 1), image.set_sform(TURNED, 2)),
    "no rotation in the qform": lambda image: (
        image.set_sform(placed(), 1),
        image.header.__setitem__("qform_code", 1),
        [image.header.__setitem__(f"quatern_{axis}", 0.9) for axis in "bcd"],
    ),
    "micrometres": lambda image: image.header.set_xyzt_units("micron", "msec"),
    "no units": lambda image: image.header.__setitem__("xyzt_units", 0),
    "a slope": lambda image: image.header.set_slope_inter(2.0, -5.0),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_odd_headers_are_kept(tmp_path, monkeypatch, header, kind, suffix):
    image = getattr(nibabel, kind)(np.where(blobs(30, 20, 0), 180, 40).astype(np.int16)[..., None], placed())
    HEADERS[header](image)
    (tmp_path / "data").mkdir()
    nibabel.save(image, tmp_path / "data" / f"a{suffix}")
    model = write_model(tmp_path / "model.pt")
    draws(monkeypatch, lambda count: np.ones((count, 8, 8), dtype=np.float32))
    sample(tmp_path / "data", model, tmp_path / "out")
    assert_same_place(tmp_path / "out" / "a_output0.nii.gz", tmp_path / "data" / f"a{suffix}")
    assert np.asarray(nibabel.load(tmp_path / "out" / "a_output0.nii.gz").dataobj).all()


@pytest.mark.parametrize("base", [np.eye(4), TURNED, placed() @ np.diag([-1.0, -1, 1, 1])])
def test_masks_lie_over_the_lesion_whatever_the_grid_of_the_labels(tmp_path, base):
    """Compared as arrays: the labels of the drawing, before they were turned and mirrored."""
    masks = [blobs(20, 30, k) for k in range(len(GRIDS))]
    for k, (grid, mask) in enumerate(zip(GRIDS, masks, strict=True)):
        voxels, case = mask.astype(np.uint8)[..., None], tmp_path / "data" / f"c{k:02d}"
        put_nifti(case / "image.nii.gz", np.where(voxels, 180.0, 40.0).astype(np.float32), base)
        put_nifti(case / "label0_.nii.gz", *on_another_grid(voxels, base, *grid))
    sample(tmp_path / "data", write_model(tmp_path / "model.pt", image_size=16), tmp_path / "out", masks=1)
    for k, mask in enumerate(masks):
        image = nibabel.load(tmp_path / "out" / f"c{k:02d}_output0.nii.gz")
        np.testing.assert_array_equal(
            image.affine, nibabel.load(tmp_path / "data" / f"c{k:02d}" / "image.nii.gz").affine
        )
        assert_within_a_pixel(np.asarray(image.dataobj)[..., 0].T > 0, mask.T, (16, 16))


def test_the_first_modality_decides(tmp_path):
    mask = blobs(20, 30, 0)
    voxels = np.where(mask, 180.0, 40.0).astype(np.float32)[..., None]
    put_nifti(tmp_path / "data" / "a" / "image_flair.nii.gz", voxels, placed())
    put_nifti(
        tmp_path / "data" / "a" / "image_t1.nii.gz", *on_another_grid(voxels, placed(), (1, 0, 2), (True, False, False))
    )
    put_nifti(tmp_path / "data" / "a" / "label0_.nii.gz", mask.astype(np.uint8)[..., None], placed())
    sample(
        tmp_path / "data",
        write_model(tmp_path / "model.pt", image_size=16, image_channels=2),
        tmp_path / "out",
        masks=1,
    )
    assert_same_place(tmp_path / "out" / "a_output0.nii.gz", tmp_path / "data" / "a" / "image_flair.nii.gz")
    array = np.asarray(nibabel.load(tmp_path / "out" / "a_output0.nii.gz").dataobj)[..., 0]
    assert_within_a_pixel(array.T > 0, mask.T, (16, 16))


# -- packed files -----------------------------------------------------------------------------------------------------


def put_mixed(folder):
    """Cases of other sizes, one of them NIfTI; {case: (masks, as stored)}."""
    found = {}
    for k, (size, suffix) in enumerate([((40, 50), ".png"), ((50, 30), ".png"), ((30, 44), ".nii.gz")]):
        masks = [blobs(*size, 10 * k + r, smooth=0.2) for r in range(2)]
        put(folder / f"c{k}" / f"image{suffix}", np.where(masks[0], 180, 40).astype(np.uint8), affine=TURNED)
        put_labels(folder / f"c{k}", masks)
        found[f"c{k}"] = masks
    return found


@pytest.mark.parametrize("size", [None, "64", "48,64", "24"])
@pytest.mark.parametrize("pad", [False, True])
def test_masks_of_packed_cases_have_the_cases_own_size(tmp_path, size, pad):
    masks = put_mixed(tmp_path / "data")
    flags = [f"--image_size={size}"] if size else []
    done = call_script("pack_data", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'packed'}", *flags)
    assert done.returncode == 0, done.stderr
    model, out = write_model(tmp_path / "model.pt", image_size=24, pad=pad), tmp_path / "out"
    (pack,) = (tmp_path / "packed").glob("*.pack")
    sample(pack, model, out)
    for name, of_case in masks.items():
        ending = ".nii.gz" if name == "c2" else ".png"
        for one, mask in zip(written(out, name, 2, ending), of_case, strict=True):
            if size:  # resized twice
                assert one.shape == mask.shape and (one & mask).sum() / (one | mask).sum() > 0.8
            else:
                assert_within_a_pixel(one, mask, (24, 24), canvas(mask.shape, (24, 24)) if pad else None)
    assert_same_place(out / "c2_output0.nii.gz", tmp_path / "data" / "c2" / "image.nii.gz")
    if size == "24":
        for index, own in enumerate(LIDCDataset(tmp_path / "data", 24, 1)):
            packed_case = LIDCDataset(str(pack), 24, 1)[index]
            assert torch.equal(packed_case.image, own.image) and packed_case.geometry == own.geometry


def test_packed_cases_without_geometry_get_masks_of_the_networks_size(tmp_path, monkeypatch):
    put_mixed(tmp_path / "data")
    write = json.dumps
    monkeypatch.setattr("json.dumps", lambda header: write({k: v for k, v in header.items() if k != "geometry"}))
    done = call_script("pack_data", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'packed'}")
    assert done.returncode == 0, done.stderr
    monkeypatch.undo()
    draws_raters(monkeypatch)
    (pack,) = (tmp_path / "packed").glob("*.pack")
    model, out = write_model(tmp_path / "model.pt", image_size=24), tmp_path / "out"
    said = sample(pack, model, out, "--save_probabilities", "--movie")
    assert f"{pack}: packed by an earlier version, without the sizes of the images" in said
    for index, case in enumerate(LIDCDataset(str(pack), 24, 1)):
        assert case.geometry is None
        assert (written(out, f"c{index}") == case.raters.numpy()).all()
        assert plane_in(out / f"c{index}_probability.png").shape == (24, 24)
    assert "nothing to do" in sample(pack, model, out, "--save_probabilities", "--movie")
