"""Sources of several classes become cases whose dataset.json reads them back: levels, regions, files per structure."""

import json
import pickle

import numpy as np
import pytest
from conversions import convert
from drawings import DISCS, GREY, classes, disc, paletted, put, white
from helpers import assert_refused, call_script
from PIL import Image

from guided_diffusion.data.files.dataset_json import read_dataset_file
from guided_diffusion.lidcloader import LIDCDataset

CUPS = [disc(7), disc(5), disc(3)]
LEVELS = [outer.astype(np.uint8) + inner for outer, inner in zip(DISCS, CUPS, strict=True)]  # 1 around 2
EXCLUSIVE = [np.stack([outer & ~inner, inner]) for outer, inner in zip(DISCS, CUPS, strict=True)]
NESTED = [np.stack(pair) for pair in zip(DISCS, CUPS, strict=True)]
SOURCE = ("eye0", "eye1", "eye2")


def write_levels(src, change=lambda level: level, ending=".png", ids=SOURCE):
    for name in ids:
        put(src / name / f"scan{ending if 'nii' in ending else '.png'}", GREY)
        for k, levels in enumerate(LEVELS):
            put(src / name / f"mask{k + 1}{ending}", change(levels))
    return src


def write_files(src, without=(), ids=SOURCE):
    """ID.png, ID_seg_disc_1.png, ID_seg_cup_1.png, ...; `without` some (ID, structure, number)."""
    for name in ids:
        put(src / f"{name}.png", GREY)
        for k in range(3):
            for structure, mask in (("disc", DISCS[k]), ("cup", CUPS[k])):
                if (name, structure, k + 1) not in without:
                    put(src / f"{name}_seg_{structure}_{k + 1}.png", white(mask))
    return src


def read(out):
    """{case: masks}, of all splits, and the dataset of the last one."""
    cases = {}
    for split in ("training", "validation", "testing"):
        if (out / split).is_dir():
            dataset = LIDCDataset(out / split, image_channels=None)
            cases |= {dataset[k].id: dataset[k].raters.numpy() > 0 for k in range(len(dataset))}
    return cases, dataset


def assert_masks(out, masks):
    cases, dataset = read(out)
    assert sorted(cases) == sorted(SOURCE)
    for found in cases.values():
        np.testing.assert_array_equal(found, masks)
    return dataset


def labels_in(out):
    return json.loads((out / "dataset.json").read_text())["labels"]


def areas_in(out):
    rows = (out / "manifest.csv").read_text().splitlines()
    return {row.split(",")[rows[0].split(",").index("areas")] for row in rows[1:]}


# -- levels -----------------------------------------------------------------------------------------------------------

