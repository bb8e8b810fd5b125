"""Comparisons: cases are split by patient, all methods get the same cases, and the command resumes."""

import csv
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT, assert_refused, call_main, call_script, wait_for

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.compare.config import CompareConfig, check_folders
from guided_diffusion.compare.folds import find_patients, link_cases, split_cases
from guided_diffusion.compare.page import as_rows
from guided_diffusion.compare.stages import Comparison
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.files.case_files import find_cases
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.flags.command_line import GAVE_UP
from guided_diffusion.logger import read_rows
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.system.storage import LOCK


def in_this_process(script, arguments, log):
    """A runner of a comparison's commands that saves the seconds of importing torch."""
    done = call_main(importlib.import_module(f"guided_diffusion.commands.{script}").main, *arguments)
    with open(log, "a") as file:
        file.write(done.stdout + done.stderr)
    return done.returncode


def compare(*arguments, run_command=in_this_process):
    return call_script("compare", *arguments, run_command=run_command)


SMALL = (
    "--image_size",
    16,
    "--image_channels",
    1,
    "--num_channels",
    32,
    "--channel_mult",
    1,
    "--num_filters",
    "4,8",
    "--diffusion_steps",
    20,
)


@pytest.fixture
def patients(tmp_path):
    """Twelve empty cases of four patients, with a manifest."""
    for k in range(12):
        os.makedirs(tmp_path / "training" / f"case{k:02d}")
        (tmp_path / "training" / f"case{k:02d}" / "image.png").touch()
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("case", "patient"), *((f"case{k:02d}", f"P{k % 4}") for k in range(12))])
    return tmp_path / "training"


def test_folds_test_every_case_once_and_never_split_a_patient(patients):
    of = find_patients(str(patients), dict(find_cases(patients)))
    assert len(of) == 12
    splits, lines = split_cases(CompareConfig(data_dir=str(patients), folds=4))
    assert "4 patients" in lines[0] and "12 of 12" in lines[0]
    assert sorted(name for split in splits for name in split["testing"]) == sorted(of)
    for split in splits:
        sides = [{of[name] for name in split[part]} for part in ("training", "validation", "testing")]
        assert all(sides) and len(set.union(*sides)) == sum(map(len, sides)) == 4
    assert split_cases(CompareConfig(data_dir=str(patients), folds=4))[0] == splits
    assert split_cases(CompareConfig(data_dir=str(patients), folds=4, seed=1))[0] != splits


def test_flags_name_the_patients_of_folds(patients, tmp_path):
    """By the manifest four, by the flags six: cases k and k + 6 of one."""
    table = ["case,patient", *(f"case{k:02d},{k % 6}" for k in range(12))]
    (tmp_path / "patients.csv").write_text("\n".join(table))
    for flags in ({"patients": str(tmp_path / "patients.csv")}, {"patient_pattern": r"case\d(\d)"}):
        splits, lines = split_cases(CompareConfig(data_dir=str(patients), folds=3, **flags))
        assert "12 of 12" in lines[0] and len(lines) == 1
        if "patients" in flags:
            assert "6 patients" in lines[0]
            for split in splits:
                sides = [{int(name[-2:]) % 6 for name in split[part]} for part in ("training", "validation", "testing")]
                assert len(set.union(*sides)) == sum(map(len, sides)) == 6
    with pytest.raises(DataError, match="--patient_pattern P: matches none of 12 cases, e.g. case00"):
        split_cases(CompareConfig(data_dir=str(patients), patient_pattern="P"))
    (tmp_path / "patients.csv").write_text("\n".join(table[:-1]))
    with pytest.raises(DataError, match="lacks 1 of 12 cases, e.g. case11"):
        split_cases(CompareConfig(data_dir=str(patients), patients=str(tmp_path / "patients.csv")))


def test_a_comparison_warns_of_cases_that_count_as_patients(patients, tmp_path):
    (tmp_path / "manifest.csv").unlink()
    _, lines = split_cases(CompareConfig(data_dir=str(patients)))
    assert "for 0 of 12" in lines[0] and "each case counts as a patient of its own" in lines[1]


