"""LIDC-IDRI: outlines against hand-drawn masks and another library's fill, DICOM of every kind, and the way through the script."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, assert_refused, call_script
from PIL import Image, ImageDraw
from scipy import ndimage

from guided_diffusion import lidc_dicom, lidc_idri, phantom_files
from guided_diffusion.image_files import DataError, read_label
from guided_diffusion.lidc_dicom import Series, find_series, read_series
from guided_diffusion.lidc_idri import Outline, draw, fill_inside, find_nodules, read_xml
from guided_diffusion.lidcloader import LIDCDataset

pytest.importorskip("pydicom")
pytest.importorskip("defusedxml")


def picture(text):
    """A mask drawn with # and . in the lines of a text."""
    return np.array([[character == "#" for character in line] for line in text.split()])


# A square's outline by its corners, an L pixel by pixel, a ring (a square with a hole), a reader who overlaps another
HAND_DRAWN = """<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage uid="1.3.6" xmlns="http://www.nih.gov" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <ResponseHeader><Version>1.8.1</Version><SeriesInstanceUid>9.8.7</SeriesInstanceUid></ResponseHeader>
 <readingSession><annotationVersion>3.12</annotationVersion>
  <unblindedReadNodule><noduleID>square</noduleID><characteristics><subtlety>5</subtlety></characteristics>
   <roi><imageZposition>-10.0</imageZposition><imageSOP_UID>9.8.7.1</imageSOP_UID><inclusion>TRUE</inclusion>
    <edgeMap><xCoord>1</xCoord><yCoord>1</yCoord></edgeMap><edgeMap><xCoord>5</xCoord><yCoord>1</yCoord></edgeMap>
    <edgeMap><xCoord>5</xCoord><yCoord>5</yCoord></edgeMap><edgeMap><xCoord>1</xCoord><yCoord>5</yCoord></edgeMap>
   </roi>
   <roi><imageZposition>-7.5</imageZposition><imageSOP_UID>9.8.7.2</imageSOP_UID><inclusion>TRUE</inclusion>
    <edgeMap><xCoord>1</xCoord><yCoord>1</yCoord></edgeMap><edgeMap><xCoord>9</xCoord><yCoord>1</yCoord></edgeMap>
    <edgeMap><xCoord>9</xCoord><yCoord>9</yCoord></edgeMap><edgeMap><xCoord>1</xCoord><yCoord>9</yCoord></edgeMap>
   </roi>
   <roi><imageZposition>-7.5</imageZposition><imageSOP_UID>9.8.7.2</imageSOP_UID><inclusion>FALSE</inclusion>
    <edgeMap><xCoord>3</xCoord><yCoord>3</yCoord></edgeMap><edgeMap><xCoord>7</xCoord><yCoord>3</yCoord></edgeMap>
    <edgeMap><xCoord>7</xCoord><yCoord>7</yCoord></edgeMap><edgeMap><xCoord>3</xCoord><yCoord>7</yCoord></edgeMap>
   </roi>
  </unblindedReadNodule>
  <unblindedReadNodule><noduleID>tiny</noduleID>
   <roi><imageZposition>-10.0</imageZposition><imageSOP_UID>9.8.7.1</imageSOP_UID><inclusion>TRUE</inclusion>
    <edgeMap><xCoord>14</xCoord><yCoord>2</yCoord></edgeMap></roi>
  </unblindedReadNodule>
  <nonNodule><nonNoduleID>x</nonNoduleID><imageZposition>-10.0</imageZposition><imageSOP_UID>9.8.7.1</imageSOP_UID>
   <locus><xCoord>3</xCoord><yCoord>3</yCoord></locus></nonNodule>
 </readingSession>
 <readingSession>
  <unblindedReadNodule><noduleID>overlapping</noduleID>
   <roi><imageZposition>-10.0</imageZposition><imageSOP_UID>9.8.7.1</imageSOP_UID><inclusion>TRUE</inclusion>
    <edgeMap><xCoord>3</xCoord><yCoord>1</yCoord></edgeMap><edgeMap><xCoord>7</xCoord><yCoord>1</yCoord></edgeMap>
    <edgeMap><xCoord>7</xCoord><yCoord>5</yCoord></edgeMap><edgeMap><xCoord>3</xCoord><yCoord>5</yCoord></edgeMap>
   </roi>
  </unblindedReadNodule>
  <unblindedReadNodule><noduleID>L</noduleID>
   <roi><imageZposition>-10.0</imageZposition><imageSOP_UID>9.8.7.1</imageSOP_UID><inclusion>TRUE</inclusion>
    <edgeMap><xCoord>9</xCoord><yCoord>9</yCoord></edgeMap><edgeMap><xCoord>12</xCoord><yCoord>9</yCoord></edgeMap>
    <edgeMap><xCoord>12</xCoord><yCoord>11</yCoord></edgeMap><edgeMap><xCoord>14</xCoord><yCoord>11</yCoord></edgeMap>
    <edgeMap><xCoord>14</xCoord><yCoord>14</yCoord></edgeMap><edgeMap><xCoord>9</xCoord><yCoord>14</yCoord></edgeMap>
   </roi>
  </unblindedReadNodule>
 </readingSession>
 <readingSession></readingSession>
 <readingSession></readingSession>
</LidcReadMessage>
"""
SQUARE = picture("""
................
................
..###...........
..###...........
..###...........
................
................
................
................
................
................
................
................
................
................
................""")
OVERLAPPING = np.roll(SQUARE, 2, axis=1)
RING = picture("""
................
................
..#######.......
..#######.......
..##...##.......
..##...##.......
..##...##.......
..#######.......
..#######.......
................
................
................
................
................
................
................""")
L_SHAPE = picture("""
................
................
................
................
................
................
................
................
................
................
..........##....
..........##....
..........####..
..........####..
................
................""")


