"""What is found in a folder: cases, pictures, what is passed over, and what cannot be opened."""

import os

import numpy as np
import pytest
from drawings import AREAS, DISCS, GREY, areas_in, assert_says, opened, put, put_case, refusal, white

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.files.case_files import find_cases, find_inputs
from guided_diffusion.data.files.passed_over import case_name
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset

RATERS = [white(mask) for mask in DISCS]


def found_in(path, planes=1):
    """(names of the cases to segment, lines)."""
    lines = []
    return [name for name, _ in find_inputs(str(path), planes, lines.append)], lines


def to_segment(path, **more):
    return LIDCDataset(path, None, 1, require_raters=False, **more)


# -- pictures without a case ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".nii.gz", ".npy", ".PNG"])
def test_a_single_picture_is_a_case_of_its_name(tmp_path, ending):
    file = tmp_path / f"Müller, 1{ending}"
    put(file.with_suffix(".png") if ending == ".PNG" else file, GREY)
    if ending == ".PNG":
        file.with_suffix(".png").rename(file)
    dataset = to_segment(file)
    assert dataset.ids == ["Müller, 1"] and dataset[0].raters.shape[0] == 0
    assert np.ptp(dataset[0].image.numpy()) > 0.4


def test_pictures_in_folders_are_named_by_their_paths(tmp_path):
    for name in ("a b.png", "ü.jpg", "p 1/s1.png", "p 1/s2.tif", "p 2/s1.png"):
        put(tmp_path / name, GREY)
    names, lines = found_in(tmp_path)
    assert names == ["a b", "p 1-s1", "p 1-s2", "p 2-s1", "ü"] and lines == []


def test_cases_with_and_without_labels_and_pictures_may_be_mixed(tmp_path):
    put_case(tmp_path / "c0", RATERS)
    put_case(tmp_path / "c1")
    put(tmp_path / "loose.png", GREY)
    dataset = to_segment(tmp_path)
    assert dataset.ids == ["c0", "c1", "loose"]
    assert [areas_in(dataset, k) for k in range(3)] == [AREAS, [], []]


def test_numbered_pictures_are_modalities_only_if_the_network_takes_as_many(tmp_path):
    for patient in ("p0", "p1"):
        for k in range(3):
            put(tmp_path / patient / f"image{k:03}.png", GREY)
    assert len(found_in(tmp_path, 1)[0]) == len(found_in(tmp_path, 4)[0]) == 6
    assert found_in(tmp_path, 3)[0] == ["p0", "p1"]
    for patient in ("p0", "p1"):
        (tmp_path / patient / "image000.png").rename(tmp_path / patient / "image_t1.png")
    assert found_in(tmp_path, 1)[0] == ["p0", "p1"]  # names of modalities


def test_cases_of_one_name_are_all_named(tmp_path):
    for name in ("scan.png", "scan.jpg", "a-b.png", "a/b.png"):
        put(tmp_path / name, GREY)
    with pytest.raises(DataError) as error:
        find_inputs(str(tmp_path))
    assert len(str(error.value).splitlines()) == 2 and str(error.value).count("rename one of them") == 2


# -- what is passed over ----------------------------------------------------------------------------------------------


def test_files_that_are_not_read_are_counted_by_ending_in_one_line(tmp_path):
    for name in ("notes.txt", "more.TXT", "report.pdf", "README", ".DS_Store", "truth.json", "manifest.csv"):
        put(tmp_path / name, b"text")
    put(tmp_path / "a.png", GREY)
    put_case(tmp_path / "c0", RATERS)
    put(tmp_path / "c0" / "seg.png", GREY)
    names, (line,) = found_in(tmp_path)
    assert names == ["a", "c0"]
    assert_says(line, 5, "2 .txt", "1 .pdf", "report.pdf", "c0/seg.png", "README")
    (note,) = to_segment(tmp_path).notes
    assert note == line
    training = LIDCDataset(tmp_path, None, 1)  # where a picture is no case
    assert training.ids == ["c0"]
    assert_says(training.notes[0], 6, "2 .png")


def test_many_endings_stay_one_line(tmp_path):
    put(tmp_path / "a.png", GREY)
    for k in range(30):
        put(tmp_path / f"file.{k:03}", b"")
    assert_says(found_in(tmp_path)[1][0], 30, "22 more endings")