def test_cases_without_labels_are_skipped_if_the_flag_says_so(patients):
    for k in range(1, 12):
        (patients / f"case{k:02d}" / "label0_.png").touch()
    splits, lines = split_cases(CompareConfig(data_dir=str(patients), folds=4), DataConfig(skip_unlabelled=True))
    assert "skipped 1 of 12 cases" in lines[0] and "11 of 11" in lines[1]
    assert "case00" not in {name for split in splits for part in split.values() for name in part}


def test_what_is_scored_is_not_trained_on(patients, tmp_path):
    with pytest.raises(DataError, match="case00 is in both --data_dir and --test_dir"):
        split_cases(CompareConfig(data_dir=str(patients), test_dir=str(patients)))
    os.makedirs(tmp_path / "testing" / "case99")
    (tmp_path / "testing" / "case99" / "image.png").touch()
    with open(tmp_path / "manifest.csv", "a", newline="") as file:
        csv.writer(file).writerow(("case99", "P3"))
    with pytest.raises(DataError, match="patient P3 is in both --data_dir and --test_dir"):
        split_cases(CompareConfig(data_dir=str(patients), test_dir=str(tmp_path / "testing")))


def test_links_are_those_of_the_split_alone(patients, tmp_path):
    """One case more, and another split: no link of the old one stays."""
    for _ in range(2):
        splits, _ = split_cases(CompareConfig(data_dir=str(patients), folds=3))
        link_cases(splits, str(tmp_path / "data"))
        for k, split in enumerate(splits):
            for part, cases in split.items():
                assert sorted(os.listdir(tmp_path / "data" / f"fold{k}" / part)) == sorted(cases)
        os.makedirs(patients / "case77", exist_ok=True)
        (patients / "case77" / "image.png").touch()


def test_nothing_but_links_is_ever_removed(patients, tmp_path):
    splits, _ = split_cases(CompareConfig(data_dir=str(patients), folds=3))
    with pytest.raises(DataError, match="manifest.csv is not a link of a comparison: use another --out_dir"):
        link_cases(splits, str(tmp_path))
    with pytest.raises(ConfigError, match="--out_dir .* is inside --data_dir"):
        check_folders(CompareConfig(data_dir=str(patients), budget_images=8, out_dir=str(patients / "compared")))
    assert len(list(patients.glob("case*/image.png"))) == 12 and not list(tmp_path.glob("fold*"))


def test_compares_by_folds_resumes_and_accepts_more_methods(cases, tmp_path):
    out = tmp_path / "out"
    arguments = (
        "--data_dir",
        cases,
        "--folds",
        2,
        "--budget_images",
        32,
        "--batch_size",
        2,
        "--num_ensemble",
        3,
        "--lrs",
        "1e-3,1e-2",
        "--out_dir",
        out,
        "--steps",
        2,
        *SMALL,
    )
    first = compare("--methods", "demo", *arguments)
    assert first.returncode == 0, first.stderr
    before = (out / "demo" / "result.json").read_bytes()
    both = compare("--methods", "demo,ssn", *arguments)
    assert both.returncode == 0, both.stderr
    assert (out / "demo" / "result.json").read_bytes() == before and "demo: training" not in both.stdout

    table = json.loads((out / "comparison.json").read_text())
    assert table["cases"] == 6 and [row["method"] for row in table["rows"]] == ["demo", "ssn"]
    for row in table["rows"]:
        assert len(row["lrs"]) == len(row["trials"]) == 2  # folds
        for lr, trials in zip(row["lrs"], row["trials"], strict=True):
            assert set(trials) == {"0.001", "0.01"} and lr == float(min(trials, key=trials.get))
        assert row["images"] == 32 and row["training_seconds"] > 0 and row["seconds"] > 0 and row["curve"]
        assert row["figures"]["ged_3"]["cases"] == 6
    a, b = table["rows"]
    assert b["differences"]["ged_3"]["mean"] == pytest.approx(
        b["figures"]["ged_3"]["mean"] - a["figures"]["ged_3"]["mean"]
    )
    commands = (out / "commands.txt").read_text().splitlines()
    trained = [line for line in commands if "--preset ssn" in line]
    assert len(trained) == 6 and all("--num_channels" not in line and "--num_filters 4,8" in line for line in trained)
    assert "ssn" in (out / "comparison.md").read_text() and "<polyline" in (out / "comparison.html").read_text()
    titles, rows = as_rows(table, 3)
    assert titles[1] == "GED_3" and rows[1][1][1].startswith(f"{b['differences']['ged_3']['mean']:+.3f} [")

    assert_refused(compare("--methods", "demo", *arguments, "--seed", 1), "different flags", "--out_dir")