@pytest.fixture
def hand_drawn(tmp_path):
    """The folder of the series, slices in no order, one of them twice, and the XML; values rise from left to right."""
    (tmp_path / "dicom" / "a").mkdir(parents=True)
    hounsfield = np.tile(np.arange(16.0) * 50 - 900, (16, 1))
    for name, number, more in (("z", 1, {}), ("b", 2, {"slope": 2, "intercept": -1000}), ("c", 3, {"big_endian": True}), ("d", 1, {})):
        phantom_files.write_slice(tmp_path / "dicom" / "a" / f"{name}.dcm", hounsfield, -12.5 + 2.5 * number, series_uid="9.8.7",
                                  sop_uid=f"9.8.7.{number}", patient="P1", spacing=(0.7, 0.7), **more)  # fmt: skip
    (tmp_path / "dicom" / "note.txt").write_text("no DICOM")
    (tmp_path / "reading.xml").write_text(HAND_DRAWN)
    (tmp_path / "chest.xml").write_text('<IdriReadMessage xmlns="http://www.nih.gov"></IdriReadMessage>')
    return tmp_path


def test_hand_drawn_outlines_give_hand_drawn_masks(hand_drawn):
    reading = read_xml(str(hand_drawn / "reading.xml"))
    assert reading.series_uid == "9.8.7" and reading.num_readers == 4 and reading.points == 1
    assert [(a.reader, a.nodule_id) for a in reading.annotations] == [(0, "square"), (1, "overlapping"), (1, "L")]
    assert read_xml(str(hand_drawn / "chest.xml")) is None

    series = read_series("9.8.7", find_series(hand_drawn / "dicom")["9.8.7"])
    assert series.z == [-10.0, -7.5, -5.0] and series.sop_uids == ["9.8.7.1", "9.8.7.2", "9.8.7.3"] and series.notes == ["1 files are there twice"]
    nodules, _ = find_nodules(series, [reading])
    assert len(nodules) == 2
    both, alone = sorted(nodules, key=lambda nodule: -len(nodule.masks))
    empty = np.zeros((16, 16), bool)
    assert sorted(both.masks) == [0, 1] and sorted(alone.masks) == [0]
    for got, wanted in zip(both.masks[0], (SQUARE, OVERLAPPING, empty, empty)):
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(both.masks[1], (RING, empty, empty, empty)):
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(alone.masks[0], (empty, L_SHAPE, empty, empty)):
        np.testing.assert_array_equal(got, wanted)
    for index in range(3):  # slope and intercept, and either byte order
        np.testing.assert_allclose(series.hounsfield(index), np.tile(np.arange(16.0) * 50 - 900, (16, 1)))