def test_a_folder_without_cases_says_what_there_is(tmp_path):
    put(tmp_path / "a.dcm", b"")
    put(tmp_path / "training.pack", b"")
    for find in (find_cases, find_inputs):
        with pytest.raises(DataError) as error:
            find(str(tmp_path))
        assert_says(str(error.value), "1 .dcm", "1 .pack")
    with pytest.raises(DataError, match="no such file or folder"):
        find_inputs(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="not a picture of a known format"):
        find_inputs(str(tmp_path / "a.dcm"))


def test_samples_of_this_program_are_no_inputs(tmp_path):
    for name in ("image1", "image2", "a"):
        put(tmp_path / f"{name}.png", GREY)
    for folder in (tmp_path, tmp_path / "masks"):
        for name in ("image1", "image2", "a"):
            put(folder / f"{name}_samples.npz", b"")
            for end in ("output0.png", "output11.png", "sheet.png", "consensus.png"):
                put(folder / f"{name}_{end}", GREY)
    assert found_in(tmp_path)[0] == ["a", "image1", "image2"]
    assert_says(found_in(tmp_path)[1][0], 30, "24 .png", "6 .npz")
    put(tmp_path / "b_output0.png", GREY)  # of no samples here
    assert found_in(tmp_path)[0] == ["a", "b_output0", "image1", "image2"]


# -- names that cannot be printed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "Müller 1", "a, b; c", "日本", "a'b\"c", "#1 (2)", "e\u0301"])
def test_a_name_that_can_be_printed_is_kept(name):
    assert case_name(name) == name


def test_bytes_that_are_no_text_get_a_safe_name(tmp_path):
    put(tmp_path / "x.png", GREY)
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/M\xfcller.png")
    put(tmp_path / "two\nlines" / "image.png", GREY)
    put(tmp_path / "M_ller.png", GREY)
    dataset = to_segment(tmp_path, cache_dir=tmp_path / "cache")
    safe = [name for name in dataset.ids if "-" in name]
    assert len(set(dataset.ids)) == 3 and len(safe) == 2 and safe[0].startswith("M_ller-")
    for text in (*dataset.ids, *dataset.notes):
        text.encode()
        assert text.isprintable()
    (note,) = dataset.notes
    assert_says(note, 2, safe[0])
    assert to_segment(tmp_path, cache_dir=tmp_path / "cache").ids == dataset.ids


# -- what cannot be opened --------------------------------------------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch):
    """A function that makes a folder one without permission to list it, which root always has."""
    locked = set()
    scan, listed = os.scandir, os.listdir

    def refuse(function):
        def call(path="."):
            if str(path) in locked:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path)

        return call

    monkeypatch.setattr(os, "scandir", refuse(scan))
    monkeypatch.setattr(os, "listdir", refuse(listed))
    return lambda folder: locked.add(str(folder))


def broken_set(folder, lock):
    """A folder with one of each fault, and one sound case."""
    put_case(folder / "sound", RATERS)
    put_case(folder / "locked", RATERS)
    lock(folder / "locked")
    put_case(folder / "ending", RATERS[:1])
    put(folder / "ending" / "label1_.dcm", b"")
    put_case(folder / "mask")
    (folder / "mask" / "label0_.png").symlink_to("/nonexistent")
    (folder / "folder").symlink_to("/nonexistent/case")
    (folder / "circle").symlink_to("circle")
    put_case(folder / "text")
    put(folder / "text" / "label0_.png", b"text")
    return ["locked: ", "label1_.dcm", "mask/label0_.png", "folder: ", "circle: ", "text/label0_.png"]


@pytest.mark.parametrize("cached", [False, True])
def test_every_fault_of_opening_is_named_in_one_pass(tmp_path, unreadable, cached):
    faults = broken_set(tmp_path / "set", unreadable)
    with pytest.raises(DataError) as error:
        LIDCDataset(tmp_path / "set", None, 1, cache_dir=tmp_path / "cache" if cached else None)
    for fault in faults:
        assert fault in str(error.value), fault
    assert len(str(error.value).splitlines()) == len(faults) and "sound" not in str(error.value)
    assert "/nonexistent/case" in str(error.value) and "change its permissions" in str(error.value)


