"""Converters: every round trip is exact; what is malicious or broken is refused by name; nothing is written outside."""

import collections
import csv
import json
import os
import pickle

import numpy as np
import pytest
from helpers import TINY, as_arguments, assert_refused, call_script
from PIL import Image

from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.formats import safe_pickle
from guided_diffusion.prepare.formats.converters import FORMATS
from guided_diffusion.prepare.phantoms import files as phantom_files
from guided_diffusion.prepare.splits import assign_splits

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")

GREY = phantom_files.make_cases(12, seed=3, size=48, num_raters=4)
MODALITIES = phantom_files.make_cases(12, seed=3, size=48, num_raters=2, num_modalities=4)


def convert(name, src, out, *more):
    return call_script("convert_data", name, f"--src={src}", f"--out={out}", *more)


def read(out):
    """{case: Case} of all splits, and the manifest's rows."""
    cases = {}
    for split in ("training", "validation", "testing"):
        if (out / split).is_dir():
            dataset = LIDCDataset(out / split, image_channels=None)
            cases |= {dataset[k].id: dataset[k] for k in range(len(dataset))}
    with open(out / "manifest.csv") as file:
        return cases, {row["case"]: row for row in csv.DictReader(file)}


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
        nibabel.save(nibabel.Nifti1Image(rng.random(shape).astype(np.float32), np.eye(4)), tmp_path / "x" / "a" / name)
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


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_of_32_bits_is_scaled_by_its_own_range(tmp_path, dtype):
    values = np.arange(64).reshape(8, 8).astype(dtype) * 3000 - 90_000
    (tmp_path / "x" / "a").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "x" / "a" / "scan.tif")
    Image.fromarray((values > 0).astype(dtype)).save(tmp_path / "x" / "a" / "mask.tif")
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_allclose(case.image[0].numpy(), np.arange(64).reshape(8, 8) / 63, atol=1e-5)
    np.testing.assert_array_equal(case.raters[0].numpy() > 0, values > 0)
    if dtype == np.float32:
        values[0, 0] = np.nan
        Image.fromarray(values).save(tmp_path / "x" / "a" / "scan.tif")
        assert_refused(
            convert("folders", tmp_path / "x", tmp_path / "not"), "scan.tif: contains values that are not finite"
        )


def test_jpeg_masks_of_folders_are_cut_at_half_of_full_scale(tmp_path):
    (tmp_path / "x" / "bone7").mkdir(parents=True)
    mask = np.kron(np.random.default_rng(0).random((6, 6)) > 0.5, np.ones((8, 8), bool))
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "x" / "bone7" / "bone_label2.jpg", quality=60)
    Image.fromarray(np.full((48, 48), 90, np.uint8)).save(tmp_path / "x" / "bone7" / "bone.jpg")
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["bone7"]
    assert (case.raters[0].numpy() > 0).tolist() == mask.tolist()


# -- untrusted --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("key", ["../escaped", "/tmp/escaped", "a/b", "..", "", "x" * 200, ".hidden"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    with open(tmp_path / "x.pickle", "wb") as file:
        pickle.dump({key: {"image": np.zeros((8, 8)), "masks": [np.zeros((8, 8))], "series_uid": "1"}}, file)
    done = convert("lidc-pickle", tmp_path / "x.pickle", tmp_path / "deep" / "out")
    assert_refused(done, "x.pickle", "is not a valid file name")
    assert not list(tmp_path.rglob("*escaped*")) and sorted(path.name for path in tmp_path.iterdir()) == [
        "deep",
        "x.pickle",
    ]


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
    assert_refused(
        convert("ms-mri", tmp_path / "ms", tmp_path / "out"), "training01_01 has no pd file (and 5 more faults)"
    )
    assert_refused(convert("ms-mri", tmp_path / "ms", tmp_path / "out", "--axis=3"), "--axis 3")