INVERTED = np.array([255, 128, 0], np.uint8)  # REFUGE: 0 is the cup, 255 background
COLOURS = np.array([[0, 0, 0], [90, 20, 20], [240, 240, 0]], np.uint8)
DARK, LIGHT = [(0, 0, 0), (100, 0, 0), (255, 255, 255)], [(255, 255, 255), (100, 0, 0), (0, 0, 0)]
KINDS = {
    "levels 1 and 2": (lambda levels: levels, ".png", "disc,cup"),
    "inverted": (lambda levels: INVERTED[levels], ".png", "disc=128,cup=0"),
    "in ascending order": (lambda levels: levels * 100, ".png", "disc,cup"),
    "float NIfTI": (lambda levels: levels.astype(np.float32), ".nii.gz", "disc,cup"),
    "colours": (lambda levels: COLOURS[levels], ".png", "disc,cup"),
    "dark palette": (lambda levels: paletted(levels, DARK), ".png", "disc,cup"),
    "light palette": (lambda levels: paletted(levels, LIGHT), ".png", "disc,cup"),
    "JPEG": (lambda levels: levels * 85, ".jpg", "disc,cup"),
    "16 bits": (lambda levels: levels.astype(np.uint16) * 30000, ".png", "disc=30000,cup=60000"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_levels_become_label_maps_of_1_to_k(kind, tmp_path):
    change, ending, flag = KINDS[kind]
    src = write_levels(tmp_path / "x", change, ending)
    done = convert("folders", src, tmp_path / "out", f"--classes={flag}")
    assert done.returncode == 0, done.stderr + done.stdout
    dataset = assert_masks(tmp_path / "out", EXCLUSIVE)
    assert dataset.classes.names == ("disc", "cup") and dataset.classes.exclusive
    assert labels_in(tmp_path / "out") == {"background": 0, "disc": 1, "cup": 2}
    assert areas_in(tmp_path / "out") == {" ".join("+".join(str(m.sum()) for m in masks) for masks in EXCLUSIVE)}
    picture = Image.open(next((tmp_path / "out").glob("*/*/label1_.png")))
    assert picture.mode == "P" and (np.asarray(picture) == LEVELS[1]).all()


def test_without_classes_the_error_names_the_flag(tmp_path):
    done = convert("folders", write_levels(tmp_path / "x"), tmp_path / "out")
    assert_refused(done, "the labels have 3 levels", "--classes disc,cup", "--merge_labels True", "--structure LEVEL")


def test_regions_of_levels_are_painted_back_as_they_are_given(tmp_path):
    """Level 3 lies in "a"; regions keep their order, and the level that each is painted with."""
    change = np.array([0, 4, 2], np.uint8)
    src = write_levels(tmp_path / "x", lambda levels: change[levels])
    put(src / "eye0" / "mask1.png", np.where(classes() == 2, 1, change[LEVELS[0]]).astype(np.uint8))
    done = convert("folders", src, tmp_path / "out", "--classes=whole=4+2+1,core=1+2,cup=2")
    assert done.returncode == 0, done.stderr
    cases, dataset = read(tmp_path / "out")
    assert not dataset.classes.exclusive and dataset.classes.names == ("whole", "core", "cup")
    stored = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert stored["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "cup": 2}
    assert stored["regions_class_order"] == [1, 3, 2] == list(dataset.classes.values)
    spot = classes() == 2
    np.testing.assert_array_equal(cases["eye0"][0], [DISCS[0] | spot, CUPS[0] | spot, CUPS[0] & ~spot])
    np.testing.assert_array_equal(cases["eye1"][2], [DISCS[2], CUPS[2], CUPS[2]])


def test_ignored_pixels_are_kept_in_the_labels_and_named(tmp_path):
    def change(levels):
        return np.where(np.arange(64)[:, None] < 3, 255, levels).astype(np.uint8)

    src = write_levels(tmp_path / "x", change)
    assert_refused(convert("folders", src, tmp_path / "no", "--classes=disc,cup"), "255 (", "--ignore_label")
    for name, flag, masks, labels in (
        ("classes", "--classes=disc,cup", EXCLUSIVE, {"disc": 1, "cup": 2}),
        ("merged", "--merge_labels=True", DISCS, {"foreground": 1}),
        ("cup", "--structure=2", CUPS, {"foreground": 1}),
    ):
        done = convert("folders", src, tmp_path / name, flag, "--ignore_label=255")
        assert done.returncode == 0, done.stderr
        dataset = assert_masks(tmp_path / name, masks)
        assert dataset.own_arrays(0).ignored.sum() == 3 * 64
        assert labels_in(tmp_path / name) == {"background": 0, **labels, "ignore": 255}


def test_foreground_of_files_without_ignored_pixels_is_not_ignored(tmp_path):
    src = write_levels(tmp_path / "x", lambda levels: np.minimum(levels, 1))
    put(src / "eye0" / "mask1.png", np.where(np.arange(64) < 2, 7, LEVELS[0] > 0).astype(np.uint8))
    assert convert("folders", src, tmp_path / "out", "--ignore_label=7").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "out")[0]["eye1"], DISCS)
    np.testing.assert_array_equal(read(tmp_path / "out")[0]["eye0"], DISCS)


def test_the_dataset_file_of_a_source_names_its_classes(tmp_path):
    src = write_levels(tmp_path / "x", lambda levels: (levels * 3).astype(np.uint8))
    labels = {"background": 0, "optic disc": [3, 6], "cup": 6}
    (src / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [3, 6]}))
    assert convert("folders", src, tmp_path / "out").returncode == 0
    dataset = assert_masks(tmp_path / "out", NESTED)
    assert dataset.classes.names == ("optic disc", "cup")
    assert labels_in(tmp_path / "out") == {"background": 0, "optic disc": [1, 2], "cup": 2}
    done = convert("folders", src, tmp_path / "no", "--classes=disc,cup")
    assert_refused(done, "labels names optic disc, cup, but the classes are disc, cup")
    (src / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a,b": 3, "c": 6}}))
    assert_refused(convert("folders", src, tmp_path / "no"), "dataset.json: labels 'a,b' cannot be the name of a class")


def test_slices_of_a_volume_have_classes(tmp_path):
    """As CURVAS and MBHSeg have them: an image and a label map of each rater; the last slice is empty."""
    volume = np.stack([GREY] * 3)
    for name in SOURCE:
        put(tmp_path / "x" / name / "image.nii.gz", volume.astype(np.float32))
        for k, levels in enumerate(LEVELS):
            label = np.stack([levels, levels * (levels == 2), levels * 0])
            put(tmp_path / "x" / name / f"annotation_{k + 1}.nii.gz", label.astype(np.int16))
    done = convert("folders", tmp_path / "x", tmp_path / "out", "--classes=disc,cup")
    assert done.returncode == 0, done.stderr
    cases, dataset = read(tmp_path / "out")
    assert len(cases) == 9 and dataset.classes.names == ("disc", "cup")
    np.testing.assert_array_equal(cases["eye1_z000"], EXCLUSIVE)
    np.testing.assert_array_equal(cases["eye1_z001"], [[cup & False, cup] for cup in CUPS])
    assert not cases["eye1_z002"].any()
    done = convert("folders", tmp_path / "x", tmp_path / "marked", "--classes=disc,cup", "--min_raters=1")
    assert "6 cases" in done.stdout and "skipped 3" in done.stdout


def test_arrays_of_other_formats_have_classes(tmp_path):
    content = {"a": {"image": GREY / 255, "masks": [levels.astype(float) for levels in LEVELS], "series_uid": "1"}}
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(content))
    done = convert("lidc-pickle", tmp_path / "x.pickle", tmp_path / "out", "--classes=disc,cup")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read(tmp_path / "out")[0]["a"], EXCLUSIVE)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--classes=disc"], ["the labels have the levels 0 (", "--classes disc stands for the levels 1 to 1"]),
        (["--classes=disc=1,cup=3"], ["the level 2 beyond those of the classes disc, cup, which are 1, 3"]),
        (["--classes=disc,cup", "--ignore_label=2"], ["--ignore_label 2: also a level of the class cup"]),
        (["--classes=disc,cup", "--structure=1"], ["--classes and --structure contradict each other"]),
        (["--classes=disc,cup", "--merge_labels"], ["--classes and --merge_labels contradict each other"]),
        (["--classes=disc,cup", "--label_threshold=0.5"], ["--classes and --label_threshold contradict"]),
        (["--classes=disc=file,cup=file"], ["no masks have these names in their paths"]),
        (["--task=1,2"], ["--task describes sources of the format qubiq, not folders"]),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(flags, words, tmp_path):
    assert_refused(convert("folders", write_levels(tmp_path / "x"), tmp_path / "out", *flags), *words)
    assert not (tmp_path / "out").exists()


def test_interpolated_class_labels_are_refused(tmp_path):
    def change(levels):
        small = Image.fromarray(levels * 100).resize((32, 32), Image.Resampling.BILINEAR)
        return small.resize((64, 64), Image.Resampling.BILINEAR)

    done = convert("folders", write_levels(tmp_path / "x", change), tmp_path / "out", "--classes=disc,cup")
    assert_refused(done, "levels between those of the classes, along outlines, as in an interpolated label")


def test_thin_classes_between_others_are_no_ramps(tmp_path):
    rings = [outer.astype(np.uint8) + disc(radius - 1) for outer, radius in zip(DISCS, (13, 11, 9), strict=True)]
    for name in SOURCE:
        put(tmp_path / "x" / name / "scan.png", GREY)
        for k, ring in enumerate(rings):
            put(tmp_path / "x" / name / f"mask{k}.png", ring)
    assert convert("folders", tmp_path / "x", tmp_path / "out", "--classes=ring,core").returncode == 0
    assert_masks(tmp_path / "out", [[ring == 1, ring == 2] for ring in rings])


# -- files per structure ----------------------------------------------------------------------------------------------


def test_files_per_structure_become_regions_of_all_raters(tmp_path):
    src = write_files(tmp_path / "x")
    refused = convert("folders", src, tmp_path / "no")
    assert_refused(
        refused, "several structures: cup (9 masks), disc (9 masks)", "--classes cup,disc", "--structure cup"
    )
    assert convert("folders", src, tmp_path / "out", "--classes=disc,cup").returncode == 0
    dataset = assert_masks(tmp_path / "out", NESTED)
    assert dataset.classes.from_files and dataset.classes.names == ("disc", "cup")
    files = sorted(path.name for path in next((tmp_path / "out").glob("*/eye1")).iterdir())
    assert files == ["image_eye1.png", *(f"label{k}_{name}.png" for k in range(3) for name in ("cup", "disc"))]
    assert labels_in(tmp_path / "out") == {"background": 0, "disc": [1, 2], "cup": 2}
    assert read_dataset_file(str(tmp_path / "out")).raters == ("1", "2", "3")
    for name, masks in (("disc", DISCS), ("cup", CUPS)):
        assert convert("folders", src, tmp_path / name, f"--structure={name}").returncode == 0
        assert_masks(tmp_path / name, masks)
        assert labels_in(tmp_path / name) == {"background": 0, name: 1}


def test_structures_that_do_not_lie_in_another_have_a_level_each(tmp_path):
    for name in SOURCE:
        put(tmp_path / "x" / "images" / f"{name}.png", GREY)
        for structure, mask in (("liver", DISCS[0]), ("spleen", classes() == 2)):
            put(tmp_path / "x" / "masks" / f"{name}_{structure}.png", white(mask))
    assert convert("folders", tmp_path / "x", tmp_path / "out", "--classes=liver,spleen").returncode == 0
    assert_masks(tmp_path / "out", [[DISCS[0], classes() == 2]])
    assert labels_in(tmp_path / "out") == {"background": 0, "liver": 1, "spleen": 2}


def test_a_class_that_a_later_one_hides_is_noted(tmp_path):
    done = convert("folders", write_files(tmp_path / "x"), tmp_path / "out", "--classes=cup,disc")
    assert "note: cup always lies within disc" in done.stdout and "name disc before cup in --classes" in done.stdout
    assert_masks(tmp_path / "out", [pair[::-1] for pair in NESTED])


def test_a_rater_without_a_structure_is_refused_skipped_or_empty(tmp_path):
    src = write_files(tmp_path / "x", without=[("eye1", "cup", 2)])
    done = convert("folders", src, tmp_path / "out", "--classes=disc,cup")
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert done.returncode == 1 and "eye1: rater 2 has no mask of cup; if that means an empty mask" in fault
    assert sorted(read(tmp_path / "out")[0]) == ["eye0", "eye2"]
    for how, expected in (("skip", NESTED[::2]), ("empty", [*NESTED[:1], [DISCS[1], DISCS[1] & False], *NESTED[2:]])):
        done = convert("folders", src, tmp_path / how, "--classes=disc,cup", f"--missing={how}")
        assert done.returncode == 0, done.stderr
        cases, _ = read(tmp_path / how)
        np.testing.assert_array_equal(cases["eye1"], expected)
        np.testing.assert_array_equal(cases["eye0"], NESTED)
    assert read_dataset_file(str(tmp_path / "skip")).raters == ()
    assert read_dataset_file(str(tmp_path / "empty")).raters == ("1", "2", "3")
    assert convert("folders", src, tmp_path / "refused", "--structure=cup").returncode == 1
    assert convert("folders", src, tmp_path / "cup", "--structure=cup", "--missing=skip").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "cup")[0]["eye1"], CUPS[::2])
    assert convert("folders", src, tmp_path / "cups", "--structure=cup", "--missing=empty").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "cups")[0]["eye1"], [CUPS[0], CUPS[1] & False, CUPS[2]])


