"""Converters: every round trip is exact, patients stay on one side, and what is broken is refused by name."""

import collections
import json
import pickle

import numpy as np
import pytest
from conversions import convert, read
from helpers import TINY, as_arguments, assert_refused, call_script
from PIL import Image

from guided_diffusion.prepare.formats.converters import FORMATS
from guided_diffusion.prepare.phantoms import files as phantom_files
from guided_diffusion.prepare.splits import assign_splits

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")

GREY = phantom_files.make_cases(12, seed=3, size=48, num_raters=4)
MODALITIES = phantom_files.make_cases(12, seed=3, size=48, num_raters=2, num_modalities=4)


def scaled(plane):
    """A plane as the converters of NIfTI scale it: by its own range."""
    grey = np.round(plane * 255)
    return (grey - grey.min()) / (grey.max() - grey.min())


def hdf5_name(k):
    return f"{('train', 'val', 'test')[k % 3]}{k // 3:05d}"


# format -> (writer, source below the folder, cases, name of case k, what its planes become, its masks)
ROUND_TRIPS = {
    "lidc-pickle": (
        lambda folder: phantom_files.write_pickle(folder / "x", GREY),
        GREY,
        lambda k: f"case{k:03d}",
        lambda p: p,
        None,
    ),
    "lidc-hdf5": (lambda folder: phantom_files.write_hdf5(folder / "x", GREY), GREY, hdf5_name, lambda p: p, None),
    "lidc-hdf5 ccdm": (
        lambda folder: phantom_files.write_hdf5(folder / "x", GREY, raters_last=False),
        GREY,
        hdf5_name,
        lambda p: p,
        None,
    ),
    "lidc-crops": (
        lambda folder: phantom_files.write_crops(folder / "x", GREY),
        GREY,
        lambda k: f"patient{k // 2:03d}_z-{k}.5_c0",
        lambda p: p,
        None,
    ),
    "qubiq": (
        lambda folder: phantom_files.write_qubiq(folder / "x", GREY),
        GREY,
        lambda k: f"case{k:03d}",
        scaled,
        None,
    ),
    "qubiq 4": (
        lambda folder: phantom_files.write_qubiq(folder / "x", MODALITIES),
        MODALITIES,
        lambda k: f"case{k:03d}",
        scaled,
        None,
    ),
    "brats": (
        lambda folder: phantom_files.write_brats(folder / "x", MODALITIES),
        MODALITIES,
        lambda k: f"brats_train_{k // 2:03d}_{k:03d}_w",
        scaled,
        1,
    ),
    "ms-mri": (
        lambda folder: phantom_files.write_ms(folder / "x", MODALITIES),
        MODALITIES,
        lambda k: f"training{k // 2 + 1:02d}_01_z{k % 2:03d}",
        None,
        None,
    ),
    "folders": (
        lambda folder: phantom_files.write_folders(folder / "x", GREY),
        GREY,
        lambda k: f"case{k:03d}",
        lambda p: p,
        None,
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trips_are_exact(name, tmp_path):
    write, cases, name_of, planes_of, num_raters = ROUND_TRIPS[name]
    write(tmp_path)
    done = convert(name.split()[0], tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    got, rows = read(tmp_path / "out")
    assert len(got) == len(rows) == 12 and "12 cases" in done.stdout
    for k, made in enumerate(cases):
        case, raters = got[name_of(k)], made.raters[:num_raters]
        np.testing.assert_array_equal(case.raters.numpy() > 0, raters)
        assert rows[case.id]["areas"] == " ".join(str(mask.sum()) for mask in raters)
        assert len(case.image) == len(made.planes)
        if planes_of:  # volumes are scaled as a whole, below
            for plane, expected in zip(case.image.numpy(), made.planes.values(), strict=True):
                np.testing.assert_allclose(plane, planes_of(expected), atol=0.5 / 65535 + 1e-7)
    if name == "ms-mri":
        for modality, title in enumerate(phantom_files.MODALITIES):
            volume = np.stack([np.round(made.planes[title] * 255) for made in cases if made.patient == "patient000"])
            expected = (volume - volume.min()) / (volume.max() - volume.min())
            for z in range(2):
                np.testing.assert_allclose(
                    got[f"training01_01_z{z:03d}"].image[modality].numpy(), expected[z], atol=1e-5
                )


@pytest.mark.parametrize("name", ["lidc-pickle", "lidc-crops", "brats", "ms-mri"])
def test_a_patient_is_never_on_both_sides(name, tmp_path):
    ROUND_TRIPS[name][0](tmp_path)
    assert convert(name, tmp_path / "x", tmp_path / "out").returncode == 0
    _, rows = read(tmp_path / "out")
    sides = collections.defaultdict(set)
    for row in rows.values():
        sides[row["patient"]].add(row["split"])
    assert len(sides) == 6 and all(len(where) == 1 for where in sides.values())
    assert set.union(*sides.values()) == {"training", "validation", "testing"}
    split = json.loads((tmp_path / "out" / "split.json").read_text())["patients"]
    assert {patient: {name} for name, patients in split.items() for patient in patients} == sides
    again = convert(name, tmp_path / "x", tmp_path / "again")
    assert again.returncode == 0 and read(tmp_path / "again")[1] == rows  # the seed decides
    assert call_script("check_data", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("steps", [[1] * 40, [2, 2, 2, 4], [3, 1, 1], [2, 30], [40]])
def test_a_split_that_grows_keeps_its_shares_and_moves_nobody(steps):
    split, count = {}, 0
    for step in steps:
        before, count = split, count + step
        split = assign_splits([f"p{k}" for k in range(count)], 5, before)
        assert split == assign_splits([f"p{k}" for k in reversed(range(count))], 5, before)
        assert all(split[patient] == side for patient, side in before.items()) and len(split) == count
    shares = collections.Counter(split.values())
    for name in ("validation", "testing"):
        assert shares[name] == max(1, round(0.2 * count)), shares
    few = assign_splits(["a", "b"], 5, {f"p{k}": "training" for k in range(20)})
    assert sorted([few["a"], few["b"]]) == ["testing", "validation"]  # both are short of more than there are


def test_single_rater_modalities_train_without_encoders(tmp_path):
    """The implicit-ensembles system: four modalities, one rater."""
    phantom_files.write_brats(tmp_path / "x", MODALITIES)
    assert convert("brats", tmp_path / "x", tmp_path / "out").returncode == 0
    flags = as_arguments(
        {**TINY, "image_channels": 4, "train_encoders": False, "kl_weight": 0, "iterations": 2, "batch_size": 2}
    )
    done = call_script(
        "segmentation_train", f"--data_dir={tmp_path / 'out' / 'training'}", f"--log_dir={tmp_path / 'log'}", *flags
    )
    assert done.returncode == 0, done.stderr


def test_min_raters_passes_over_cases_that_too_few_marked(tmp_path):
    phantom_files.write_folders(tmp_path / "x", GREY)
    done = convert("folders", tmp_path / "x", tmp_path / "out", "--min_raters=4")
    expected = sum(made.raters.any((1, 2)).sum() >= 4 for made in GREY)
    assert (
        0 < expected < 12
        and f"{expected} cases" in done.stdout
        and f"{12 - expected} with too few raters" in done.stdout
    )


# format -> (what breaks a case, how it is reported)
BREAKS = {
    "lidc-pickle": (
        lambda folder: rewrite_pickle(folder / "x", "case003", masks=[]),
        "x, case003: image, masks and series_uid are required",
    ),
    "lidc-hdf5": (
        lambda folder: h5py.File(folder / "x", "a")["val/images"].write_direct(
            np.full((4, 48, 48), 7.0)[:1], dest_sel=np.s_[:1]
        ),
        "val00000: images",
    ),
    "lidc-crops": (
        lambda folder: next((folder / "x").rglob("z-3.5_c0_l2.png")).write_bytes(b"no picture"),
        "z-3.5_c0_l2.png: cannot be read",
    ),
    "qubiq": (
        lambda folder: (folder / "x" / "case003" / "image.nii.gz").write_bytes(b"no NIfTI"),
        "image.nii.gz: cannot be read",
    ),
    "brats": (lambda folder: next((folder / "x").rglob("*_t1ce_003_*")).unlink(), "the modality t1ce is missing"),
    "ms-mri": (lambda folder: next((folder / "x").rglob("training02_*_pd_*")).unlink(), "training02_01 has no pd"),
    "folders": (
        lambda folder: Image.new("1", (9, 9)).save(folder / "x" / "case003" / "expert1_mask.png"),
        "case003 has planes and masks of the shapes",
    ),
}


def rewrite_pickle(path, key, **more):
    content = pickle.loads(path.read_bytes())
    content[key] |= more
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_case_is_reported_and_the_others_are_written(name, tmp_path):
    ROUND_TRIPS[name][0](tmp_path)
    spoil, report = BREAKS[name]
    spoil(tmp_path)
    done = convert(name, tmp_path / "x", tmp_path / "out")
    left = 10 if name == "ms-mri" else 11  # whose volumes have two slices
    assert done.returncode == 1 and f"{left} cases" in done.stdout, done.stderr
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert report in fault and len(read(tmp_path / "out")[0]) == len(read(tmp_path / "out")[1]) == left


def test_uids_of_hdf5_are_its_patients(tmp_path):
    phantom_files.write_hdf5(tmp_path / "x", GREY)
    done = convert("lidc-hdf5", tmp_path / "x", tmp_path / "without")
    assert "note: test, train, val without uids: each case counts as a patient" in done.stdout
    with h5py.File(tmp_path / "x", "a") as file:
        for kind, group in enumerate(("train", "val", "test")):
            uids = [f"{group}-{k // 2}" for k in range(len(file[group]["images"]))]
            file[group]["uids"] = np.array(uids, "S9" if kind else object)  # strings of one length, or each of its own
    done = convert("lidc-hdf5", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "12 cases of 6 patients" in done.stdout and "note" not in done.stdout
    assert {row["patient"] for row in read(tmp_path / "out")[1].values()} == {
        f"{group}-{k}" for group in ("train", "val", "test") for k in range(2)
    }
    with h5py.File(tmp_path / "x", "a") as file:
        file["val/uids"][:] = [b"test-1"] * 4
    assert_refused(
        convert("lidc-hdf5", tmp_path / "x", tmp_path / "both"), "patient test-1 is in testing and validation"
    )
    with h5py.File(tmp_path / "x", "a") as file:
        del file["val/uids"]
        file["val/uids"] = np.zeros(3)
    assert_refused(convert("lidc-hdf5", tmp_path / "x", tmp_path / "short"), "x, val", "uids (3,)", "do not match")


def test_a_pickle_says_that_it_is_split_by_series(tmp_path):
    phantom_files.write_pickle(tmp_path / "x", GREY)
    done = convert("lidc-pickle", tmp_path / "x", tmp_path / "out")
    assert "note: the file names series but not patients" in done.stdout and "12 cases of 6 series" in done.stdout


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(convert("nifti", tmp_path, tmp_path / "out"), "nifti is unknown", ", ".join(FORMATS))
    assert_refused(call_script("convert_data", f"--src={tmp_path}"), "the first argument must be the format")
    assert_refused(convert("qubiq", "/nowhere", tmp_path / "out"), "/nowhere", "--src")
    assert_refused(convert("qubiq", tmp_path / "empty", tmp_path / "out"), "no folder with image.nii.gz")
    assert_refused(convert("folders", tmp_path / "empty", tmp_path / "out"), "no case found in the format folders")
    (tmp_path / "text").write_text("no HDF5")
    assert_refused(convert("lidc-hdf5", tmp_path / "text", tmp_path / "out"), "text", "HDF5")
    phantom_files.write_ms(tmp_path / "ms", MODALITIES)
    for path in (tmp_path / "ms").rglob("*_pd_pp*"):
        path.unlink()
    done = convert("ms-mri", tmp_path / "ms", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert [f"training{k:02d}_01 has no pd file" in done.stderr for k in range(1, 7)] == [True] * 6
    assert_refused(convert("ms-mri", tmp_path / "ms", tmp_path / "out", "--axis=3"), "--axis 3")


def test_every_conversion_writes_a_dataset_file(tmp_path):
    for name in ("lidc-pickle", "brats", "qubiq", "folders"):
        (tmp_path / name).mkdir()
        ROUND_TRIPS[name][0](tmp_path / name)
        assert convert(name, tmp_path / name / "x", tmp_path / name / "out").returncode == 0
    stored = {
        name: json.loads((tmp_path / name / "out" / "dataset.json").read_text())
        for name in ("lidc-pickle", "brats", "qubiq", "folders")
    }
    assert all(one["labels"] == {"background": 0, "foreground": 1} for one in stored.values())
    assert stored["brats"]["channel_names"] == {"0": "flair", "1": "t1", "2": "t1ce", "3": "t2"}
    assert stored["lidc-pickle"]["licence"] == "CC BY 3.0" and "LIDC-IDRI" in stored["lidc-pickle"]["source"]
    assert stored["folders"] == {
        "name": "out",
        "channel_names": {"0": "image"},
        "labels": {"background": 0, "foreground": 1},
        "raters": ["expert0", "expert1", "expert2", "expert3"],
        "source": "x",
    }
    assert "raters" not in stored["qubiq"]
