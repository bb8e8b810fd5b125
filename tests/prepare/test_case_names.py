"""Names of cases: kept where file systems can store them, made safe where they cannot, and short enough for samples."""

import csv
import hashlib
import json
import os

import numpy as np
import pytest
import torch
from drawings import DISCS, GREY, put, white
from helpers import call_script

from guided_diffusion.data.names import PatientRule
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import Case, LIDCDataset
from guided_diffusion.masks.postprocess import CONSENSUS, PostprocessConfig
from guided_diffusion.prepare import case_names
from guided_diffusion.prepare.case_names import LONGEST_AROUND, LONGEST_FILE, longest_name, printable, safe_name
from guided_diffusion.prepare.case_writer import CaseFolder, RawCase
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import SampleConfig, finish
from guided_diffusion.system import storage

KEPT = [
    "Müller 0",
    "a, b",
    "Scan (3) [left]",
    "x+y=z;#%&{}'!@^~`$",
    "日本",
    "a.b",
    " a",
    "-a",
    "a..b",
    "conny",
    "com12",
]
KEPT += ["é" * 113, "x" * (LONGEST_FILE - len(LONGEST_AROUND))]
CHANGED = ["a:b", "a*b", "a?b", 'a"b', "a<b>", "a|b", "a\tb", "a\u2028b", "a.", "a ", "nul", "CON", "Com1.x", "aux .y"]
CHANGED += [".a", "a/b", "a\\b", "x" * 228, "é" * 200, "日" * 100, " ", "a\udcffb", "lpt¹"]


@pytest.mark.parametrize("name", KEPT)
def test_names_that_file_systems_can_store_are_kept(name, tmp_path):
    assert safe_name(name, "x") == name
    os.makedirs(tmp_path / name)


@pytest.mark.parametrize("name", CHANGED)
def test_others_get_a_name_of_their_own(name):
    safe = safe_name(name, "x")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    assert safe.endswith(f"_{digest}") and safe_name(safe, "x") == safe
    assert len(safe.encode()) <= LONGEST_FILE - len(LONGEST_AROUND)
    assert not set(safe) & set('/\\:*?"<>|\t\u2028') and safe[0] != "." and safe[-1] not in ". "


def test_either_form_of_unicode_is_the_same_name():
    assert safe_name("Mu\u0308ller", "x") == "Müller" == safe_name("Müller", "x")
    assert safe_name("Mu\u0308ller?", "x") == safe_name("Müller?", "x") != safe_name("Müller*", "x")


def test_a_file_system_of_shorter_names_shortens_more(tmp_path, monkeypatch):
    monkeypatch.setattr(case_names.os, "pathconf", lambda folder, name: 143, raising=False)
    assert longest_name(tmp_path) == 143 - len(LONGEST_AROUND)
    assert len(safe_name("x" * 200, "x", longest_name(tmp_path))) == 143 - len(LONGEST_AROUND)


def raw(name, **more):
    return RawCase(name, {"": GREY}, [DISCS[0]], **more)


def rows_of(out):
    with open(out / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_and_the_split_have_the_names_and_the_originals(tmp_path):
    out, names = CaseFolder(str(tmp_path), "x"), ["Müller, (0)", "a?b", "a*b", "a\udcffb"]
    rows = [out.write(raw(name, patient=f"von {name}"), "training") for name in names]
    out.finish(rows, {row.patient: "training" for row in rows}, 0)
    found = {row["original"] or row["case"]: row for row in rows_of(tmp_path)}
    assert set(found) == {"Müller, (0)", "a?b", "a*b", printable("a\udcffb")}
    assert {row["case"] for row in found.values()} == set(os.listdir(tmp_path / "training"))
    split = json.loads((tmp_path / "split.json").read_text())["patients"]["training"]
    assert set(split) == {row["patient"] for row in found.values()} >= {"von Müller, (0)", "von a?b"}
    (note,) = out.notes(rows)
    assert "cannot store: 3, e.g. a?b, written as a_b_" in note and out.notes(rows[:1]) == []


def test_two_cases_of_one_name_are_refused(tmp_path):
    out = CaseFolder(str(tmp_path), "x")
    out.write(raw("Müller"), "training")
    with pytest.raises(DataError, match="x: two cases are named Müller; rename one"):
        out.write(raw("Mu\u0308ller"), "testing")


def test_names_that_differ_in_their_case_stay_apart_where_the_file_system_does_not(tmp_path, monkeypatch):
    out = CaseFolder(str(tmp_path), "x")
    assert [out.write(raw(name), "training").case for name in ("case A", "Case A")] == ["case A", "Case A"]
    exists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: exists(path) or path.endswith("CASE A"))
    row = out.write(raw("CASE A"), "training")
    assert row.case.startswith("CASE A_") and row.original == "CASE A"