def test_a_case_whose_raters_are_all_skipped_is_a_fault(tmp_path):
    src = write_files(tmp_path / "x", without=[("eye1", "cup", k) for k in (1, 2)] + [("eye1", "disc", 3)])
    done = convert("folders", src, tmp_path / "out", "--classes=disc,cup", "--missing=skip")
    assert done.returncode == 1 and "eye1: no rater has masks of all of disc, cup (--missing skip)" in done.stdout


def test_a_class_without_masks_is_refused(tmp_path):
    done = convert("folders", write_files(tmp_path / "x"), tmp_path / "out", "--classes=disc,macula")
    assert_refused(done, "--classes macula: no masks of this name; those found are cup (9 masks), disc (9 masks)")


def test_one_class_of_files_is_the_structure(tmp_path):
    assert convert("folders", write_files(tmp_path / "x"), tmp_path / "out", "--classes=cup").returncode == 0
    dataset = assert_masks(tmp_path / "out", CUPS)
    assert not dataset.classes.several and labels_in(tmp_path / "out") == {"background": 0, "cup": 1}


def test_structures_of_volumes_and_of_patterns(tmp_path):
    for name in SOURCE:
        put(tmp_path / "x" / "scans" / f"{name}.nii.gz", np.stack([GREY] * 2).astype(np.float32))
        for k in range(2):
            for word, mask in (("foo", DISCS[k]), ("bar", CUPS[k])):
                if (name, word, k) != ("eye0", "bar", 1):
                    label = np.stack([mask, mask & False]).astype(np.uint8)
                    put(tmp_path / "x" / "drawn" / word / f"{name}_{k}.nii.gz", label)
    patterns = ["--images=scans/{case}.*", "--masks=drawn/{structure}/{case}_{rater}.*"]
    done = convert("folders", tmp_path / "x", tmp_path / "out", *patterns, "--classes=foo,bar", "--missing=empty")
    assert done.returncode == 0, done.stderr
    cases, _ = read(tmp_path / "out")
    np.testing.assert_array_equal(cases["eye1_z000"], NESTED[:2])
    np.testing.assert_array_equal(cases["eye0_z000"], [NESTED[0], [DISCS[1], DISCS[1] & False]])
    assert not cases["eye0_z001"].any()