def test_the_same_faults_are_named_before_sampling_and_packing(tmp_path, unreadable):
    faults = broken_set(tmp_path / "set", unreadable)
    (tmp_path / "set" / "picture.png").symlink_to("/nonexistent.png")
    with pytest.raises(DataError) as error:
        to_segment(tmp_path / "set")
    for fault in (*faults, "picture.png: "):
        assert fault in str(error.value), fault
    with pytest.raises(DataError, match="locked: "):
        pack_folder(str(tmp_path / "set"), str(tmp_path / "set.pack"))


def test_the_folder_itself_may_be_unreadable(tmp_path, unreadable):
    put_case(tmp_path / "set" / "c0", RATERS)
    unreadable(tmp_path / "set")
    assert "set: cannot be listed (Permission denied)" in refusal(tmp_path / "set")


def test_links_in_a_circle_are_followed_once(tmp_path):
    put_case(tmp_path / "set" / "c0", RATERS)
    (tmp_path / "set" / "up").symlink_to("..")
    (tmp_path / "set" / "c0" / "self").symlink_to(".")
    (tmp_path / "set" / "again").symlink_to("c0")
    assert len(opened(tmp_path / "set")) == len(to_segment(tmp_path / "set")) == 1


# -- cases without labels ---------------------------------------------------------------------------------------------


@pytest.fixture
def partly_labelled(tmp_path):
    for c in range(4):
        put_case(tmp_path / "set" / f"c{c}", RATERS[:2] if c % 2 else ())
    return tmp_path / "set"


def test_cases_without_labels_are_named_together(partly_labelled):
    (line,) = refusal(partly_labelled).splitlines()
    assert line.startswith("2 cases (c0, c2): no label") and "--skip_unlabelled True" in line


def test_cases_without_labels_are_skipped_and_counted(partly_labelled, tmp_path):
    skip = DataConfig(skip_unlabelled=True)
    for k in range(2):  # the second time from the cache
        dataset = LIDCDataset(partly_labelled, None, 1, skip, cache_dir=tmp_path / "cache")
        assert dataset.ids == ["c1", "c3"]
        assert_says(dataset.notes[0], 2, 4, "c0", "--skip_unlabelled")
    assert len(LIDCDataset(partly_labelled, None, 1, skip, require_raters=False)) == 4


def test_the_flag_does_not_change_what_cases_are(partly_labelled, tmp_path):
    """A run with the flag has the cases of one without it, and their cache."""
    for c in (0, 2):
        (partly_labelled / f"c{c}" / "image.png").unlink()
    hashes = {
        LIDCDataset(
            partly_labelled, None, 1, DataConfig(skip_unlabelled=skip), cache_dir=tmp_path / "cache"
        ).fingerprint
        for skip in (False, True)
    }
    assert len(hashes) == 1


def test_packed_cases_need_not_repeat_the_flag(partly_labelled, tmp_path):
    path = str(tmp_path / "set.pack")
    lines = pack_folder(str(partly_labelled), path, config=DataConfig(skip_unlabelled=True))
    assert_says(lines[0], 2, 4, "--skip_unlabelled")
    for skip in (False, True):
        dataset = LIDCDataset(path, None, 1, DataConfig(skip_unlabelled=skip))
        assert dataset.ids == ["c1", "c3"] and dataset.notes[0] == lines[0]


def test_a_label_that_is_not_read_is_not_skipped(partly_labelled):
    put(partly_labelled / "c0" / "label0_.dcm", b"")
    text = refusal(partly_labelled, skip_unlabelled=True)
    assert "label0_.dcm" in text and "c2" not in text


def test_all_cases_cannot_be_skipped(tmp_path):
    put_case(tmp_path / "c0")
    assert "none of the 1 cases has labels" in refusal(tmp_path, skip_unlabelled=True)


def test_a_picture_named_image_among_others_is_one_of_them(tmp_path):
    for name in ("image_2.png", "scan.png"):
        put(tmp_path / name, GREY)
    assert [name for name, _ in find_inputs(str(tmp_path), 1)] == ["image_2", "scan"]