def put_folder(folder):
    put(folder / "image.png", GREY)
    for k in range(2):
        put(folder / f"mask{k}.png", white(DISCS[k]))


def test_folders_of_pictures_keep_their_names(tmp_path):
    """And other commands take them."""
    names = [*(f"Müller {c}" for c in range(3)), "a, (b) & c", "Straße; 7"]
    for name in names:
        put_folder(tmp_path / "src" / name)
    done = call_script("convert_data", "folders", f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(tmp_path / "out")
    assert sorted(row["case"] for row in rows) == sorted(names) and not any(row["original"] for row in rows)
    for row in rows:
        assert (tmp_path / "out" / row["split"] / row["case"] / f"image_{row['case']}.png").exists()
        assert row["areas"] == "517 373"
    done = call_script("check_data", tmp_path / "out")
    assert done.returncode == 0 and "no faults" in done.stdout, done.stdout
    trained = {row["case"] for row in rows if row["split"] == "training"}
    assert set(LIDCDataset(tmp_path / "out" / "training", 64).ids) == trained


def test_the_patient_is_that_of_the_flags_the_source_or_the_names(tmp_path):
    cases = [raw("a", patient="P1", within=("P7", "a")), raw("P2-s1", within=("P2", "s1")), raw("P3_z4"), raw("img_4")]
    out = CaseFolder(str(tmp_path / "names"), "x")
    rows = [out.write(case, "training") for case in cases]
    assert [row.patient for row in rows] == ["P1", "P2", "P3", "img_4"] and out.check_patients(rows) == []
    (warning,) = CaseFolder.check_patients(out, rows[3:] * 3)
    assert warning.startswith("warning: 3 cases with names like img_#: each case counts as a patient")
    out = CaseFolder(str(tmp_path / "pattern"), "x", PatientRule(r"P(\d)"))
    rows = [out.write(case, "training") for case in cases]
    assert [row.patient for row in rows] == ["7", "2", "3", "img_4"]
    (note,) = out.check_patients(rows)
    assert note.startswith(r"note: --patient_pattern P(\d) matches 3 of 4 cases")
    out = CaseFolder(str(tmp_path / "none"), "x", PatientRule("Q"))
    with pytest.raises(DataError, match="matches none of 4 cases, e.g. P7/a"):
        out.check_patients([out.write(case, "training") for case in cases])


def test_files_of_samples_of_the_longest_name_can_be_written(tmp_path):
    """All that sampling writes for a case, under temporary names, and masks of up to six digits."""
    image = torch.zeros(1, 64, 64)
    for name in ("x" * (LONGEST_FILE - len(LONGEST_AROUND)), safe_name("日" * 200, "x")):
        case = Case(name, image, torch.from_numpy(np.stack(DISCS)).float())
        finished_by = finish(SampleConfig(consensus=next(iter(CONSENSUS))), PostprocessConfig())
        samples = np.stack(DISCS).astype(np.float32)
        store.write_case(str(tmp_path), case, samples, {"flags": "{}"}, finished_by, [samples[0]])
        assert os.path.exists(store.samples_path(str(tmp_path), name))
        storage.write_bytes(store.mask_path(str(tmp_path), name, 99999), b"")
