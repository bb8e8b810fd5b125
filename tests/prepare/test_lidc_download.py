"""From the LIDC-IDRI download to cases, by the script: what comes out, what is reported, and how it ends."""

import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, assert_refused, call_script, read_label, wait_for
from PIL import Image

from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.lidc import dicom as lidc_dicom
from guided_diffusion.prepare.phantoms.files import make_cases
from guided_diffusion.prepare.phantoms.lidc_files import write_lidc

pytest.importorskip("pydicom")
pytest.importorskip("defusedxml")


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """(folder, cases): the phantom of a download, two slices for each of five patients."""
    folder = tmp_path_factory.mktemp("download")
    cases = make_cases(10, seed=7, size=64, num_raters=4)
    write_lidc(folder, cases, size=96)
    return folder, cases


def prepare(download, out, *more):
    return call_script(
        "prepare_lidc",
        f"--dicom={download}/dicom",
        f"--xml={download}/xml",
        f"--out={out}",
        "--processes=2",
        "--crop=64",
        *more,
    )


def manifest_of(out):
    with open(out / "manifest.csv") as file:
        return list(csv.DictReader(file))


def test_the_phantoms_come_back_as_they_were(download, tmp_path):
    folder, cases = download
    done = prepare(folder, tmp_path / "out", "--pixel_mm=-1")
    assert done.returncode == 0, done.stderr
    assert "10 slices" in done.stdout and "15,096" in done.stdout and "5 patients" in done.stdout
    rows, split = manifest_of(tmp_path / "out"), json.loads((tmp_path / "out" / "split.json").read_text())
    assert {row["split"] for row in rows} == {"training", "validation", "testing"} and len(rows) == 10
    for row in rows:
        assert row["patient"] in split["patients"][row["split"]]
        assert (
            float(row["z"]) == -100 + 2.5 * int(row["slice"])
            and row["sop_uid"] == f"{row['series']}.{int(row['slice']) + 1}"
        )
        made = cases[2 * int(row["patient"][-4:]) - 2 + int(row["slice"])]
        case = tmp_path / "out" / row["split"] / row["case"]
        got = np.stack([read_label(str(case / f"label{k}_.png")) for k in range(4)])
        drawn = made.raters.any(0)
        whole = np.pad(made.raters, ((0, 0), (32, 32), (32, 32)))
        rows_, columns = np.flatnonzero(np.pad(drawn, 32).any(1)), np.flatnonzero(np.pad(drawn, 32).any(0))
        top, left = (rows_[0] + rows_[-1]) // 2 - 32, (columns[0] + columns[-1]) // 2 - 32
        np.testing.assert_array_equal(got, whole[:, top : top + 64, left : left + 64])
        assert row["areas"] == " ".join(str(mask.sum()) for mask in made.raters)
        image = np.asarray(Image.open(case / f"image_{row['case']}.png"))
        grey = np.pad(np.round(made.grey * 255), 32)[top : top + 64, left : left + 64]
        assert abs(image.astype(int) - grey).max() <= 1  # Hounsfield units are whole numbers
    for split_name in ("training", "validation", "testing"):
        assert len(LIDCDataset(tmp_path / "out" / split_name, 64)) > 0
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["licence"] == "CC BY 3.0" and about["labels"] == {"background": 0, "nodule": 1}
    stored = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert (
        stored["settings"] == {"window": [-1000.0, 400.0], "pixel_mm": None, "crop": 64, "min_raters": 1, "seed": 0}
        and stored["faults"] == []
    )
    check = call_script("check_data", tmp_path / "out")
    assert check.returncode == 0 and "no faults" in check.stdout, check.stdout