def test_filling_agrees_with_another_librarys_away_from_the_outline():
    """Pillow's fill rounds at the outline: everywhere but there, and a pixel around it, it is ours."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = rng.integers(3, 30)
        angles = np.sort(rng.random(count)) * 2 * np.pi
        radius = rng.uniform(3, 20, count)
        points = np.round(np.stack([25 + radius * np.cos(angles), 25 + radius * np.sin(angles)], axis=1)).astype(int)
        filled, x, y = fill_inside(points)
        ours = np.zeros((50, 50), bool)
        ours[y : y + filled.shape[0], x : x + filled.shape[1]] = filled
        page, edge = Image.new("1", (50, 50)), Image.new("1", (50, 50))
        ImageDraw.Draw(page).polygon([tuple(p) for p in points.tolist()], fill=1)
        ImageDraw.Draw(edge).line([tuple(p) for p in [*points.tolist(), points[0].tolist()]], fill=1)
        away = ~ndimage.binary_dilation(np.asarray(edge))
        np.testing.assert_array_equal(ours & away, np.asarray(page) & away)
        for px, py in points:
            assert not ours[py, px]  # points on the outline lie outside


def test_outlines_of_the_phantoms_are_read_back_pixel_for_pixel():
    for name, _, _, raters in phantom_files.make_cases(20, seed=4, size=64, num_raters=4, num_nodules=2):
        for mask in raters:
            outlines = [Outline("", 0.0, points, inclusion) for inclusion, points in phantom_files.outlines_of(mask)]
            np.testing.assert_array_equal(draw(outlines, mask.shape), mask, err_msg=name)


def test_an_island_in_a_hole_stays():
    frame = np.zeros((20, 20), bool)
    frame[2:18, 2:18], frame[5:15, 5:15], frame[8:12, 8:12] = True, False, True
    outlines = [Outline("", 0.0, points, inclusion) for inclusion, points in phantom_files.outlines_of(frame)]
    for order in (outlines, outlines[::-1]):
        np.testing.assert_array_equal(draw(order, frame.shape), frame)


def test_outlines_that_leave_the_image_are_cut():
    points = np.array([[-3, -3], [4, -3], [4, 4], [-3, 4]])
    mask = draw([Outline("", 0, points, True)], (8, 8))
    assert mask.sum() == 16 and mask[:4, :4].all()
    assert not draw([Outline("", 0, points + 100, True)], (8, 8)).any()


def reading_of(*annotations, num_readers=4):
    return lidc_idri.Reading("x.xml", "1", num_readers, [lidc_idri.Annotation(*a) for a in annotations], 0)


def square_at(x, y, side=6, sop="1.1"):
    return Outline(sop, 0.0, np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]]), True)


SERIES = Series("1", "P", (1.0, 1.0), (40, 40), ["a", "b"], [0.0, 2.0], ["1.1", "1.2"])


def test_annotations_are_grouped_across_readers_by_overlap_directly_or_through_others():
    reading = reading_of((0, "a", [square_at(2, 2)]), (1, "b", [square_at(6, 2)]), (2, "c", [square_at(10, 2)]), (3, "d", [square_at(25, 25)]),
                         (3, "e", [square_at(2, 2, sop="1.2")]))  # fmt: skip
    nodules, notes = find_nodules(SERIES, [reading])
    drawn = sorted([sorted(np.flatnonzero(np.any([m.any((1, 2)) for m in nodule.masks.values()], axis=0)).tolist()) for nodule in nodules])
    assert drawn == [[0, 1, 2], [3], [3]] and notes == []  # "e" lies on another slice
    assert all(masks.shape == (4, 40, 40) for nodule in nodules for masks in nodule.masks.values())


def test_more_readers_than_four_and_several_parts_of_one_reader_are_resolved_and_told():
    twice = reading_of((0, "a", [square_at(2, 2)]), (0, "b", [square_at(12, 2)]), (1, "c", [square_at(2, 2, 14)]))
    nodules, notes = find_nodules(SERIES, [twice])
    assert len(nodules) == 1 and nodules[0].masks[0][0].sum() == 50 and "united" in notes[0]
    more = reading_of(*[(reader, "a", [square_at(2, 2)]) for reader in range(4)])
    nodules, notes = find_nodules(SERIES, [more, reading_of((0, "a", [square_at(2, 2)]), num_readers=1)])
    assert nodules[0].masks[0].shape[0] == 4 and nodules[0].masks[0].any((1, 2)).all() and "5 readers, of which the first 4" in notes[0]


def test_slices_are_found_by_uid_or_else_by_height(tmp_path):
    assert SERIES.slice_of(square_at(0, 0, sop="1.2")) == 1
    for z, index in ((2.005, 1), (0.0, 0), (1.0, None), (float("nan"), None)):
        assert SERIES.slice_of(Outline("unknown", z, np.zeros((3, 2)), True)) == index
    nodules, notes = find_nodules(SERIES, [reading_of((0, "a", [Outline("unknown", 9.0, np.array([[0, 0], [4, 0], [4, 4]]), True)]))])
    assert nodules == [] and notes == ["1 outlines are on no slice of the series"]


def test_heights_are_slicelocations_where_more_outlines_lie_on_those():
    """The sign differs in some scans; by ImagePositionPatient one of these outlines would be found, on the wrong slice."""
    series = Series("1", "P", (1.0, 1.0), (40, 40), ["a", "b"], [-2.0, 0.0], ["1.1", "1.2"], locations=[2.0, float("nan")])
    square = np.array([[2, 2], [8, 2], [8, 8], [2, 8]])
    for outlines, slices, by_location in (
        ([Outline("x", 2.0, square, True), Outline("1.2", 0.0, square + 20, True)], {0: [2, 7], 1: [22, 27]}, True),
        ([Outline("x", -2.0, square, True)], {0: [2, 7]}, False),
        ([Outline("1.2", 2.0, square, True)], {1: [2, 7]}, False),  # the UID comes before any height
    ):
        nodules, notes = find_nodules(series, [reading_of(*[(0, str(k), [outline]) for k, outline in enumerate(outlines)])])
        drawn = {index: np.flatnonzero(masks[0].any(0)) for nodule in nodules for index, masks in nodule.masks.items()}
        assert {index: [columns[0] - 1, columns[-1]] for index, columns in drawn.items()} == slices
        assert ("the readers' heights are those of SliceLocation, not of ImagePositionPatient" in notes) == by_location


def test_of_slices_at_one_height_the_one_that_readers_drew_on_is_taken(tmp_path):
    files = [tmp_path / f"{name}.dcm" for name in "abcd"]
    for path, uid, z, hounsfield in zip(files, ("1.1", "1.2", "1.3", "1.4"), (0.0, 0.004, 2.5, 0.0), (10, 20, 30, 40)):
        phantom_files.write_slice(path, np.full((40, 40), hounsfield), z, series_uid="1", sop_uid=uid, patient="P")
    files = [str(path) for path in files]
    for drawn, uid, hounsfield in (({"1.2", "1.3"}, "1.2", 20), (set(), "1.1", 10)):
        series = read_series("1", files, drawn)
        assert series.sop_uids == [uid, "1.3"] and (series.hounsfield(0) == hounsfield).all()
        assert series.notes == ["2 slices at the height of another are left out; outlines on them are taken to that one"]
        outlines = [square_at(2 + 10 * k, 2, sop=uid) for k, uid in enumerate(("1.1", "1.2", "1.4"))]
        nodules, notes = find_nodules(series, [reading_of(*[(0, str(k), [outline]) for k, outline in enumerate(outlines)])])
        assert [list(nodule.masks) for nodule in nodules] == [[0]] * 3 and notes == series.notes


def test_links_are_followed_once(hand_drawn):
    (hand_drawn / "linked").mkdir()
    (hand_drawn / "linked" / "scan").symlink_to(hand_drawn / "dicom" / "a")
    (hand_drawn / "dicom" / "a" / "back").symlink_to(hand_drawn / "linked")
    (hand_drawn / "dicom" / "a" / "nothing.dcm").symlink_to(hand_drawn / "nowhere.dcm")
    faults = []
    found = find_series(hand_drawn / "linked", faults=faults)["9.8.7"]
    assert len(found) == 4 and len(faults) == 1 and "nothing.dcm: cannot be read" in faults[0]


def test_deflated_dicom_is_refused_by_name_before_it_grows(hand_drawn, monkeypatch):
    import zlib

    import pydicom

    path = hand_drawn / "dicom" / "a" / "z.dcm"
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path)

    def inflate(*arguments):
        raise AssertionError("inflated")

    monkeypatch.setattr(zlib, "decompress", inflate)
    faults = []
    assert len(find_series(hand_drawn / "dicom", faults=faults)["9.8.7"]) == 3
    assert len(faults) == 1 and "z.dcm: deflated DICOM is refused" in faults[0]
    with pytest.raises(DataError, match="z.dcm: deflated"):
        read_series("9.8.7", [str(path)])


def test_more_pixels_or_frames_than_the_series_has_are_refused_before_they_are_decoded(tmp_path):
    import pydicom

    path = tmp_path / "a.dcm"
    phantom_files.write_slice(path, np.zeros((8, 8)), 1.0, series_uid="1", sop_uid="1.1", patient="P")
    series, data = read_series("1", [str(path)]), pydicom.dcmread(path)
    for tag, value in (("Rows", 60_000), ("NumberOfFrames", 10**9)):
        changed = pydicom.dcmread(path)
        setattr(changed, tag, value)
        changed.save_as(path)
        with pytest.raises(DataError, match=rf"a.dcm: 8x{changed.Rows} pixels in {changed.get('NumberOfFrames', 1)} frames"):
            series.hounsfield(0)
        data.save_as(path)


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagePositionPatient", "RescaleSlope"])
def test_missing_tags_are_named_or_told(tmp_path, tag):
    path = tmp_path / "a.dcm"
    phantom_files.write_slice(path, np.zeros((8, 8)), 1.0, series_uid="1.2", sop_uid="1.2.3", patient="P", intercept=0, leave_out=(tag,))
    if tag == "RescaleSlope":
        series = read_series("1.2", [str(path)])
        assert series.notes == ["without rescale slope or intercept: 1 and 0 are taken"] and (series.hounsfield(0) == 0).all()
    else:
        with pytest.raises(DataError, match=f"a.dcm: without {tag}"):
            read_series("1.2", [str(path)])


def test_crops_are_centred_padded_and_resampled():
    plane = np.arange(20.0 * 30).reshape(20, 30).astype(np.float32)
    np.testing.assert_array_equal(lidc_idri.crop(plane, (10, 15), (0.7, 0.7), 8, None, 0), plane[6:14, 11:19])
    np.testing.assert_array_equal(lidc_idri.crop(plane, (10, 15), (0.5, 0.5), 8, 0.5, 0), plane[6:14, 11:19])
    corner = lidc_idri.crop(plane, (0, 0), (0.7, 0.7), 8, None, -5)
    assert (corner[:4] == -5).all() and (corner[:, :4] == -5).all() and (corner[4:, 4:] == plane[:4, :4]).all()
    wide = lidc_idri.crop(plane, (10, 15), (1.0, 2.0), 8, 1.0, 0)  # columns are twice as far apart as the crop's
    np.testing.assert_allclose(wide[:, 4], plane[6:14, 15])
    np.testing.assert_allclose(wide[:, 5], plane[6:14, 15:17].mean(1))
    assert lidc_idri.to_window(np.array([-2000.0, -1000, -300, 400, 3000]), -1000, 400).tolist() == [0, 0, 128, 255, 255]


# -- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """(folder, cases): the phantom of a download, two slices for each of five patients."""
    folder = tmp_path_factory.mktemp("download")
    cases = phantom_files.make_cases(10, seed=7, size=64, num_raters=4)
    phantom_files.write_lidc(folder, cases, size=96)
    return folder, cases


def prepare(download, out, *more):
    return call_script("prepare_lidc", f"--dicom={download}/dicom", f"--xml={download}/xml", f"--out={out}", "--processes=2", "--crop=64", *more)


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
        assert float(row["z"]) == -100 + 2.5 * int(row["slice"]) and row["sop_uid"] == f"{row['series']}.{int(row['slice']) + 1}"
        name, patient, planes, raters = cases[2 * int(row["patient"][-3:]) + int(row["slice"])]
        case = tmp_path / "out" / row["split"] / row["case"]
        got = np.stack([read_label(str(case / f"label{k}_.png"))[0] for k in range(4)])
        drawn = raters.any(0)
        whole = np.pad(raters, ((0, 0), (32, 32), (32, 32)))
        rows_, columns = np.flatnonzero(np.pad(drawn, 32).any(1)), np.flatnonzero(np.pad(drawn, 32).any(0))
        top, left = (rows_[0] + rows_[-1]) // 2 - 32, (columns[0] + columns[-1]) // 2 - 32
        np.testing.assert_array_equal(got, whole[:, top : top + 64, left : left + 64])
        assert row["areas"] == " ".join(str(mask.sum()) for mask in raters)
        image = np.asarray(Image.open(case / f"image_{row['case']}.png"))
        grey = np.pad(np.round(planes["flair"] * 255), 32)[top : top + 64, left : left + 64]
        assert abs(image.astype(int) - grey).max() <= 1  # Hounsfield units are whole numbers
    for split_name in ("training", "validation", "testing"):
        assert len(LIDCDataset(tmp_path / "out" / split_name, 64)) > 0
    told = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert told["settings"] == {"window": [-1000.0, 400.0], "pixel_mm": None, "crop": 64, "min_raters": 1, "seed": 0} and told["faults"] == []
    check = call_script("check_data", tmp_path / "out", "--sheet=")
    assert check.returncode == 0 and "no faults" in check.stdout, check.stdout


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(download, tmp_path):
    folder, _ = download
    out = tmp_path / "out"
    whole = prepare(folder, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    few = tmp_path / "few"
    shutil.copytree(folder, few)
    for patient in ("patient003", "patient004"):
        shutil.rmtree(few / "dicom" / patient)
    assert "2 series that the XML speaks of are not in" in prepare(few, out).stdout
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
    command = [sys.executable, ROOT / "scripts" / "prepare_lidc.py", f"--dicom={tmp_path}/dicom", f"--xml={download[0]}/xml", f"--out={tmp_path}/out"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while not children.read_text():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=60)  # its pipes are open as long as a process of its lives
    assert running.returncode == 130 and len(told.strip().splitlines()) == 1 and "interrupted" in told, told


def test_min_raters_and_two_series_of_a_patient(download, tmp_path):
    folder, cases = download
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    other = phantom_files.make_cases(2, seed=8, size=64, num_raters=4)
    phantom_files.write_lidc(tmp_path / "more", [(name, "patient900", planes, raters) for name, _, planes, raters in other], size=96)
    import pydicom

    for path in (tmp_path / "more" / "dicom" / "patient900").iterdir():  # another series of the first patient
        data = pydicom.dcmread(path)
        data.PatientID, data.SeriesInstanceUID = "patient000", "1.2.826.0.1.3680043.8.498.77"
        data.save_as(both / "dicom" / f"more{path.name}")
    text = (tmp_path / "more" / "xml" / "patient900.xml").read_text().replace("498.1</SeriesInstanceUid>", "498.77</SeriesInstanceUid>")
    (both / "xml" / "more.xml").write_text(text)
    done = prepare(both, tmp_path / "out", "--min_raters=3")
    assert done.returncode == 0, done.stderr
    rows = manifest_of(tmp_path / "out")
    own = [row for row in rows if row["patient"] == "patient000"]
    assert len({row["series"] for row in own}) == 2 and len({row["split"] for row in own}) == 1
    assert len({row["case"].split("_")[1] for row in own}) == 2 and len({row["case"] for row in rows}) == len(rows)
    wanted = sum(raters.any((1, 2)).sum() >= 3 for *_, raters in [*cases, *other])
    assert done.stdout.count("fewer than 3 readers drew within the crop") >= 1
    assert len(rows) == wanted and all(sum(area != "0" for area in row["areas"].split()) >= 3 for row in rows)


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
    areas = [{row["case"]: np.array(row["areas"].split(), int) for row in manifest_of(tmp_path / out)} for out in ("fine", "stretched")]
    seen = 0
    for name, area in areas[0].items():  # rows twice as far apart: twice as high
        if (area > 100).all():
            np.testing.assert_allclose(areas[1][name] / area, 2, rtol=0.02)
            seen += 1
    assert seen >= 3


# -- untrusted and broken ---------------------------------------------------------------------------------------------


def test_xml_that_would_expand_or_read_files_is_refused_by_name(hand_drawn, tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><LidcReadMessage>&b;</LidcReadMessage>'
    leak = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>'
    for name, text in (("bomb", bomb), ("leak", leak), ("broken", HAND_DRAWN[:900]), ("text", HAND_DRAWN.replace("<xCoord>1<", "<xCoord>one<")),
                       ("far", HAND_DRAWN.replace("<xCoord>1<", "<xCoord>999999999<"))):  # fmt: skip
        path = tmp_path / f"{name}.xml"
        path.write_text(text)
        with pytest.raises(DataError, match=f"{name}.xml"):
            read_xml(str(path))


def test_faults_of_single_files_are_told_and_the_others_prepared(download, tmp_path):
    folder, _ = download
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "dicom" / "patient001" / "000.dcm"
    path.write_bytes(path.read_bytes()[:-5000])
    (broken / "xml" / "bad.xml").write_text("<LidcReadMessage>")
    done = prepare(broken, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert f"fault: {path}: its pixels cannot be read" in done.stdout and "bad.xml" in done.stdout
    assert {row["patient"] for row in manifest_of(tmp_path / "out")} >= {"patient000", "patient002", "patient003", "patient004"}
    shutil.copy(folder / "dicom" / "patient001" / "000.dcm", path)  # mended, it is prepared
    done = prepare(broken, tmp_path / "out")
    assert len(manifest_of(tmp_path / "out")) == 10 and str(path) not in done.stdout


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--dicom=/nowhere"], ["/nowhere", "no such folder"]),
        (["--xml={empty}"], ["no XML of LIDC's readers"]),
        (["--dicom={empty}"], ["no CT series of the 5"]),
        (["--window=400,-1000"], ["--window 400,-1000", "lower first"]),
        (["--pixel_mm=0"], ["--pixel_mm 0"]),
        (["--min_raters=5"], ["--min_raters 5", "1 to 4"]),
        (["--crop=2"], ["--crop"]),
        (["--out="], ["--out is missing"]),
    ],
)
def test_refusals(download, tmp_path, flags, words):
    (tmp_path / "empty").mkdir()
    done = prepare(download[0], tmp_path / "out", *[flag.replace("{empty}", str(tmp_path / "empty")) for flag in flags])
    assert_refused(done, *words)
