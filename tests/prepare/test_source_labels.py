"""One rule turns all labels of a source into masks; a source without one is refused, and leaves nothing behind."""

import pickle

import numpy as np
import pytest
from conversions import DISC, GREY, convert, read
from helpers import assert_refused
from PIL import Image

from guided_diffusion.prepare.phantoms import files as phantom_files

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")

CLASSES = DISC.astype(np.uint8)
CLASSES[35:45, 5:20] = 2  # 150 pixels
SMALL = Image.fromarray(DISC.astype(np.uint8) * 255).resize((32, 24), Image.Resampling.BILINEAR)
SOFT = np.asarray(SMALL.resize((64, 48), Image.Resampling.BILINEAR))
ONE, TWO = np.ones_like(CLASSES), np.full_like(CLASSES, 2)


# -- a source of the same labels in every format ----------------------------------------------------------------------


def write_folders(src, labels):
    for k, raters in enumerate(labels):
        (src / f"c{k}").mkdir(parents=True)
        Image.fromarray(GREY).save(src / f"c{k}" / "scan.png")
        for j, label in enumerate(raters):
            Image.fromarray(label).save(src / f"c{k}" / f"mask{j}.png")


def write_crops(src, labels):
    for k, raters in enumerate(labels):
        for kind in ("images", "gt"):
            (src / "train" / kind / f"c{k}").mkdir(parents=True)
        Image.fromarray(GREY).save(src / "train" / "images" / f"c{k}" / "z-1_c0.png")
        for j, label in enumerate(raters):
            Image.fromarray(label).save(src / "train" / "gt" / f"c{k}" / f"z-1_c0_l{j}.png")


def write_pickle(src, labels):
    content = {
        f"c{k}": {"image": GREY / 255, "masks": [one.astype(np.float64) for one in raters], "series_uid": str(k)}
        for k, raters in enumerate(labels)
    }
    src.write_bytes(pickle.dumps(content))


def write_hdf5(src, labels):
    with h5py.File(src, "w") as file:
        group = file.create_group("train")
        group["images"] = np.stack([GREY / 255 - 0.5] * len(labels))
        group["labels"] = np.moveaxis(np.array(labels), 1, -1)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def write_qubiq(src, labels):
    for k, raters in enumerate(labels):
        save(src / f"c{k}" / "image.nii.gz", GREY.T)
        for j, label in enumerate(raters):
            save(src / f"c{k}" / f"task01_seg{j:02d}.nii.gz", label.T.astype(np.float32))


def write_ms(src, labels):
    """The cases are the slices of a volume."""
    for name in ("flair", "t1", "t2", "pd"):
        save(src / f"v01_{name}_pp.nii.gz", np.stack([GREY.T] * len(labels), axis=-1))
    for j in range(len(labels[0])):
        save(src / f"v01_mask{j + 1}.nii.gz", np.stack([raters[j].T for raters in labels], axis=-1))


WRITERS = {
    "folders": write_folders,
    "lidc-crops": write_crops,
    "lidc-pickle": write_pickle,
    "lidc-hdf5": write_hdf5,
    "qubiq": write_qubiq,
    "ms-mri": write_ms,
}


def masks_of(out):
    """The masks of all cases, in the order of their names."""
    return [case.raters.numpy() > 0 for _, case in sorted(read(out)[0].items())]