def test_tasks_of_qubiq_are_structures(tmp_path):
    for name in SOURCE:
        put(tmp_path / "x" / name / "image.nii.gz", GREY.astype(np.float32))
        for k in range(3):
            put(tmp_path / "x" / name / f"task01_seg0{k + 1}.nii.gz", DISCS[k].astype(np.float32))
            if (name, k) != ("eye0", 2):
                put(tmp_path / "x" / name / f"task02_seg0{k + 1}.nii.gz", CUPS[k].astype(np.float32))
    done = convert("qubiq", tmp_path / "x", tmp_path / "out", "--task=1,2", "--classes=whole,core")
    assert done.returncode == 1 and "rater 3 has no mask of core" in done.stdout
    np.testing.assert_array_equal(read(tmp_path / "out")[0]["eye1"], NESTED)
    done = convert("qubiq", tmp_path / "x", tmp_path / "skip", "--task=1,2", "--missing=skip")
    cases, dataset = read(tmp_path / "skip")
    assert dataset.classes.names == ("task1", "task2")
    np.testing.assert_array_equal(cases["eye0"], NESTED[:2])
    assert_refused(convert("qubiq", tmp_path / "x", tmp_path / "no", "--task=1,2", "--classes=a"), "a name for each")
    assert convert("qubiq", tmp_path / "x", tmp_path / "one", "--task=2").returncode == 0
    np.testing.assert_array_equal(read(tmp_path / "one")[0]["eye0"], CUPS[:2])


