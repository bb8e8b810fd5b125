"""The patient of a case: by folders and names, by a pattern, and by a table."""

import pytest
from helpers import assert_refused, call_script

from guided_diffusion.data.names import BY_NAMES, PatientRule, patient_of, patients_warning, place_of, read_patients
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.prepare.check import CheckConfig


@pytest.mark.parametrize(
    "patient, names",
    {
        "patient0": ["patient0-slice0", "patient0_slice_12", "patient0_z003", "patient0_s1_z2", "patient0 slice 3"],
        "P1": ["P1_L", "P1_R", "P1_OD", "P1-os", "P1_left", "P1_Right", "P1_R_z7", "P1_t0", "P1_visit2", "P1_v2_s3"],
        "p7": ["p7_abc123_n1_z012", "p7_z-3.5_c0", "p7_z3.5_c0", "p7_img_3", "p7_baseline"],
        "Image_01": ["Image_01L", "Image_01R"],
        "RET002": ["RET002OD", "RET002OS"],
        "P_00001": ["P_00001_LEFT_CC", "P_00001_RIGHT_MLO_1"],
        "LIDC-IDRI-0004": ["LIDC-IDRI-0004_3000566_z1", "x-LIDC-IDRI-0004-b"],
        "sub-01": ["sub-01_ses-02_T1w", "sub-01"],
        "Müller 0": ["Müller 0_z3", "Müller 0_L", "Mu\u0308ller 0_s1"],
        "hospital_000123": ["hospital_000123_z5"],
        "sub_s01": ["sub_s01_z3"],
    }.items(),
)
def test_names_of_slices_sides_and_visits_name_their_patient(patient, names):
    assert {patient_of([name]) for name in names} == {patient}
    assert {BY_NAMES.patient([name]) for name in names} == {patient}


@pytest.mark.parametrize(
    "name",
    ["img_001", "img_s1", "case-s01", "sample_z3", "scan_L", "glass_s", "abc_zebra1", "Ax_zone3", "class_s", "mass1"]
    + ["site2_s01", "anna_img3", "knee_L_001", "t1_s", "Müller 0", "a,b", "final", "12"],
)
def test_names_that_look_like_slices_but_are_not_name_no_patient(name):
    assert patient_of([name]) is None


@pytest.mark.parametrize(
    "within, patient",
    [
        (("patient0", "slice0"), "patient0"),
        (("patients", "patient0", "slice0"), "patient0"),
        (("patient0_t1", "slice0"), "patient0"),
        (("P1_L", "a"), "P1"),
        (("siteA", "p1", "s3"), "p1"),
        (("images", "P1_z4"), "P1"),
        (("images", "img_3"), None),
        (("benign", "case1"), None),
        (("LIDC", "LIDC-IDRI-0001", "1"), "LIDC-IDRI-0001"),
        (("deep", "a"), "deep"),
    ],
)
def test_the_top_folder_is_the_patient_unless_it_collects_patients(within, patient):
    assert patient_of(within) == patient


def test_the_place_of_a_case_is_below_its_split(tmp_path):
    for folder, place in {
        "train/patient0/slice0": ("training", ("patient0", "slice0")),
        "patient0/slice0": ("", ("patient0", "slice0")),
        "training": ("", ("training",)),
        "testing/Mu\u0308ller": ("testing", ("Müller",)),
        ".": ("", (tmp_path.name,)),
    }.items():
        assert place_of(str(tmp_path / folder), str(tmp_path)) == place


def rule_of(**flags):
    return PatientRule.of(configs_from_flags(flags, CheckConfig)[CheckConfig])


def test_a_pattern_takes_its_first_group_or_the_whole_match():
    cases = [("a", "MG_017_R"), ("a", "MG_018_R")]
    for pattern in (r"MG_(\d+)", r"(?<=_)\d+", r"a/MG_(\d+)_[LR]$"):
        rule = rule_of(patient_pattern=pattern)
        assert rule.is_given and [rule.patient(case) for case in cases] == ["017", "018"] and not rule.check(cases)
    (note,) = rule_of(patient_pattern="MG_(017)").check(cases)
    assert "matches 1 of 2 cases" in note and "a/MG_018_R" in note
    assert rule_of(patient_pattern="MG_0(99)?17").patient(cases[0]) is None  # the group takes no part
    assert rule_of(patient_pattern="Mü").patient(["Mu\u0308ller"]) == "Mü"


def test_a_pattern_that_is_wrong_or_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"--patient_pattern \(: not a regular expression \(missing \)"):
        rule_of(patient_pattern="(")
    with pytest.raises(DataError, match=r"--patient_pattern x\(\\d\): matches none of 2 cases, e.g. a/b; change it"):
        rule_of(patient_pattern=r"x(\d)").check([("a", "b"), ("c",)])


@pytest.mark.parametrize("text", ["case,patient\n{}", "Patient;Case\n{}", "\ufeffcase\tage\tpatient\n{}"])
def test_a_table_names_the_patients(tmp_path, text):
    header = text.split("\n")[0].lower()
    delimiter = max(",;\t", key=header.count)
    columns = header.removeprefix("\ufeff").split(delimiter)
    cases = {"img_1": "P1", "img_2.png": "P1", "patient0/slice0": "Mu\u0308ller", "a-b": "P 3"}
    rows = [{"case": case, "patient": patient, "age": "7"} for case, patient in cases.items()]
    lines = [delimiter.join(row[column] for column in columns) for row in rows]
    (tmp_path / "x.csv").write_text(text.format("\n".join(lines)), encoding="utf-8")
    rule = rule_of(patients=str(tmp_path / "x.csv"))
    found = [rule.patient(case) for case in (["img_1"], ["sub", "img_2"], ["patient0", "slice0"], ["a", "b"], ["c"])]
    assert found == ["P1", "P1", "Müller", "P 3", None]
    with pytest.raises(DataError, match=r"x.csv: lacks 1 of 2 cases, e.g. c; add their rows"):
        rule.check([["img_1"], ["c"]])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"case,name\na,b\n", "the column patient is missing"),
        (b"", "the column case is missing"),
        ("case,patient\nMüller,1\n".encode("latin-1"), "not encoded in UTF-8"),
        (b"case,patient\na,1\na,2\n", "the case a has the patients 1 and 2"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, content, words):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"--patients .*x.csv: {words}"):
        read_patients(str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match="--patients /nowhere.csv: no such file"):
        read_patients("/nowhere.csv")


def test_both_flags_contradict_each_other(tmp_path):
    (tmp_path / "x.csv").write_text("case,patient\n")
    flags = ["--patient_pattern=(.)", f"--patients={tmp_path / 'x.csv'}"]
    assert_refused(call_script("check_data", tmp_path, *flags), "--patient_pattern and --patients")


def test_sets_whose_patients_are_doubtful_are_warned_of():
    numbered = [(f"img_{k:03d}", None) for k in range(9)]
    assert "9 cases with names like img_###: each case counts as a patient of its own" in patients_warning(numbered)
    assert "each case" in patients_warning([(name, name) for name, _ in numbered])
    assert patients_warning([(name, f"P{k}") for k, (name, _) in enumerate(numbered)]) is None
    assert patients_warning([("anna", None), ("bert", None), ("carla", None)]) is None
    assert patients_warning(numbered[:1]) is None and patients_warning([]) is None
    assert "all 9 cases count as cases of one patient, x" in patients_warning([(name, "x") for name, _ in numbered])
