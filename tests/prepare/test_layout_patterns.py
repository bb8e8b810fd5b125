"""Layouts that the user describes by --images and --masks."""

import numpy as np
import pytest
from conversions import GREY, convert, read
from helpers import assert_refused
from test_layouts import MASKS, discs_of, put, source


def converted(src, out, images, masks, *more):
    done = convert("folders", src, out, f"--images={images}", f"--masks={masks}", *more)
    assert done.returncode == 0, done.stderr
    return discs_of(out)


# images, masks {path: disc}, the two patterns, {case: discs}, {patient: cases}
DESCRIBED = {
    "a mask folder per case": (
        ["a/scan.png", "b/scan.png"],
        {"a/drawn/x.png": 1, "a/drawn/y.png": 2, "b/drawn/x.png": 3},
        "{case}/scan.*",
        "{case}/drawn/{rater}.*",
        {"a": [1, 2], "b": [3]},
    ),
    "names in the middle": (
        ["v1/scan-a-final.png", "v2/scan-b-final.png"],
        {"v1/by_smith_a.png": 1, "v1/by_jones_a.png": 2, "v2/by_smith_b.png": 3},
        "*/scan-{case}-final.png",
        "*/by_{rater}_{case}.png",
        {"a": [2, 1], "b": [3]},
    ),
    "an underscore in case and rater": (
        ["i/p1_z3.png", "i/p1.png", "i/p1_z30.png"],
        {"m/p1_z3_dr_a.png": 1, "m/p1_z3_dr_b.png": 2, "m/p1_dr_a.png": 3, "m/p1_z30_dr_a.png": 4},
        "i/{case}.png",
        "m/{case}_{rater}.png",
        {"p1_z3": [1, 2], "p1": [3], "p1_z30": [4]},
    ),
    "a point in the case": (
        ["i/z-1.5.png", "i/z-1.25.png"],
        {"m/z-1.5.nii.png": 1, "m/z-1.25.nii.png": 2},
        "i/{case}.*",
        "m/{case}.nii.*",
        {"z-1.5": [1], "z-1.25": [2]},
    ),
    "an image as a mask": (
        ["a.png", "b.png"],
        {"a_jones.png": 1, "b_jones.png": 2},
        "{case}.*",
        "{case}_{rater}.*",
        {"a": [1], "b": [2]},
    ),
    "twice the case": (
        ["a/a.png", "b/b.png", "b/a.png"],
        {"m/a/a_1.png": 1, "m/b/b_1.png": 2, "m/b/a_1.png": 3},
        "{case}/{case}.*",
        "m/{case}/{case}_{rater}.*",
        {"a": [1], "b": [2]},
    ),
}


@pytest.mark.parametrize("kind", DESCRIBED)
def test_a_described_layout_is_taken(kind, tmp_path):
    images, masks, image_pattern, mask_pattern, expected = DESCRIBED[kind]
    found, _ = converted(source(tmp_path, images, masks), tmp_path / "out", image_pattern, mask_pattern)
    assert found == expected


def test_patients_and_splits_of_a_described_layout(tmp_path):
    parts = {"train": "training", "val": "validation", "test": "testing"}
    src = source(
        tmp_path,
        [f"{part}/in/{p}/s{k}.png" for part in parts for p in (f"{part}A", f"{part}B") for k in range(2)],
        {f"{part}/out/{p}_s{k}_r1.png": k for part in parts for p in (f"{part}A", f"{part}B") for k in range(2)},
    )
    found, rows = converted(src, tmp_path / "out", "*/in/{patient}/{case}.*", "*/out/{patient}_{case}_{rater}.*")
    assert len(found) == 12 and found["trainA-s1"] == [1]
    for part, split in parts.items():
        assert {row["patient"] for row in rows.values() if row["split"] == split} == {f"{part}A", f"{part}B"}
    done = convert("folders", src, tmp_path / "no", "--images=*/in/{patient}/{case}.*", "--masks=*/out/*_{case}_r1.*")
    assert_refused(done, "several patients have a case s0", "{patient}")


def test_structures_of_a_described_layout(tmp_path):
    src = source(
        tmp_path,
        ["i/a.png", "i/b.png"],
        {f"m/{i}-{s}-{r}.png": k for i in "ab" for k, (s, r) in enumerate(["xs", "xt", "ys", "yt"])},
    )
    flags = ("i/{case}.*", "m/{case}-{structure}-{rater}.*")
    assert_refused(
        convert("folders", src, tmp_path / "no", f"--images={flags[0]}", f"--masks={flags[1]}"),
        "x (4 masks), y (4 masks)",
        "--structure x",
    )
    assert converted(src, tmp_path / "out", *flags, "--structure=y")[0] == {"a": [2, 3], "b": [2, 3]}


def test_modalities_of_a_described_layout(tmp_path):
    src = tmp_path / "x"
    for i in ("a", "b"):
        put(src, f"{i}/flair.png", GREY)
        put(src, f"{i}/t1.png", GREY // 2)
        put(src, f"{i}/lesion1.png", MASKS[0])
    done = convert("folders", src, tmp_path / "out", "--images={case}/{modality}.png", "--masks={case}/lesion{rater}.*")
    assert done.returncode == 0, done.stderr
    for case in read(tmp_path / "out")[0].values():
        np.testing.assert_allclose(case.image.numpy(), np.stack([GREY, GREY // 2]) / 255, atol=1e-6)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--images={case}.*"], ["--images is given without --masks"]),
        (["--images={case}.*", "--masks={reader}/{case}.*"], ["--masks", "{reader} is unknown", "{rater}"]),
        (["--images={case}_{rater}.*", "--masks={case}.*"], ["--images", "{rater} is unknown"]),
        (["--images=*.png", "--masks={case}.*"], ["--images *.png", "{case} is required"]),
        (["--images=scans/{case}.*", "--masks=m/{case}.*"], ["--images scans/{case}.*", "e.g. images/a.png"]),
        (["--images=images/{case}.*", "--masks=m/{case}.*"], ["--masks m/{case}.*", "found e.g. images/a.png"]),
        (
            ["--images=images/{case}.*", "--masks=masks/{case}.*"],
            ["found masks/b.png of the case b", "found images/a.png of the case a"],
        ),
    ],
)
def test_patterns_that_fit_nothing_are_refused_with_an_example(flags, words, tmp_path):
    src = source(tmp_path, ["images/a.png"], {"masks/b.png": 0})
    assert_refused(convert("folders", src, tmp_path / "out", *flags), *words)
    assert not (tmp_path / "out").exists()


def test_patterns_are_for_folders(tmp_path):
    src = source(tmp_path, ["images/a.png"], {})
    done = convert("qubiq", src, tmp_path / "out", "--images={case}.*", "--masks={case}_{rater}.*")
    assert_refused(done, "--images", "folders, not qubiq")
