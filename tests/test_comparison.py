"""Methods side by side: the cases are split by patient, every method gets the same, and the command goes on where it was."""

import csv
import json
import os

import pytest
from helpers import assert_refused, call_script

from guided_diffusion.comparison import CompareConfig, read_patients, split_cases
from guided_diffusion.comparison_page import as_rows

SMALL = ("--image_size", 16, "--image_channels", 1, "--num_channels", 32, "--channel_mult", 1, "--num_filters", "4,8", "--diffusion_steps", 20)


@pytest.fixture
def patients(tmp_path):
    """Twelve empty cases of four patients, and the manifest that says so."""
    for k in range(12):
        os.makedirs(tmp_path / "training" / f"case{k:02d}")
        (tmp_path / "training" / f"case{k:02d}" / "image.png").touch()
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("case", "patient"), *((f"case{k:02d}", f"P{k % 4}") for k in range(12))])
    return tmp_path / "training"


def test_folds_test_every_case_once_and_never_split_a_patient(patients):
    of = read_patients(str(patients))
    assert len(of) == 12
    splits = split_cases(CompareConfig(data_dir=str(patients), folds=4))
    assert sorted(name for split in splits for name in split["testing"]) == sorted(of)
    for split in splits:
        sides = [{of[name] for name in split[part]} for part in ("training", "validation", "testing")]
        assert all(sides) and len(set.union(*sides)) == sum(map(len, sides)) == 4
    assert split_cases(CompareConfig(data_dir=str(patients), folds=4)) == splits
    assert split_cases(CompareConfig(data_dir=str(patients), folds=4, seed=1)) != splits


def test_compares_by_folds_goes_on_and_takes_more_methods(cases, tmp_path):
    out = tmp_path / "out"
    arguments = ("--data_dir", cases, "--folds", 2, "--budget_images", 32, "--batch_size", 2, "--num_ensemble", 3, "--lrs", "1e-3,1e-2",
                 "--out_dir", out, "--steps", 2, *SMALL)  # fmt: skip
    first = call_script("compare", "--methods", "demo", *arguments)
    assert first.returncode == 0, first.stderr
    before = (out / "demo" / "result.json").read_bytes()
    both = call_script("compare", "--methods", "demo,ssn", *arguments)
    assert both.returncode == 0, both.stderr
    assert (out / "demo" / "result.json").read_bytes() == before and "demo: training" not in both.stdout

    table = json.loads((out / "comparison.json").read_text())
    assert table["cases"] == 6 and [row["method"] for row in table["rows"]] == ["demo", "ssn"]
    for row in table["rows"]:
        assert set(row["trials"]) == {"0.001", "0.01"} and row["lr"] == float(min(row["trials"], key=row["trials"].get))
        assert row["images"] == 32 and row["training_seconds"] > 0 and row["seconds"] > 0 and row["curve"]
        assert row["figures"]["ged_3"]["cases"] == 6
    a, b = table["rows"]
    assert b["differences"]["ged_3"]["mean"] == pytest.approx(b["figures"]["ged_3"]["mean"] - a["figures"]["ged_3"]["mean"])
    commands = (out / "commands.txt").read_text().splitlines()
    trained = [line for line in commands if "--preset ssn" in line]
    assert len(trained) == 4 and all("--num_channels" not in line and "--num_filters 4,8" in line for line in trained)
    assert "ssn" in (out / "comparison.md").read_text() and "<polyline" in (out / "comparison.html").read_text()
    titles, rows = as_rows(table, 3)
    assert titles[1] == "GED_3" and rows[1][1][1].startswith(f"{b['differences']['ged_3']['mean']:+.3f} [")

    assert_refused(call_script("compare", "--methods", "demo", *arguments, "--seed", 1), "other flags", "--out_dir")


def test_a_budget_of_minutes_is_counted_in_steps_of_a_measured_speed(cases, tmp_path):
    done = call_script("compare", "--methods", "unet", "--data_dir", cases, "--test_dir", cases, "--budget_minutes", 0.02, "--batch_size", 2,
                       "--num_ensemble", 2, "--out_dir", tmp_path, *SMALL)  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "comparison.json").read_text())["rows"][0]
    assert row["lr"] is None and row["images"] == 2 * row["steps"] > 0
    assert 0.3 < row["training_seconds"] < 6  # 1.2 seconds, on a machine that may be busy with other things


def test_what_cannot_be_compared_is_refused(cases, tmp_path):
    compare = ("compare", "--data_dir", cases, "--out_dir", tmp_path)
    assert_refused(call_script(*compare), "--budget_minutes", "--budget_images")
    assert_refused(call_script(*compare, "--budget_images", 8, "--methods", "demo,nnunet"), "--methods nnunet", "prob-unet")
    assert_refused(call_script(*compare, "--budget_images", 8, "--folds", 1), "--folds 1", "--test_dir")
    assert_refused(call_script(*compare, "--budget_images", 8, "--folds", 7, "--methods", "unet"), "too few", "--folds")
    assert_refused(call_script(*compare, "--budget_images", 8, "--method", "ssn"), "--methods")
    failed = call_script(*compare[:-1], tmp_path / "other", "--budget_images", 8, "--folds", 2, "--methods", "mc-dropout", "--dropout", 2, *SMALL)
    assert_refused(failed, "segmentation_train.py ended with status 2", "console.log")