def trial_of(arguments):
    """The learning rate of a command of training, and the folder that it writes into."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    return given["--lr"], pathlib.Path(given["--log_dir"])


def test_a_learning_rate_with_which_training_diverges_is_passed_over(cases, tmp_path):
    """Of two rates the first diverges; where all do, the comparison ends. Trials alone are run, by a stand-in."""
    config = CompareConfig(
        data_dir=str(cases),
        methods=("unet",),
        budget_images=8,
        folds=2,
        batch_size=2,
        lrs=(1e-3, 1e-2),
        out_dir=str(tmp_path),
    )

    def runner(diverging):
        def run_command(script, arguments, log):
            assert script == "train"
            lr, folder = trial_of(arguments)
            folder.mkdir(parents=True)
            (folder / "progress.csv").write_text(
                f"step,samples,ged_8\n{arguments[arguments.index('--iterations') + 1]},2,0.25\n"
            )
            return GAVE_UP if lr in diverging else 0

        return run_command

    def comparison(diverging):
        return Comparison(config, {}, report=lambda line: None, run_command=runner(diverging)).methods[0]

    (first, second), _ = split_cases(config)
    assert comparison({"0.001"}).choose_lr(0, first, 10) == (0.01, {"0.001": None, "0.01": 0.25})
    with pytest.raises(DataError, match="training diverged with all --lrs 0.001,0.01"):
        comparison({"0.001", "0.01"}).choose_lr(1, second, 10)
    with pytest.raises(DataError, match="unet: training diverged with learning rate 0.01"):
        comparison({"0.01"}).train(0, str(tmp_path / "whole"), 10, {"lr": 0.01})


def test_a_command_that_fails_is_named_with_its_last_line(cases, tmp_path):
    def run_command(script, arguments, log):
        with open(log, "a") as file:
            file.write("something\nno space left\n")
        return 2

    done = compare(
        "--data_dir",
        cases,
        "--methods",
        "unet",
        "--folds",
        2,
        "--budget_images",
        8,
        "--batch_size",
        2,
        "--out_dir",
        tmp_path / "out",
        *SMALL[:4],
        run_command=run_command,
    )
    assert done.returncode == 2
    assert "train failed with status 2: no space left" in done.stderr and "console.log" in done.stderr
    assert (tmp_path / "out" / "commands.txt").read_text().count(
        "python -m guided_diffusion.commands.train --preset unet"
    ) == 1


def test_by_its_own_processes_a_budget_of_minutes_is_counted_in_steps_of_a_measured_speed(cases, tmp_path):
    others = tmp_path / "others"
    phantom.write_set(others, num_cases=2, seed=6, size=16, num_raters=3)
    done = call_script(
        "compare",
        "--methods",
        "unet",
        "--data_dir",
        cases,
        "--test_dir",
        others,
        "--budget_minutes",
        0.02,
        "--batch_size",
        2,
        "--num_ensemble",
        2,
        "--out_dir",
        tmp_path / "out",
        "--image_size",
        16,
        "--image_channels",
        1,
        "--num_filters",
        "4,8",
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]
    assert row["lrs"] == [None] and row["images"] == 2 * row["steps"] > 0
    speeds = [
        float(measured["samples_per_second"])
        for measured in read_rows(tmp_path / "out" / "unet" / "speed" / "progress.csv")
    ]
    assert row["steps"] == int(60 * 0.02 * sum(speeds[1:]) / 2 / 2)  # by the mean of two parts; the first warms up
    assert row["training_seconds"] > 0


def test_what_cannot_be_compared_is_refused(cases, tmp_path):
    compare = ("compare", "--data_dir", cases, "--out_dir", tmp_path)
    assert_refused(call_script(*compare), "--budget_minutes", "--budget_images")
    assert_refused(
        call_script(*compare, "--budget_images", 8, "--methods", "demo,nnunet"), "--methods nnunet", "prob-unet"
    )
    assert_refused(call_script(*compare, "--budget_images", 8, "--folds", 1), "--folds 1", "--test_dir")
    assert_refused(
        call_script(*compare, "--budget_images", 8, "--folds", 7, "--methods", "unet"), "not enough", "--folds"
    )
    assert_refused(call_script(*compare, "--budget_images", 8, "--method", "ssn"), "--methods")
    small = (*compare, "--budget_images", 8, "--folds", 2, "--batch_size", 2, *SMALL)
    assert_refused(call_script(*small, "--methods", "demo,mc-dropout", "--dropout", 2), "--dropout 2")
    assert_refused(call_script(*small, "--methods", "unet,tuned"), "--batch_size 2", "--raters_per_image 4")
    assert_refused(call_script(*small, "--preset", "cimd"), "--preset")
    assert_refused(call_script(*small, "--fast", "--steps", 5), "--fast", "--steps")
    assert_refused(call_script(*small, "--truth", tmp_path / "truth.json"), "truth.json")
    assert_refused(
        call_script(*small, "--methods", "unet,cimd", "--noise_schedule", "cosine", "--spacing", "logsnr"),
        "--spacing logsnr",
        "--steps",
    )
    assert_refused(
        call_script(*small, "--methods", "unet,cimd", "--noise_schedule", "cosine", "--eta", 0.5), "--eta 0.5"
    )
    assert_refused(
        call_script(*small, "--methods", "unet,cimd", "--noise_schedule", "cosine", "--steps", 21), "--steps 21"
    )
    assert_refused(call_script(*small, "--methods", "demo", "--cov_rank", 5), "--cov_rank", "--methods demo")
    assert os.listdir(tmp_path) == []  # nothing that keeps the right command from running


def test_a_given_flag_replaces_an_equivalent_flag_of_the_preset(cases, tmp_path):
    config = CompareConfig(
        data_dir=str(cases), methods=("demo",), budget_images=8, folds=2, batch_size=2, out_dir=str(tmp_path)
    )
    Comparison(config, {"prediction": "v"}).check_methods(split_cases(config)[0])


def test_methods_take_the_channels_of_the_cases(modalities, tmp_path):
    out = tmp_path / "out"
    small = {**dict(zip(SMALL[::2], SMALL[1::2], strict=True)), "--image_channels": "auto", "--steps": 2}
    small |= {"--budget_images": 4, "--folds": 2, "--batch_size": 1, "--num_ensemble": 2, "--out_dir": out}
    arguments = [word for pair in small.items() for word in pair]
    done = compare("--data_dir", modalities, "--methods", "demo,ssn", *arguments)
    assert done.returncode == 0, done.stderr
    demo, ssn = (load_checkpoint(out / name / "fold0" / "savedmodel.pt").flags for name in ("demo", "ssn"))
    assert demo["image_channels"] == demo["encoder_channels"] == ssn["image_channels"] == 3


def test_a_method_with_another_number_of_channels_is_refused_before_any_is_trained(modalities, tmp_path):
    def check(*methods):
        config = CompareConfig(
            data_dir=str(modalities), methods=methods, budget_images=8, folds=2, batch_size=4, out_dir=str(tmp_path)
        )
        Comparison(config, {}).check_methods([{"training": dict(find_cases(modalities)), "validation": {}}])

    check("tuned")  # --image_channels auto
    with pytest.raises(DataError, match="--image_channels"):
        check("tuned", "cimd-small")


def test_a_comparison_ends_with_its_command_and_has_its_folder_alone(cases, tmp_path):
    arguments = (
        "--data_dir",
        cases,
        "--methods",
        "demo",
        "--folds",
        2,
        "--budget_images",
        2_000_000,
        "--batch_size",
        2,
        "--out_dir",
        tmp_path / "out",
        *SMALL,
    )
    running = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "compare.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = tmp_path / "out" / "demo" / "fold0" / "log.txt"
        wait_for(lambda: log.exists() and "parameters" in log.read_text(), seconds=120)  # it is about to train
        child = int((tmp_path / "out" / "demo" / "fold0" / LOCK).read_text().split()[1])
        assert_refused(call_script("compare", *arguments), "in use by another run")
    finally:
        running.terminate()
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 130 and "interrupted" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert "stopped after step" in log.read_text()