def test_an_interrupted_run_resumes_and_other_settings_are_refused(download, tmp_path):
    folder, _ = download
    out = tmp_path / "out"
    whole = prepare(folder, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    few = tmp_path / "few"
    shutil.copytree(folder, few)
    for patient in ("LIDC-IDRI-0004", "LIDC-IDRI-0005"):
        shutil.rmtree(few / "dicom" / patient)
    assert "2 series named in the XML files are missing in" in prepare(few, out).stdout
    first = {path: path.stat().st_mtime_ns for path in out.rglob("image_*.png")}
    before = json.loads((out / "split.json").read_text())["patients"]
    done = prepare(folder, out)
    assert done.returncode == 0 and len(manifest_of(out)) == 10
    assert all(path.stat().st_mtime_ns == written for path, written in first.items())
    after = json.loads((out / "split.json").read_text())["patients"]
    assert all(set(before[split]) <= set(after[split]) for split in before)
    assert_refused(prepare(folder, out, "--window=-500,500"), str(out), "--window")
    assert [row["case"] for row in manifest_of(tmp_path / "whole")] == [row["case"] for row in manifest_of(out)]


def test_files_are_read_by_the_other_processes_alone(download, tmp_path, monkeypatch):
    read, own = lidc_dicom.read_dicom, os.getpid()

    def read_elsewhere(*arguments, **more):
        assert os.getpid() != own
        return read(*arguments, **more)

    monkeypatch.setattr(lidc_dicom, "read_dicom", read_elsewhere)
    assert prepare(download[0], tmp_path / "out").returncode == 0


def test_sigterm_ends_the_script_in_one_line_with_all_its_processes(download, tmp_path):
    (tmp_path / "dicom").mkdir()
    os.mkfifo(tmp_path / "dicom" / "endless.dcm")  # whoever reads it waits
    command = [
        sys.executable,
        ROOT / "scripts" / "prepare_lidc.py",
        f"--dicom={tmp_path}/dicom",
        f"--xml={download[0]}/xml",
        f"--out={tmp_path}/out",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
    wait_for(lambda: running.poll() is not None or children.read_text(), seconds=60)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)  # its pipes are open as long as a process of its lives
    assert running.returncode == 130 and len(errors.strip().splitlines()) == 1 and "interrupted" in errors, errors


def test_min_raters_and_two_series_of_a_patient(download, tmp_path):
    folder, cases = download
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    other = make_cases(2, seed=8, size=64, num_raters=4)
    write_lidc(tmp_path / "more", other, size=96)
    import pydicom

    for path in (tmp_path / "more" / "dicom" / "LIDC-IDRI-0001").iterdir():  # another series of the first patient
        data = pydicom.dcmread(path)
        data.PatientID, data.SeriesInstanceUID = "LIDC-IDRI-0001", "1.2.826.0.1.3680043.8.498.77"
        data.save_as(both / "dicom" / f"more{path.name}")
    text = (
        (tmp_path / "more" / "xml" / "LIDC-IDRI-0001.xml")
        .read_text()
        .replace("498.1</SeriesInstanceUid>", "498.77</SeriesInstanceUid>")
    )
    (both / "xml" / "more.xml").write_text(text)
    done = prepare(both, tmp_path / "out", "--min_raters=3")
    assert done.returncode == 0, done.stderr
    rows = manifest_of(tmp_path / "out")
    own = [row for row in rows if row["patient"] == "LIDC-IDRI-0001"]
    assert len({row["series"] for row in own}) == 2 and len({row["split"] for row in own}) == 1
    assert len({row["case"].split("_")[1] for row in own}) == 2 and len({row["case"] for row in rows}) == len(rows)
    expected = sum(case.raters.any((1, 2)).sum() >= 3 for case in [*cases, *other])
    assert done.stdout.count("fewer than 3 readers drew within the crop") >= 1
    assert len(rows) == expected and all(sum(area != "0" for area in row["areas"].split()) >= 3 for row in rows)


def test_resampling_to_half_a_millimetre(download, tmp_path):
    folder, _ = download
    import pydicom

    coarse = tmp_path / "coarse"
    shutil.copytree(folder, coarse)
    for path in (coarse / "dicom").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.PixelSpacing = [1.0, 0.5]
        data.save_as(path)
    for out, source in (("fine", folder), ("stretched", coarse)):
        assert prepare(source, tmp_path / out, "--crop=160").returncode == 0
    areas = [
        {row["case"]: np.array(row["areas"].split(), int) for row in manifest_of(tmp_path / out)}
        for out in ("fine", "stretched")
    ]
    seen = 0
    for name, area in areas[0].items():  # rows twice as far apart: twice as high
        if (area > 100).all():
            np.testing.assert_allclose(areas[1][name] / area, 2, rtol=0.02)
            seen += 1
    assert seen >= 3


SECRETS = ("Geheim", "G-4711", "19560317", "1956-03-17")


def test_no_name_id_or_birth_date_leaves_the_files(download, tmp_path):
    """Neither in names, tables, pages nor messages, also of broken files; --keep_ids asks for the IDs."""
    import pydicom

    own = tmp_path / "own"
    shutil.copytree(download[0], own)
    for k, folder in enumerate(sorted((own / "dicom").iterdir())):
        for path in folder.iterdir():
            data = pydicom.dcmread(path)
            data.PatientID, data.PatientName, data.PatientBirthDate = f"G-4711-{k // 2}", "Geheim^Egon", "19560317"
            data.save_as(path)
        folder.rename(folder.with_name(f"scan{k}"))
    (own / "dicom" / "scan4" / "001.dcm").write_bytes((own / "dicom" / "scan4" / "001.dcm").read_bytes()[:-5000])
    out, few = tmp_path / "out", tmp_path / "few"
    shutil.copytree(own, few)
    shutil.rmtree(few / "dicom" / "scan0")
    texts = []
    for source in (few, own):
        done = prepare(source, out)
        assert done.returncode == 1 and "001.dcm: its pixels cannot be read" in done.stdout
        texts += [done.stdout, done.stderr]
    done = call_script("check_data", out, f"--sheet={tmp_path / 'sheet.png'}")
    texts += [done.stdout, done.stderr]
    for path in out.rglob("*"):
        texts += [str(path), path.read_bytes().decode("latin-1") if path.is_file() else ""]
    assert not [secret for secret in SECRETS for text in texts if secret in text]
    rows = manifest_of(out)
    assert {row["patient"] for row in rows} == {"patient001", "patient002", "patient003"}
    patient_of = {row["series"][-1]: row["patient"] for row in rows}
    assert patient_of["1"] == patient_of["2"] != patient_of["3"] == patient_of["4"]
    assert all(row["case"].startswith(f"{row['patient']}_") for row in rows)
    assert_refused(prepare(own, out, "--keep_ids=True"), str(out), "--keep_ids")
    assert prepare(own, tmp_path / "kept", "--keep_ids=True").returncode == 1
    assert {row["patient"] for row in manifest_of(tmp_path / "kept")} == {f"G-4711-{k}" for k in range(3)}


# -- untrusted and broken ---------------------------------------------------------------------------------------------


def test_broken_files_are_reported_and_the_others_prepared(download, tmp_path):
    folder, _ = download
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "dicom" / "LIDC-IDRI-0002" / "000.dcm"
    path.write_bytes(path.read_bytes()[:-5000])
    (broken / "xml" / "bad.xml").write_text("<LidcReadMessage>")
    done = prepare(broken, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert f"fault: {path}: its pixels cannot be read" in done.stdout and "bad.xml" in done.stdout
    patients = {row["patient"] for row in manifest_of(tmp_path / "out")}
    assert patients >= {f"LIDC-IDRI-{number:04d}" for number in (1, 3, 4, 5)}
    shutil.copy(folder / "dicom" / "LIDC-IDRI-0002" / "000.dcm", path)  # mended, it is prepared
    done = prepare(broken, tmp_path / "out")
    assert len(manifest_of(tmp_path / "out")) == 10 and str(path) not in done.stdout


def test_series_without_a_slice_are_counted_and_named(download, tmp_path):
    folder, _ = download
    some = tmp_path / "some"
    shutil.copytree(folder, some)
    reading = re.compile(r"<unblindedReadNodule>.*?</unblindedReadNodule>", re.DOTALL)
    empty, two_points = some / "xml" / "LIDC-IDRI-0002.xml", some / "xml" / "LIDC-IDRI-0004.xml"
    empty.write_text(reading.sub("", empty.read_text()))
    edges = re.compile(r"(<inclusion>TRUE</inclusion>(?:<edgeMap>.*?</edgeMap>){2}).*?</roi>")
    two_points.write_text(edges.sub(r"\1</roi>", two_points.read_text()))
    done = prepare(some, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    names = ("LIDC-IDRI-0002", "LIDC-IDRI-0004")
    uids = {name: f"{name}, series 1.2.826.0.1.3680043.8.498.{int(name[-1])}" for name in names}
    assert f"note: 2 series yield 0 slices: {uids[names[0]]}; {uids[names[1]]}\n" in done.stdout
    notes = json.loads((tmp_path / "out" / "prepared.json").read_text())["notes"]
    assert f"{uids[names[0]]}: 0 slices, no reader drew an outline" in notes
    assert f"{uids[names[1]]}: 0 slices, all skipped" in notes
    assert any(note.startswith(uids[names[1]]) and "outlines of one or two points" in note for note in notes)
    again = prepare(some, tmp_path / "out")  # the notes of finished series are kept
    assert again.stdout == done.stdout
    assert {row["patient"] for row in manifest_of(tmp_path / "out")} == {f"LIDC-IDRI-000{k}" for k in (1, 3, 5)}


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--dicom=/nowhere"], ["/nowhere", "no such folder"]),
        (["--xml={empty}"], ["no XML files of LIDC readers found"]),
        (["--dicom={empty}"], ["none of the 5 CT series"]),
        (["--window=400,-1000"], ["--window 400,-1000", "LO < HI"]),
        (["--pixel_mm=0"], ["--pixel_mm 0"]),
        (["--min_raters=5"], ["--min_raters 5", "from 1 to 4"]),
        (["--crop=2"], ["--crop"]),
        (["--out="], ["--out is missing"]),
    ],
)
def test_refusals(download, tmp_path, flags, words):
    (tmp_path / "empty").mkdir()
    done = prepare(download[0], tmp_path / "out", *[flag.replace("{empty}", str(tmp_path / "empty")) for flag in flags])
    assert_refused(done, *words)
