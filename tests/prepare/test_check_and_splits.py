"""Checking and packing folders of cases, fitting of sizes, and the phantoms' options."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import TINY, as_arguments, assert_refused, call_script
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.geometry import CaseArrays
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.data.stores.packed import write_pack
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import legends, metrics, pictures
from guided_diffusion.masks.pairs import dice_matrix, iou_matrix
from guided_diffusion.prepare import check as checking
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.system.device import peak_memory, reset_peak_memory


@pytest.fixture
def split(tmp_path):
    """A folder of two splits, with a manifest."""
    rows = ["case,split,patient,areas"]
    for name, count, seed in (("training", 4, 1), ("testing", 2, 2)):
        phantom.write_set(tmp_path / "data" / name, count, seed, size=16, num_raters=3)
        for k in range(count):
            case = f"{name}{k}"
            (tmp_path / "data" / name / f"phantom{k:04d}").rename(tmp_path / "data" / name / case)
            rows.append(f"{case},{name},{name}-patient{k // 2},1")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def check(*arguments):
    return call_script("check_data", *arguments)


# -- check_data -------------------------------------------------------------------------------------------------------


def test_a_sound_folder_is_described(split, tmp_path):
    done = check(split, f"--sheet={tmp_path / 'sheet.png'}")
    assert done.returncode == 0, done.stderr
    assert "6 of 6 cases can be read: testing 2, training 4" in done.stdout and "no faults" in done.stdout
    training, testing = done.stdout.index("\ntraining:"), done.stdout.index("\ntesting:")
    for words, place in (("2 cases", testing), ("4 cases", training)):
        for line in (f"  sizes: 16x16 in {words}", f"  raters: 3 in {words}", f"  image channels: 1 in {words}"):
            assert done.stdout.index(line) > place
    raters = [
        dataset[k].raters.numpy() > 0
        for dataset in map(LIDCDataset, (split / "training", split / "testing"))
        for k in range(len(dataset))
    ]
    raters = raters[:4]  # of training
    areas = np.concatenate([masks.sum((1, 2)) for masks in raters])
    assert f"empty masks: {(areas == 0).sum()} of 12" in done.stdout
    marked = areas[areas > 0]
    assert f"mask areas: {marked.min()} to {marked.max()} pixels, median {np.median(marked):g} (" in done.stdout
    pairs = ~np.eye(3, dtype=bool)
    for title, table in (("IoU of two raters", iou_matrix), ("Dice of two raters", dice_matrix)):
        assert f"{title}: {np.mean([table(m, m)[pairs].mean() for m in raters]):.3f}" in done.stdout
    alone = np.mean([np.mean([metrics.squared_ged(m[None], masks).total for m in masks]) for masks in raters])
    assert f"GED of one rater against all: {alone:.3f} on average over 4 cases" in done.stdout
    sheet = Image.open(tmp_path / "sheet.png")
    top, left = legends.MARGIN + legends.LABEL_HEIGHT, legends.MARGIN
    tile = np.asarray(sheet)[top : top + 128, left : left + 128, 0]  # the first case's image, eight times as large
    with Image.open(next((split / "testing" / "testing0").glob("image*"))) as image:
        assert (
            abs(
                tile[::8, ::8].astype(int) - np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR))[::8, ::8]
            ).max()
            <= 1
        )


def test_the_sheet_has_several_cases_in_a_row():
    def tiles(count, width):
        case = [pictures.Tile(f"tile {k}", np.zeros((4, 4))) for k in range(width)]
        return [case[: width - (k == 1)] for k in range(count)]  # the second case has a rater less

    for count, width, shape in [(1, 3, (1, 3)), (5, 3, (2, 15)), (16, 7, (8, 15)), (3, 20, (3, 20))]:
        rows = checking.in_columns(tiles(count, width))
        assert (len(rows), max(map(len, rows))) == shape
        shown = [tile for row in rows for tile in row if tile]
        assert len(shown) == count * width - (count > 1)
        for row in rows:
            assert all(tile is None or tile.label == f"tile {k % (width + 1)}" for k, tile in enumerate(row))


def test_a_case_on_the_sheet_has_its_outlines_and_distinct_masks():
    raters = np.zeros((9, 8, 8), bool)
    raters[2:4, 2:6] = True
    image, outlines, *masks = checking.case_tiles("a" * 30, np.zeros((1, 8, 8), np.float32), raters)
    assert image.label == "a" * 20 and outlines.label == "9 raters"
    assert [tile.label for tile in masks] == ["7 raters: 0, 1, ... (empty)", "2 raters: 2, 3"]
    assert len(checking.case_tiles("b", np.zeros((1, 8, 8), np.float32), raters[:0])) == 1


def test_a_case_on_the_sheet_is_not_stretched():
    image, raters = np.ones((1, 32, 64), np.float32), np.ones((1, 32, 64), bool)
    tile = checking.case_tiles("wide", image, raters)[0].picture
    assert tile.shape == (128, 128) and (tile[34:94] == 1).all() and not tile[:30].any() and not tile[98:].any()


def test_no_sheet_is_written_unless_asked_for(split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = []
    assert checking.check_data(checking.CheckConfig(data_dir=str(split)), DataConfig(), lines.append) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data"} and "shown in" not in "".join(lines)


def test_every_fault_is_reported_in_one_pass(split):
    training = split / "training"
    (training / "training0" / "label1_.png").unlink()
    next((training / "training1").glob("image*")).write_bytes(b"no picture")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(training / "training2" / "label0_.png")
    name = next((training / "training3").glob("image*"))
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(name)
    done = check(split)
    assert done.returncode == 1 and "4 faults" in done.stdout
    for words in ("label1_* is missing", "training1", "256 levels", f"{name}: the image has a single grey level"):
        assert words in done.stdout, words


def test_every_fault_of_one_case_is_reported(split):
    folder = split / "training" / "training0"
    next(folder.glob("image*")).write_bytes(b"no picture")
    (folder / "label0_.png").unlink()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32)).save(folder / "label1_.png")
    (folder / "label2_.png").write_bytes(b"no picture")
    for rater, side in ((3, 32), (4, 8)):
        Image.fromarray(np.zeros((8, side), dtype=bool)).save(folder / f"label{rater}_.png")
    done = check(split)
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    for words in (
        "label0_* is missing",
        "image_phantom0000.png: cannot be read",
        "label1_.png: 256 levels from 0 to 255",
        "label2_.png: cannot be read",
        "label4_.png: 32x8 in label1_.png but 8x8 in label4_.png",
    ):
        assert sum(words in line and str(folder) in line for line in faults) == 1, words
    assert len(faults) == 5 and "5 faults" in done.stdout and done.returncode == 1
    levels = [
        len(np.unique(np.asarray(Image.open(path))))
        for path in split.rglob("label*.png")
        if path.name != "label2_.png" or path.parent != folder
    ]
    assert f"levels in lossless labels: 1 in {levels.count(1)}, 2 in {levels.count(2)}, more than 9 in 1" in done.stdout


def test_patients_in_two_splits_are_found_by_names_where_there_is_no_manifest(split):
    (split / "manifest.csv").unlink()
    done = check(split)
    assert done.returncode == 0 and "the names of 6 cases do not contain a patient" in done.stdout
    names = {
        "training0": "p7_abc123_n1_z012",
        "training1": "p7_z3.5_c0",
        "training2": "x-LIDC-IDRI-0004-b",
        "training3": "deep/a",
    }
    for old, new in names.items():
        (split / "training" / new).parent.mkdir(exist_ok=True)
        (split / "training" / old).rename(split / "training" / new)
    for old, new in (("testing0", "p7_def456_n2_z001"), ("testing1", "LIDC-IDRI-0004_9")):
        (split / "testing" / old).rename(split / "testing" / new)
    done = check(split)
    assert (
        done.returncode == 1
        and "2 faults" in done.stdout
        and "3 patients by the names of 6 cases (the folder between" in done.stdout
    )
    for patient in ("p7", "LIDC-IDRI-0004"):
        assert f"patient {patient} is in testing and training; move all" in done.stdout


def test_the_patients_are_those_of_the_flags(split, tmp_path):
    """training0 and training1 are of training-patient0 by the manifest, training1 and testing1 of 1 by the pattern."""
    done = check(split, r"--patient_pattern=(\d)$")
    assert done.returncode == 1 and "2 faults" in done.stdout
    for patient in "01":
        assert f"fault: {split}: patient {patient} is in testing and training; move all" in done.stdout
    assert "4 of 6 cases; each of the others" in check(split, "--patient_pattern=(training.)").stdout
    done = check(split, "--patient_pattern=x(.)")
    assert done.returncode == 1 and "fault: --patient_pattern x(.): matches none of 6 cases" in done.stdout
    (split / "manifest.csv").unlink()
    cases = [*(f"training{k}" for k in range(4)), "testing0", "testing1"]
    rows = [f"{case},{'one' if case.endswith('0') else case}" for case in cases]
    (tmp_path / "patients.csv").write_text("\n".join(["case,patient", *rows]))
    done = check(split, f"--patients={tmp_path / 'patients.csv'}")
    assert done.returncode == 1 and "1 faults" in done.stdout
    assert (
        f"fault: {split}: patient one is in testing and training" in done.stdout and "by the names" not in done.stdout
    )
    (tmp_path / "patients.csv").write_text("\n".join(["case,patient", *rows[:-2]]))
    done = check(split, f"--patients={tmp_path / 'patients.csv'}")
    assert "patients.csv: lacks 2 of 6 cases, e.g. testing0" in done.stdout and "1 faults" in done.stdout
    assert_refused(check(split, "--patient_pattern=["), "--patient_pattern [", "not a regular expression")


def test_cases_with_names_alike_that_count_as_patients_are_warned_of(split):
    warning = "each case counts as a patient of its own; if several cases belong to one patient, pass --patient_pattern"
    assert "warning" not in check(split).stdout and "warning" not in check(split / "training").stdout
    manifest = (split / "manifest.csv").read_text()
    (split / "manifest.csv").unlink()
    for folder in (split, split / "training"):
        done = check(folder)
        assert done.returncode == 0 and warning in done.stdout and "no faults" in done.stdout
    rows = [line.split(",") for line in manifest.splitlines()[1:]]
    own = ["case,split,patient,areas", *(f"{case},{name},{case},1" for case, name, _, _ in rows)]
    (split / "manifest.csv").write_text("\n".join(own))
    assert warning in check(split).stdout
    assert warning not in check(split, r"--patient_pattern=(\w+\d)").stdout
    for case in (split / "training").iterdir():
        case.rename(case.with_name(f"anna_s{case.name[-1]}"))
    (split / "manifest.csv").unlink()
    assert "warning: all 4 cases count as cases of one patient, anna" in check(split / "training").stdout


def test_names_in_either_form_of_unicode_are_the_same(split):
    """Composed in the manifest, decomposed on disk."""
    (split / "training" / "training0").rename(split / "training" / "Mu\u0308ller, (0)")
    text = (split / "manifest.csv").read_text().replace("training0,", '"M\u00fcller, (0)",')
    (split / "manifest.csv").write_text("\ufeff" + text, encoding="utf-8")
    done = check(split)
    assert done.returncode == 0 and "no faults" in done.stdout, done.stdout


def test_folders_and_rows_of_the_manifest_that_lack_each_other_are_reported(split):
    shutil.rmtree(split / "training" / "training1")
    shutil.copytree(split / "training" / "training0", split / "testing" / "stranger")
    done = check(split)
    assert "2 faults" in done.stdout and "manifest.csv: case training1 of training has no folder" in done.stdout
    assert f"{split / 'testing' / 'stranger'}: not listed in {split / 'manifest.csv'}" in done.stdout
    (split / "manifest.csv").write_text("name,split\na,training\n")
    assert "the column case is missing" in check(split).stdout


def test_patients_on_both_sides_of_a_split_are_reported(split):
    (split / "testing" / "training1").mkdir()
    for path in (split / "training" / "training0").iterdir():
        shutil.copy(path, split / "testing" / "training1")
    shutil.rmtree(split / "training" / "training1")
    (split / "manifest.csv").write_text(
        (split / "manifest.csv").read_text().replace("training1,training", "training1,testing")
    )
    done = check(split)
    assert done.returncode == 1 and "patient training-patient0 is in testing and training" in done.stdout
    content = {"seed": 0, "patients": {"training": ["a", "b"], "validation": [], "testing": ["b"]}}
    (split / "split.json").write_text(json.dumps(content))
    assert "patient b is in two splits" in check(split).stdout


def test_jpeg_levels_and_refusals(tmp_path):
    phantom.write_set(tmp_path / "data", 2, 1, size=32, num_raters=2)
    with Image.open(tmp_path / "data" / "phantom0000" / "label0_.png") as label:
        label.convert("L").save(tmp_path / "data" / "phantom0000" / "label0_.jpg", quality=50)
    (tmp_path / "data" / "phantom0000" / "label0_.png").unlink()
    assert "1 label with lossy compression (JPEG), thresholded" in check(tmp_path / "data").stdout
    assert_refused(check(), "the folder to check is missing")
    assert_refused(check("/nowhere"), "/nowhere")


# -- packed files -----------------------------------------------------------------------------------------------------


def test_a_packed_file_stands_for_its_folder(split, tmp_path):
    done = call_script("pack_data", f"--data_dir={split}", f"--out={tmp_path / 'packed'}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["testing.pack", "training.pack"]
    for size in (16, 8):
        folder, pack = LIDCDataset(split / "training", size), LIDCDataset(tmp_path / "packed" / "training.pack", size)
        assert len(pack) == 4 and pack.notes == folder.notes
        for a, b in zip(folder, pack, strict=True):
            assert a.id == b.id and torch.equal(a.image, b.image) and torch.equal(a.raters, b.raters)
    runs = []
    for data in (split / "training", tmp_path / "packed" / "training.pack"):
        log = tmp_path / f"log-{data.name}"
        done = call_script(
            "segmentation_train",
            f"--data_dir={data}",
            f"--log_dir={log}",
            "--iterations=3",
            "--batch_size=2",
            *as_arguments(TINY),
        )
        assert done.returncode == 0, done.stderr
        runs.append(torch.load(log / "savedmodel.pt", weights_only=True)["weights"])
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    done = call_script(
        "segmentation_sample",
        f"--data_dir={tmp_path / 'packed' / 'testing.pack'}",
        f"--model_path={log}/savedmodel.pt",
        f"--out_dir={tmp_path / 'out'}",
        "--num_ensemble=1",
        "--timestep_respacing=2",
    )
    assert done.returncode == 0 and (tmp_path / "out" / "testing1_output0.png").exists(), done.stderr


def test_rules_that_a_packed_file_was_not_made_by_are_refused(split, tmp_path):
    path = str(tmp_path / "x.pack")
    pack_folder(split / "training", path)
    with pytest.raises(DataError, match="x.pack: packed with --label_threshold auto, not 0.1"):
        LIDCDataset(path, config=DataConfig(label_threshold=0.1))
    with pytest.raises(DataError, match="training0: 16x16 pixels, but --image_size 8 and --resize False"):
        LIDCDataset(path, 8, config=DataConfig(resize=False))
    two = np.zeros((2, 16, 16), np.float32)
    rules = {"label_threshold": 0.5, "merge_labels": False, "intensity_range": None}
    write_pack(path, [("a", CaseArrays(two, two[:0] > 1))], lambda: {"rules": rules, "notes": [], "fingerprint": "x"})
    with pytest.raises(DataError, match="a has no rater masks"):
        LIDCDataset(path, 16, 2)
    with pytest.raises(DataError, match="the images have 2 planes, but --image_channels 4: add --image_channels 2"):
        LIDCDataset(path, 16, 4, require_raters=False)
    header = {"rules": rules, "notes": [], "fingerprint": "x"}
    for changed, word in (
        ({"rules": None}, "rules"),
        ({"rules": {}}, "label_threshold"),
        ({"notes": "x"}, "notes"),
        ({"fingerprint": 1}, "fingerprint"),
    ):
        write_pack(path, [("a", CaseArrays(two, two[:1] > 1))], lambda: {**header, **changed})
        with pytest.raises(DataError, match=f"x.pack: not a file of pack_data.py .{word} is missing"):
            LIDCDataset(path, 16, 2)
    LIDCDataset(split / "training", 16, cache_dir=tmp_path / "cache")
    (cached,) = (tmp_path / "cache").glob("*.pack")
    assert_refused(
        call_script("segmentation_train", f"--data_dir={cached}", f"--log_dir={tmp_path / 'log'}", *as_arguments(TINY)),
        str(cached),
        "rules",
    )
    assert_refused(call_script("pack_data", "--data_dir=/nowhere", f"--out={tmp_path}"), "/nowhere", "--data_dir")
    assert_refused(call_script("pack_data", f"--data_dir={split}"), "--out is missing")


@pytest.mark.serial
def test_a_packed_file_is_opened_and_read_without_taking_its_size_in_memory(tmp_path):
    path, image, raters = (
        str(tmp_path / "large.pack"),
        np.zeros((1, 128, 128), np.float32),
        np.zeros((4, 128, 128), bool),
    )
    rules = {"label_threshold": 0.5, "merge_labels": False, "intensity_range": None}
    write_pack(
        path,
        ((f"case{k:05d}", CaseArrays(image, raters)) for k in range(1500)),
        lambda: {"rules": rules, "notes": [], "fingerprint": "x"},
    )
    assert os.path.getsize(path) > 100e6
    reset_peak_memory("cpu")
    before = peak_memory("cpu")
    dataset = LIDCDataset(path, 128)
    assert len(dataset) == 1500 and dataset[1499].image.shape == (4, 128, 128)
    assert peak_memory("cpu") - before < 20e6


# -- sizes ------------------------------------------------------------------------------------------------------------


def write_case(folder, height, width):
    rng = np.random.default_rng(0)
    (folder / "a").mkdir(parents=True)
    Image.fromarray(rng.integers(1, 255, (height, width), dtype=np.uint8)).save(folder / "a" / "image.png")
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    Image.fromarray(mask).save(folder / "a" / "label0_.png")
    return folder, mask


@pytest.mark.parametrize("height, width, side", [(10, 20, 20), (10, 20, 32), (40, 20, 16), (8, 8, 16)])
def test_padding_keeps_shapes_and_labels_binary(tmp_path, height, width, side):
    folder, mask = write_case(tmp_path, height, width)
    case = LIDCDataset(folder, side, config=DataConfig(pad=True))[0]
    assert case.image.shape[1:] == case.raters.shape[1:] == (side, side) and set(case.raters.unique().tolist()) == {
        0.0,
        1.0,
    }
    scale = side / max(height, width, side)
    assert case.raters.sum().item() == pytest.approx(mask.sum() * scale**2, rel=0.15)
    if scale == 1:  # nothing is resized: the pixels are the file's, black around them
        top, left = (side - height) // 2, (side - width) // 2
        with Image.open(folder / "a" / "image.png") as image:
            np.testing.assert_allclose(
                case.image[0, top : top + height, left : left + width].numpy(), np.asarray(image) / 255, atol=1e-6
            )
        assert case.image[0].sum().item() == pytest.approx(
            np.asarray(Image.open(folder / "a" / "image.png")).sum() / 255, rel=1e-5
        )
    stretched = LIDCDataset(folder, side)[0]
    assert set(stretched.raters.unique().tolist()) == {0.0, 1.0}


def test_without_resizing_another_size_is_refused_with_the_flag_that_helps(tmp_path):
    folder, _ = write_case(tmp_path, 10, 20)
    with pytest.raises(
        DataError, match=r"20x10 pixels, but --image_size 32 and --resize False: use --resize True, or --pad True"
    ):
        LIDCDataset(folder, 32, config=DataConfig(resize=False))
    assert LIDCDataset(folder, 32, config=DataConfig(resize=False, pad=True))[0].image.shape == (4, 32, 32)
    with pytest.raises(DataError, match="or --image_size 20"):
        LIDCDataset(folder, 16, config=DataConfig(resize=False, pad=True))


# -- phantoms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 256])
def test_phantoms_of_every_kind(tmp_path, size):
    done = call_script(
        "make_phantom",
        f"--out={tmp_path / 'set'}",
        "--num_cases=2",
        f"--size={size}",
        "--raters=3",
        "--modalities=3",
        "--nodules=2",
        "--modes=tight,loose",
        "--probabilities=0.25,0.75",
    )
    assert done.returncode == 0, done.stderr
    case = LIDCDataset(tmp_path / "set", size, 3)[0]
    assert case.image.shape == (3, size, size) and len(case.raters) == 3
    modes = json.loads((tmp_path / "set" / "truth.json").read_text())["cases"][case.id]["modes"]
    assert {mode: entry["probability"] for mode, entry in modes.items()} == {
        "tight+tight": 0.0625,
        "tight+loose": 0.1875,
        "loose+tight": 0.1875,
        "loose+loose": 0.5625,
    }
    from scipy import ndimage

    assert all(ndimage.label(mask)[1] >= 2 for mask in case.raters.numpy() > 0)
    planes = case.image.numpy()
    assert all(abs(np.corrcoef(planes[0].ravel(), plane.ravel())[0, 1]) > 0.5 for plane in planes[1:])


def test_raters_of_two_nodules_follow_the_product_of_their_probabilities():
    made = phantom.make_phantom(1, 0, 32, num_raters=4000, num_nodules=2, modes=("tight", "loose", "absent"))
    assert len(made.modes) == 9 and sum(made.probabilities.values()) == pytest.approx(1)
    for name, probability in made.probabilities.items():
        assert (
            abs(made.drawn.count(name) / 4000 - probability)
            < 5 * np.sqrt(probability * (1 - probability) / 4000) + 1e-9
        )


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--modes=tight,round"], ["--modes round", "lobulated"]),
        (["--probabilities=0.5,0.5"], ["--probabilities", "one per mode"]),
        (["--modes=tight,loose", "--probabilities=0.5,0.6"], ["--probabilities", "sum to 1"]),
        (["--modalities=9"], ["--modalities"]),
        (["--format=dicom"], ["--format dicom", "lidc"]),
    ],
)
def test_phantoms_that_cannot_be(tmp_path, flags, words):
    assert_refused(call_script("make_phantom", f"--out={tmp_path / 'x'}", *flags), *words)


@pytest.mark.parametrize("form", ["lidc", "pickle", "hdf5", "crops", "qubiq", "folders"])
def test_phantoms_in_real_formats_are_what_the_tools_take(tmp_path, form):
    done = call_script(
        "make_phantom", f"--out={tmp_path / 'x'}", "--num_cases=6", "--size=48", "--raters=4", f"--format={form}"
    )
    assert done.returncode == 0, done.stderr
    out = f"--out={tmp_path / 'cases'}"
    if form == "lidc":
        done = call_script(
            "prepare_lidc", f"--dicom={tmp_path / 'x' / 'dicom'}", f"--xml={tmp_path / 'x' / 'xml'}", out
        )
    else:
        name, src = {
            "pickle": ("lidc-pickle", "data_lidc.pickle"),
            "hdf5": ("lidc-hdf5", "data_lidc.hdf5"),
            "crops": ("lidc-crops", ""),
        }.get(form, (form, ""))
        done = call_script("convert_data", name, f"--src={tmp_path / 'x' / src}", out)
    assert done.returncode == 0 and "6 " in done.stdout, done.stderr


def test_phantoms_of_few_cases_and_large_ones_in_real_formats(tmp_path):
    assert (
        call_script(
            "make_phantom", f"--out={tmp_path / 'few'}", "--num_cases=2", "--size=16", "--format=hdf5"
        ).returncode
        == 0
    )
    done = call_script(
        "convert_data",
        "lidc-hdf5",
        f"--src={tmp_path / 'few' / 'data_lidc.hdf5'}",
        f"--out={tmp_path / 'few' / 'cases'}",
    )
    assert "2 cases" in done.stdout and "training 1, validation 1, testing 0" in done.stdout
    assert (
        call_script(
            "make_phantom",
            f"--out={tmp_path / 'large'}",
            "--num_cases=1",
            "--size=600",
            "--modes=tight",
            "--format=lidc",
        ).returncode
        == 0
    )
    folders = [
        f"--dicom={tmp_path / 'large' / 'dicom'}",
        f"--xml={tmp_path / 'large' / 'xml'}",
        f"--out={tmp_path / 'large' / 'cases'}",
    ]
    done = call_script("prepare_lidc", *folders, "--crop=300")
    assert done.returncode == 0 and "1 slices of 1 nodules" in done.stdout, done.stderr