@pytest.mark.parametrize("upper, lower", [(2, 1), (1, 0), (255, 254)])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_one_level_is_empty_or_full_by_the_rule_of_the_source(name, upper, lower, tmp_path):
    full, empty = np.full_like(CLASSES, upper), np.full_like(CLASSES, lower)
    labels = [[full, empty], [np.where(DISC, upper, lower).astype(np.uint8), full], [empty, empty]]
    WRITERS[name](tmp_path / "x", labels)
    done = convert(name, tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = [[DISC | True, DISC & False], [DISC, DISC | True], [DISC & False, DISC & False]]
    np.testing.assert_array_equal(masks_of(tmp_path / "out"), expected)
    areas = sorted((row["case"], row["areas"]) for row in read(tmp_path / "out")[1].values())
    assert [area for _, area in areas] == ["3072 0", "517 3072", "0 0"]
    done = convert(name, tmp_path / "x", tmp_path / "marked", "--min_raters=2")
    assert "1 cases" in done.stdout and "skipped 2 with too few raters" in done.stdout
    np.testing.assert_array_equal(masks_of(tmp_path / "marked"), expected[1:2])


@pytest.mark.parametrize("name", WRITERS)
def test_classes_are_refused_until_merged_or_chosen(name, tmp_path):
    WRITERS[name](tmp_path / "x", [[CLASSES, CLASSES]] * 2)
    done = convert(name, tmp_path / "x", tmp_path / "out")
    levels = "3 levels: 0 (9,620 pixels), 1 (2,068 pixels), 2 (600 pixels)"
    assert_refused(done, levels, "--merge_labels True", "--structure LEVEL")
    assert not (tmp_path / "out").exists()
    for flag, mask in (("--merge_labels=True", CLASSES > 0), ("--structure=1", DISC), ("--structure=2", CLASSES == 2)):
        assert convert(name, tmp_path / "x", tmp_path / flag, flag).returncode == 0
        np.testing.assert_array_equal(masks_of(tmp_path / flag), [[mask, mask]] * 2)
    assert_refused(convert(name, tmp_path / "x", tmp_path / "out", "--structure=3"), "no label has this level")


@pytest.mark.parametrize("name", WRITERS)
def test_levels_of_different_files_are_one_set(name, tmp_path):
    WRITERS[name](tmp_path / "x", [[CLASSES % 2, ONE], [CLASSES // 2 * 3, ONE]])
    done = convert(name, tmp_path / "x", tmp_path / "out")
    assert_refused(done, "the labels have 3 levels", ": 0 (5,477 pixels), 1 (6,661 pixels), 3 (150 pixels)")
    assert ("in different labels" in done.stderr) == (name != "ms-mri")  # whose cases are slices of one file


@pytest.mark.parametrize("name", WRITERS)
def test_interpolated_masks_are_refused_and_cut_by_the_flag(name, tmp_path):
    mask = DISC.astype(np.uint8) * 255
    WRITERS[name](tmp_path / "x", [[mask, mask], [mask, SOFT]])
    done = convert(name, tmp_path / "x", tmp_path / "out")
    refusal = "as in an interpolated or soft mask: --label_threshold 0.5"
    if name == "ms-mri":  # both cases are slices of the interpolated volume
        assert_refused(done, "v01_mask2.nii.gz: ", refusal)
        assert not (tmp_path / "out").exists()
    else:
        assert done.returncode == 1 and done.stdout.count("fault: ") == 1 and refusal in done.stdout, done.stderr
        np.testing.assert_array_equal(masks_of(tmp_path / "out"), [[DISC, DISC]])
    assert convert(name, tmp_path / "x", tmp_path / "cut", "--label_threshold=0.5").returncode == 0
    cut = masks_of(tmp_path / "cut")
    assert (SOFT > 0).sum() > 1.2 * DISC.sum() and abs(int(cut[1][1].sum()) - 517) < 10
    np.testing.assert_array_equal(cut, [[DISC, DISC], [DISC, SOFT > 127.5]])


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lidc-pickle", "qubiq"])
def test_a_threshold_is_a_share_of_the_scale_of_the_source(name, tmp_path):
    """Of arrays without a scale of their own: 1 of 255 is background, whatever is read first."""
    WRITERS[name](tmp_path / "x", [[CLASSES, DISC.astype(np.uint8)], [DISC.astype(np.uint8) * 200, CLASSES]])
    assert convert(name, tmp_path / "x", tmp_path / "out", "--label_threshold=0.5").returncode == 0
    np.testing.assert_array_equal(masks_of(tmp_path / "out"), [[DISC & False] * 2, [DISC, DISC & False]])


def test_a_mask_may_be_in_the_alpha_channel_or_in_the_indices_of_a_palette(tmp_path):
    write_folders(tmp_path / "alpha", [[]])
    white = np.full((48, 64, 3), 255, np.uint8)
    Image.fromarray(np.dstack([white, DISC.astype(np.uint8) * 255])).save(tmp_path / "alpha" / "c0" / "mask0.png")
    write_folders(tmp_path / "palette", [[]])
    palette = Image.fromarray(DISC.astype(np.uint8))
    palette.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    palette.save(tmp_path / "palette" / "c0" / "mask0.png")
    for name, note in (("alpha", "the mask in the alpha channel"), ("palette", "read by index")):
        done = convert("folders", tmp_path / name, tmp_path / f"{name}_out")
        assert done.returncode == 0 and "note: 1 label with" in done.stdout and note in done.stdout
        np.testing.assert_array_equal(masks_of(tmp_path / f"{name}_out"), [[DISC]])


def test_jpeg_with_classes_or_lost_levels_is_refused(tmp_path):
    for name, label in (("classes", CLASSES * 85), ("lost", DISC.astype(np.uint8))):
        write_folders(tmp_path / name, [[]])
        Image.fromarray(label).save(tmp_path / name / "c0" / "mask0.jpg", quality=95)
    done = convert("folders", tmp_path / "classes", tmp_path / "out")
    assert_refused(done, "a JPEG with values near 0 (", "85 (517 pixels)")
    assert_refused(convert("folders", tmp_path / "lost", tmp_path / "out"), "nowhere reaches half of full scale")


def test_slices_of_two_levels_of_an_interpolated_volume_do_not_count_as_classes(tmp_path):
    """Such a file is refused on its own; the other visit is converted."""
    write_ms(tmp_path / "x", [[CLASSES % 2], [CLASSES % 2]])
    for path in sorted((tmp_path / "x").iterdir()):
        path.rename(path.with_name(path.name.replace("v01", "v02")))
    soft = SOFT / 255
    write_ms(tmp_path / "x", [[np.where(DISC, 0.3, 0)], [soft], [np.where(DISC, 0.7, 0)]])
    done = convert("ms-mri", tmp_path / "x", tmp_path / "out")
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert done.returncode == 1 and "v01_mask1.nii.gz: " in fault and "2 cases of 1 patients" in done.stdout
    np.testing.assert_array_equal(masks_of(tmp_path / "out"), [[DISC], [DISC]])


def test_faults_of_one_kind_are_one_line(tmp_path):
    write_folders(tmp_path / "x", [[DISC], *[[SOFT]] * 7])
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert f"{tmp_path}/x/c5/mask0.png and 2 more: up to" in fault


def test_brats_merges_its_classes_unless_one_is_chosen(tmp_path):
    phantom_files.write_brats(tmp_path / "x", phantom_files.make_cases(6, 3, size=48, num_raters=1, num_modalities=4))
    files = sorted((tmp_path / "x").rglob("*_seg_*"))
    stored = {path: np.asarray(nibabel.load(path).dataobj).T for path in files}
    for k, flag in enumerate(("--merge_labels=False", "--label_threshold=0.5", "--structure=4")):
        assert convert("brats", tmp_path / "x", tmp_path / str(k), flag).returncode == 0
        for array, masks in zip(stored.values(), masks_of(tmp_path / str(k)), strict=True):
            np.testing.assert_array_equal(masks, [array == 4 if k == 2 else array > 0])
    save(files[0], stored[files[0]].T * 0.9)
    done = convert("brats", tmp_path / "x", tmp_path / "out")
    assert (
        done.returncode == 1 and f"{files[0]}: values between its classes" in done.stdout and "5 cases" in done.stdout
    )


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refusal_also_names_the_broken_files_and_keeps_what_was_there(tmp_path):
    write_folders(tmp_path / "x", [[CLASSES], [DISC]])
    (tmp_path / "x" / "c1" / "mask0.png").write_text("text")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 2 and "3 levels" in done.stderr and "c1/mask0.png: cannot be read" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_patient_in_two_splits_leaves_nothing_behind(tmp_path):
    write_crops(tmp_path / "x", [[DISC], [DISC]])
    for kind in ("images", "gt"):
        (tmp_path / "x" / "val" / kind).mkdir(parents=True)
        (tmp_path / "x" / "train" / kind / "c1").rename(tmp_path / "x" / "val" / kind / "c0")
    assert_refused(convert("lidc-crops", tmp_path / "x", tmp_path / "out"), "two cases are named")
    for kind in ("images", "gt"):
        for path in (tmp_path / "x" / "val" / kind / "c0").iterdir():
            path.rename(path.with_name(path.name.replace("z-1", "z-2")))
    assert_refused(convert("lidc-crops", tmp_path / "x", tmp_path / "out"), "patient c0 is in training and validation")
    assert not (tmp_path / "out").exists()


def test_labels_that_are_not_numbers_are_refused(tmp_path):
    nan = np.where(DISC, np.nan, 0)
    write_pickle(tmp_path / "nan", [[nan]])
    assert_refused(convert("lidc-pickle", tmp_path / "nan", tmp_path / "out"), "c0, rater 0: ", "not finite")
    content = {"c0": {"image": GREY / 255, "masks": [DISC.astype("S1")], "series_uid": "1"}}
    (tmp_path / "text").write_bytes(pickle.dumps(content))
    assert_refused(convert("lidc-pickle", tmp_path / "text", tmp_path / "out"), "c0, rater 0: ", "real numbers")


def test_masks_that_are_all_empty_are_reported(tmp_path):
    write_folders(tmp_path / "x", [[DISC & False, DISC & False]])
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "warning: all 2 masks are empty" in done.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--structure=cup"], "--structure cup: no masks of this name"),
        (["--structure=1", "--merge_labels=True"], "--structure and --merge_labels contradict"),
        (["--structure=1", "--label_threshold=0.5"], "--structure and --label_threshold contradict"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(tmp_path, flags, words):
    write_folders(tmp_path / "x", [[CLASSES]])
    assert_refused(convert("folders", tmp_path / "x", tmp_path / "out", *flags), words)


def test_a_colour_of_a_mask_is_chosen_by_the_flag(tmp_path):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 0)], np.uint8)
    write_folders(tmp_path / "x", [[colours[CLASSES]]])
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert_refused(done, "#000000 (2,405 pixels)", "#008000 (150 pixels)", "#ff0000 (517 pixels)")
    assert convert("folders", tmp_path / "x", tmp_path / "red", "--structure=#ff0000").returncode == 0
    np.testing.assert_array_equal(masks_of(tmp_path / "red"), [[DISC]])