# -- check_data and info ----------------------------------------------------------------------------------------------


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


@pytest.mark.parametrize("kind", ["levels", "files"])
def test_check_data_reports_each_class_and_their_mean(kind, tmp_path):
    """By a loop over pairs; the third rater of the cup sees none, nor does the second, who agree."""
    if kind == "files":
        src, none = write_files(tmp_path / "x"), white(CUPS[0] & False)
        for name in SOURCE:
            for k in (2, 3):
                put(src / f"{name}_seg_cup_{k}.png", none)
        masks = [np.stack([DISCS[k], CUPS[k] if k == 0 else CUPS[k] & False]) for k in range(3)]
    else:
        src = write_levels(tmp_path / "x")
        for name in SOURCE:
            for k in (1, 2):
                put(src / name / f"mask{k + 1}.png", DISCS[k].astype(np.uint8))
        masks = [EXCLUSIVE[0], *(np.stack([DISCS[k], DISCS[k] & False]) for k in (1, 2))]
    assert convert("folders", src, tmp_path / "out", "--classes=disc,cup").returncode == 0
    done = call_script("check_data", tmp_path / "out", f"--sheet={tmp_path}/sheet.png")
    assert done.returncode == 0, done.stdout
    of_pairs = [[[iou(a, b) for a, b in zip(x, y, strict=True)] for y in masks] for x in masks]
    table = np.mean(of_pairs, axis=2)
    apart = ~np.eye(3, dtype=bool)
    assert f"IoU of two raters, over classes: {table[apart].mean():.3f} on average over 1 cases" in done.stdout
    assert f"GED of one rater against all, over classes: {1 - table.mean():.3f}" in done.stdout
    for k, name in enumerate(("disc", "cup")):
        pixels = [int(one[k].sum()) for one in masks]
        line = f"class {name}: {sum(pixels):,} pixels ({100 * sum(pixels) / 3 / 64**2:.1f} % of all)"
        assert f"{line} in {sum(map(bool, pixels))} of 3 masks" in done.stdout
        assert f"IoU of two raters {np.array(of_pairs)[..., k][apart].mean():.3f}" in done.stdout
    assert "no faults" in done.stdout and Image.open(tmp_path / "sheet.png").size[0] > 500
    printed = call_script("info", tmp_path / "out").stdout
    assert "class cup: " in printed and "classes: disc, cup, " in printed
    packed = call_script("pack_data", f"--data_dir={tmp_path}/out/training", f"--out={tmp_path}/packed")
    assert packed.returncode == 0, packed.stderr
    printed = call_script("info", tmp_path / "packed" / "training.pack").stdout
    kind = "regions, which may overlap" if kind == "files" else "of which a pixel has at most one"
    assert f"disc, cup, {kind}" in printed and "3 in 1" in printed


def test_check_data_counts_ignored_pixels(tmp_path):
    label = classes()
    label[:2] = 9
    put(tmp_path / "x" / "c0" / "image.png", GREY)
    put(tmp_path / "x" / "c0" / "label0_.png", label)
    done = call_script("check_data", tmp_path / "x", "--classes=a,b", "--ignore_label=9")
    assert done.returncode == 0 and "ignored pixels: 128 (3.1 %) in 1 cases" in done.stdout, done.stdout
