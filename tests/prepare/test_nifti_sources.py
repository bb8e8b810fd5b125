"""NIfTI sources: slices, modalities, and files of a case whose affines turn them."""

import numpy as np
import pytest
from conversions import DISC, GREY, convert, read
from helpers import assert_refused

from guided_diffusion.prepare.phantoms import files as phantom_files

nibabel = pytest.importorskip("nibabel")

MODALITIES = phantom_files.make_cases(12, seed=3, size=48, num_raters=2, num_modalities=4)


def save(path, array, affine=None, oriented=True):
    """Write a NIfTI file; without orientation its header has the codes 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    if not oriented:
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nibabel.save(image, path)


def stored(array, order, flips, affine):
    """An array with its axes permuted and flipped, and the affine that leaves its voxels where they are."""
    affine = affine.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
    moved = np.flip(array, flips).transpose(order)
    affine[:, : len(order)] = affine[:, list(order)]
    return np.ascontiguousarray(moved), affine


AFFINE = np.array([[0.8, 0.1, 0, -30], [-0.1, 0.8, 0, 12], [0, 0, 3, 5], [0, 0, 0, 1.0]])  # oblique
TURNS = [((0, 1, 2), (0, 1)), ((1, 0, 2), ()), ((2, 0, 1), (2,)), ((2, 1, 0), (0, 1, 2)), ((0, 2, 1), (1,))]


@pytest.mark.parametrize("order, flips", TURNS)
def test_masks_of_volumes_are_brought_to_the_orientation_of_the_image(tmp_path, order, flips):
    rng = np.random.default_rng(0)
    image, masks = rng.integers(0, 1000, (5, 7, 6)).astype(np.int16), rng.random((2, 5, 7, 6)) > 0.5
    save(tmp_path / "x" / "a" / "image.nii.gz", image, AFFINE)
    save(tmp_path / "x" / "a" / "task01_seg01.nii.gz", *stored(masks[0].astype(np.uint8), order, flips, AFFINE))
    save(tmp_path / "x" / "a" / "task01_seg02.nii.gz", masks[1].astype(np.uint8), AFFINE)
    done = convert("qubiq", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "note: 1 NIfTI file brought to the orientation of the image" in done.stdout
    cases, _ = read(tmp_path / "out")
    for k in range(6):
        np.testing.assert_array_equal(cases[f"a_z{k:03d}"].raters.numpy() > 0, masks[:, :, :, k].transpose(0, 2, 1))
        expected = (image[:, :, k].T - image.min()) / np.ptp(image)
        np.testing.assert_allclose(cases[f"a_z{k:03d}"].image[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["brats", "ms-mri"])
def test_modalities_and_masks_are_brought_to_the_first_modality(tmp_path, name):
    write = {"brats": phantom_files.write_brats, "ms-mri": phantom_files.write_ms}[name]
    write(tmp_path / "x", MODALITIES[:2])
    assert convert(name, tmp_path / "x", tmp_path / "expected").returncode == 0
    turned = [path for word in ("_t2_", "_seg_", "_mask2") for path in sorted((tmp_path / "x").rglob(f"*{word}*"))[:1]]
    for path in turned:
        array = np.asarray(nibabel.load(path).dataobj)
        save(path, *stored(array, (1, 0, 2)[: array.ndim], (1,), np.eye(4)))
    done = convert(name, tmp_path / "x", tmp_path / "out")
    assert f"note: {len(turned)} NIfTI file" in done.stdout and done.returncode == 0, done.stdout
    (expected, _), (got, _) = read(tmp_path / "expected"), read(tmp_path / "out")
    assert expected.keys() == got.keys()
    for key, case in expected.items():
        np.testing.assert_array_equal(got[key].image, case.image)
        np.testing.assert_array_equal(got[key].raters, case.raters)


def test_pictures_of_folders_may_be_nifti(tmp_path):
    save(tmp_path / "x" / "a" / "scan.nii.gz", GREY.T, AFFINE)
    array, affine = stored(DISC.T[..., None].astype(np.uint8), (1, 0, 2), (0,), AFFINE)
    save(tmp_path / "x" / "a" / "mask0.nii", array, affine)
    save(tmp_path / "x" / "a" / "mask1.nii.gz", DISC.T.astype(np.uint8), AFFINE)
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "note: 1 NIfTI file brought" in done.stdout, done.stderr
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_array_equal(case.raters.numpy() > 0, [DISC, DISC])
    np.testing.assert_array_equal(case.image[0].numpy(), DISC)
    save(tmp_path / "x" / "a" / "mask1.nii.gz", DISC.T.astype(np.uint8), AFFINE + np.eye(4, k=3))
    assert_refused(
        convert("folders", tmp_path / "x", tmp_path / "no"), "mask1.nii.gz: its affine puts it on another grid"
    )


@pytest.mark.parametrize("name, word", [("qubiq", "seg02"), ("brats", "_seg_"), ("ms-mri", "_pd_")])
def test_files_on_another_grid_are_refused_by_name(tmp_path, name, word):
    write = {"qubiq": phantom_files.write_qubiq, "brats": phantom_files.write_brats, "ms-mri": phantom_files.write_ms}
    write[name](tmp_path / "x", MODALITIES)
    path = sorted((tmp_path / "x").rglob(f"*{word}*"))[0]
    save(path, np.asarray(nibabel.load(path).dataobj), np.diag([1, 1.5, 1, 1]))
    done = convert(name, tmp_path / "x", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert f"{path}: its affine puts it on another grid than" in fault
    assert f"{10 if name == 'ms-mri' else 11} cases" in done.stdout


def test_without_orientation_arrays_are_used_as_stored(tmp_path):
    turned = np.diag([-1.0, -1, 1, 1])
    save(tmp_path / "x" / "a" / "image.nii.gz", GREY.T, turned)
    save(tmp_path / "x" / "a" / "task01_seg01.nii.gz", DISC.T.astype(np.uint8), oriented=False)
    done = convert("qubiq", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "note" not in done.stdout, done.stderr
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_array_equal(case.raters[0].numpy() > 0, DISC)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("own", [True, False])
def test_masks_are_brought_to_the_axes_that_remain_without_the_modalities(tmp_path, axis, own):
    """Whether the affine describes the axes of the file or of a single modality."""
    planes = np.stack([GREY.T // (k + 1) for k in range(4)])
    affine = AFFINE.copy()
    if own:  # the columns of the affine are those of the axes: the modalities have one of their own
        affine[:, :3] = np.insert(AFFINE[:, :2], axis, AFFINE[:, 2], axis=1)
    save(tmp_path / "x" / "a" / "image.nii.gz", np.moveaxis(planes, 0, axis), affine)
    array, turned = stored(DISC.T[..., None].astype(np.uint8), (1, 0, 2), (0,), AFFINE)
    save(tmp_path / "x" / "a" / "task01_seg01.nii.gz", array[..., 0], turned)
    done = convert("qubiq", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "note: 1 NIfTI file brought" in done.stdout, done.stderr
    case = read(tmp_path / "out")[0]["a"]
    assert case.image.shape == (4, 48, 64)
    for plane in case.image.numpy():
        np.testing.assert_array_equal(plane == 1, DISC)
    np.testing.assert_array_equal(case.raters[0].numpy() > 0, DISC)
    save(tmp_path / "x" / "a" / "task01_seg01.nii.gz", array[..., 0], turned + np.eye(4, k=3))
    assert_refused(
        convert("qubiq", tmp_path / "x", tmp_path / "no"), "seg01.nii.gz: its affine puts it on another grid"
    )


def test_files_of_more_than_three_axes_are_refused(tmp_path):
    save(tmp_path / "x" / "a" / "image.nii.gz", np.zeros((8, 8, 1, 4), np.float32))
    save(tmp_path / "x" / "a" / "task01_seg01.nii.gz", np.eye(8, dtype=np.uint8))
    assert_refused(
        convert("qubiq", tmp_path / "x", tmp_path / "out"), "image.nii.gz: has shape 8x8x1x4; two or three axes"
    )


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_volumes_are_cut_along_the_last_axis_or_another_and_scaled_as_a_whole(tmp_path, axis):
    rng = np.random.default_rng(0)
    image, masks = rng.integers(0, 1000, (5, 7, 6)).astype(np.int16), rng.random((2, 5, 7, 6)) > 0.5  # few columns
    image[0, 0, 0], image[-1, -1, -1] = 0, 1000
    (tmp_path / "x" / "a").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "x" / "a" / "image.nii.gz")
    for k, mask in enumerate(masks):
        nibabel.save(
            nibabel.Nifti1Image(mask.astype(np.uint8), np.eye(4)), tmp_path / "x" / "a" / f"task01_seg0{k + 1}.nii.gz"
        )
    assert (
        convert("qubiq", tmp_path / "x", tmp_path / "out", *([] if axis is None else [f"--axis={axis}"])).returncode
        == 0
    )
    got, along = read(tmp_path / "out")[0], 2 if axis is None else axis
    assert len(got) == image.shape[along]
    for k in range(image.shape[along]):
        np.testing.assert_allclose(got[f"a_z{k:03d}"].image[0].numpy(), image.take(k, along).T / 1000, atol=1e-5)
        np.testing.assert_array_equal(
            got[f"a_z{k:03d}"].raters.numpy() > 0, np.stack([mask.take(k, along).T for mask in masks])
        )


def test_modalities_lie_along_the_axis_that_the_masks_lack(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "x" / "a").mkdir(parents=True)
    mask = rng.random((5, 6)) > 0.5
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.eye(4)), tmp_path / "x" / "a" / "task01_seg01.nii.gz")
    for k, shape in enumerate(((4, 5, 6), (5, 4, 6), (5, 6, 4))):
        image = rng.random(shape).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "x" / "a" / "image.nii.gz")
        assert convert("qubiq", tmp_path / "x", tmp_path / str(k)).returncode == 0
        (case,) = read(tmp_path / str(k))[0].values()
        assert case.image.shape == (4, 6, 5)
        plane = image.take(3, k).T
        np.testing.assert_allclose(case.image[3].numpy(), (plane - plane.min()) / np.ptp(plane), atol=1e-4)
        np.testing.assert_array_equal(case.raters[0].numpy() > 0, mask.T)
    for name in ("image.nii.gz", "task01_seg01.nii.gz"):
        shape = (6, 6, 6) if name.startswith("image") else (6, 6)
        made = (rng.random(shape) > 0.5).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(made, np.eye(4)), tmp_path / "x" / "a" / name)
    assert_refused(convert("qubiq", tmp_path / "x", tmp_path / "cube"), "may be along axis 0 or 1; pass --axis")
    assert convert("qubiq", tmp_path / "x", tmp_path / "given", "--axis=1").returncode == 0


def test_of_ms_volumes_that_are_there_twice_the_preprocessed_are_taken(tmp_path):
    phantom_files.write_ms(tmp_path / "plain", MODALITIES)
    assert convert("ms-mri", tmp_path / "plain", tmp_path / "expected").returncode == 0
    phantom_files.write_ms(tmp_path / "x", MODALITIES)
    for path in sorted((tmp_path / "x").rglob("*_pp.nii.gz")):
        for folder, name in (("orig", path.name.replace("_pp", "")), ("zzz", path.name.replace("_pp", "_n4"))):
            path.parent.with_name(folder).mkdir(exist_ok=True)
            other = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
            nibabel.save(other, path.parent.with_name(folder) / name.replace("mprage", "t1"))
    done = convert("ms-mri", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "exist more than once" in done.stdout, done.stderr
    (expected, _), (got, _) = read(tmp_path / "expected"), read(tmp_path / "out")
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name].image, expected[name].image)


def test_brats_slices_of_the_published_size_are_cut(tmp_path):
    for modality in ("flair", "t1", "t1ce", "t2", "seg"):
        pixels = np.zeros((240, 240), np.int16)
        pixels[8, 8], pixels[231, 231] = 1, 2
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / f"brats_train_001_{modality}_070_w.nii.gz")
    assert convert("brats", tmp_path, tmp_path / "out").returncode == 0
    (case,) = read(tmp_path / "out")[0].values()
    assert (
        case.image.shape == (4, 224, 224)
        and case.raters[0, 0, 0] == 1 == case.raters[0, -1, -1]
        and case.raters.sum() == 2
    )
