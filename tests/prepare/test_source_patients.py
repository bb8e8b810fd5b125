"""The patients of folders of pictures, converted: each on one side, by folders, names, a pattern or a table."""

import collections
import csv

import pytest
from drawings import DISCS, GREY, put, white
from helpers import assert_refused, call_script
from PIL import Image


def put_case(folder):
    put(folder / "img.png", GREY)
    for k in range(2):
        put(folder / f"mask{k}.png", white(DISCS[k]))


def convert(tmp_path, *flags):
    return call_script("convert_data", "folders", f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'out'}", *flags)


def patients_in(tmp_path, *flags):
    """({patient: number of cases}, text) of a conversion, in which each patient is in one split."""
    done = convert(tmp_path, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "out" / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sides = collections.defaultdict(set)
    for row in rows:
        sides[row["patient"]].add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    return collections.Counter(row["patient"] for row in rows), done.stdout


@pytest.mark.parametrize(
    "name", ["patient{}/slice{}", "patients/patient{}/slice{}", "patient{}_z{}", "patient{}-slice{}"]
)
def test_slices_of_a_patient_are_on_one_side(tmp_path, name):
    for patient in range(4):
        for k in range(4):
            put_case(tmp_path / "src" / name.format(patient, k))
    patients, text = patients_in(tmp_path)
    assert patients == {f"patient{k}": 4 for k in range(4)}
    assert "16 cases of 4 patients" in text and "warning" not in text
    done = call_script("check_data", tmp_path / "out")
    assert done.returncode == 0 and "no faults" in done.stdout and "warning" not in done.stdout


def test_both_eyes_of_a_patient_are_on_one_side(tmp_path):
    for patient in range(3):
        for side in ("L", "R"):
            put_case(tmp_path / "src" / f"{patient:03d}_{side}")
    assert patients_in(tmp_path)[0] == {f"{k:03d}": 2 for k in range(3)}


def test_pages_of_a_file_are_of_one_patient(tmp_path):
    for k in range(2):
        for name, page in (("scan", GREY), ("mask0", white(DISCS[0]))):
            pages = [Image.fromarray(page)] * 3
            put(tmp_path / "src" / "images" / f"x{k}" / f"{name}.tif", pages[0], save_all=True, append_images=pages[1:])
    assert list(patients_in(tmp_path)[0].values()) == [3, 3]


def test_a_pattern_or_a_table_names_the_patients(tmp_path):
    for k in range(6):
        put_case(tmp_path / "src" / f"img_{k:03d}")
    _, text = patients_in(tmp_path)
    assert "warning: 6 cases with names like img_###: each case counts as a patient of its own" in text
    (tmp_path / "out").rename(tmp_path / "first")
    assert_refused(convert(tmp_path, "--patient_pattern=P(.)"), "--patient_pattern P(.)", "matches none of 6 cases")
    rows = ["case,patient", *(f"img_{k:03d}.png,Müller {k % 3}" for k in range(6))]
    (tmp_path / "patients.csv").write_text("\n".join(rows[:-1]), encoding="utf-8")
    table = f"--patients={tmp_path / 'patients.csv'}"
    assert_refused(convert(tmp_path, table), "patients.csv", "lacks 1 of 6 cases, e.g. img_005")
    (tmp_path / "patients.csv").write_text("\n".join(rows), encoding="utf-8")
    assert not list((tmp_path / "out").glob("*/*"))
    patients, text = patients_in(tmp_path, table)
    assert patients == {f"Müller {k}": 2 for k in range(3)} and "warning" not in text
    (tmp_path / "out").rename(tmp_path / "second")
    assert patients_in(tmp_path, r"--patient_pattern=img_00([01])")[0]["1"] == 1


def test_names_that_cannot_be_stored_are_changed_and_counted(tmp_path):
    for name in ("a?b", "a:b", "c", "b" * 250):
        put_case(tmp_path / "src" / name)
    _, text = patients_in(tmp_path)
    assert text.count("note: names of cases that some file systems cannot store: 3") == 1
    put_case(tmp_path / "src" / "Mu\u0308ller")
    put_case(tmp_path / "src" / "Müller")
    (tmp_path / "out").rename(tmp_path / "first")
    assert_refused(convert(tmp_path), "two cases are named")
