"""LIDC-IDRI's files: outlines against hand-drawn masks and another library's fill, nodules of readers, DICOM."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from guided_diffusion.errors import DataError
from guided_diffusion.prepare.lidc.crops import Square, crop, to_window
from guided_diffusion.prepare.lidc.dicom import Series, find_series, read_series
from guided_diffusion.prepare.lidc.idri import draw, find_nodules
from guided_diffusion.prepare.lidc.patients import patients_of_series
from guided_diffusion.prepare.lidc.readings import Annotation, Outline, Reading, read_xml
from guided_diffusion.prepare.phantoms import lidc_files
from guided_diffusion.prepare.phantoms.files import make_cases

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
..#.....#.......
..#.....#.......
..#.....#.......
..#.....#.......
..#.....#.......
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
    for name, number, more in (
        ("z", 1, {}),
        ("b", 2, {"slope": 2, "intercept": -1000}),
        ("c", 3, {"big_endian": True}),
        ("d", 1, {}),
    ):
        lidc_files.write_slice(
            tmp_path / "dicom" / "a" / f"{name}.dcm",
            hounsfield,
            -12.5 + 2.5 * number,
            series_uid="9.8.7",
            sop_uid=f"9.8.7.{number}",
            patient="P1",
            spacing=(0.7, 0.7),
            **more,
        )
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
    assert (
        series.z == [-10.0, -7.5, -5.0]
        and series.sop_uids == ["9.8.7.1", "9.8.7.2", "9.8.7.3"]
        and series.notes == ["1 duplicate files are ignored"]
    )
    nodules, _ = find_nodules(series, [reading])
    assert len(nodules) == 2
    both, alone = sorted(nodules, key=lambda nodule: -len(nodule.masks))
    empty = np.zeros((16, 16), bool)
    assert sorted(both.masks) == [0, 1] and sorted(alone.masks) == [0]
    for got, expected in zip(both.masks[0], (SQUARE, OVERLAPPING, empty, empty), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(both.masks[1], (RING, empty, empty, empty), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(alone.masks[0], (empty, L_SHAPE, empty, empty), strict=True):
        np.testing.assert_array_equal(got, expected)
    for index in range(3):  # slope and intercept, and either byte order
        np.testing.assert_allclose(series.hounsfield(index), np.tile(np.arange(16.0) * 50 - 900, (16, 1)))


def some_polygon(rng, least, most, corners):
    """Whole-number corners [N, 2] around (25, 25), at `least` to `most` pixels from it, all around."""
    count = rng.integers(*corners)
    angles = (np.arange(count) + rng.random(count)) / count * 2 * np.pi
    radius = rng.uniform(least, most, count)
    return np.round(np.stack([25 + radius * np.cos(angles), 25 + radius * np.sin(angles)], axis=1)).astype(int)


@pytest.mark.parametrize("hole", [False, True])
def test_filling_agrees_with_another_librarys_away_from_the_outlines(hole):
    """Pillow's fill rounds at the outline: everywhere but there, and a pixel around it, it is ours."""
    rng, seen = np.random.default_rng(0), 0
    for _ in range(200):
        polygons = (
            [(some_polygon(rng, 12, 22, (8, 30)), True), (some_polygon(rng, 2, 9, (3, 12)), False)]
            if hole
            else [(some_polygon(rng, 3, 20, (3, 30)), True)]
        )
        ours = draw([Outline("", 0.0, points, inclusion) for points, inclusion in polygons], (50, 50))
        page, edge = Image.new("1", (50, 50)), Image.new("1", (50, 50))
        for points, inclusion in polygons:
            corners = [tuple(p) for p in points.tolist()]
            ImageDraw.Draw(page).polygon(corners, fill=int(inclusion))
            ImageDraw.Draw(edge).line([*corners, corners[0]], fill=1)
        away = ~ndimage.binary_dilation(np.asarray(edge))
        np.testing.assert_array_equal(ours & away, np.asarray(page) & away)
        for px, py in polygons[0][0]:
            assert not ours[py, px]  # points on the outline lie outside
        if hole:
            assert not any(ours[py, px] for px, py in polygons[1][0])  # and those on a hole's outside the nodule, too
            seen += ours[25, 25] == 0 and away[25, 25]
    assert seen > 50 or not hole


def test_outlines_of_the_phantoms_are_read_back_pixel_for_pixel():
    for case in make_cases(20, seed=4, size=64, num_raters=4, num_nodules=2):
        for mask in case.raters:
            outlines = [Outline("", 0.0, points, inclusion) for inclusion, points in lidc_files.outlines_of(mask)]
            np.testing.assert_array_equal(draw(outlines, mask.shape), mask, err_msg=case.name)


def contained(points, shape):
    """Whether pixels that are not on a polygon are inside it, by the crossings of a ray just below their centres."""
    y, x = np.indices(shape)
    y, crossings = y + 1e-4, np.zeros(shape, dtype=int)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if ay != by:
            crossings += ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
    return crossings % 2 == 1


def pylidcs_mask(outlines, shape):
    """What pylidc 0.2.3 draws: the inside of inclusions, then without that of exclusions, each without its points."""
    mask = np.zeros(shape, dtype=bool)
    for outline in sorted(outlines, key=lambda outline: not outline.inclusion):
        inside = contained(outline.points, shape)
        mask = mask | inside if outline.inclusion else mask & ~inside
        mask[outline.points[:, 1], outline.points[:, 0]] = False
    return mask


def pixel_by_pixel(points):
    """The points of a polygon's edges, as readers' outlines list them, each a neighbour of the one before."""
    chain = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        steps = max(abs(b - a).max(), 1)
        chain += [np.round(a + (b - a) * k / steps).astype(int) for k in range(steps)]
    return np.array(chain)


def test_outlines_with_holes_are_filled_as_pylidc_fills_them():
    rng, seen = np.random.default_rng(1), 0
    for _ in range(100):
        outer, hole = some_polygon(rng, 14, 22, (8, 30)), some_polygon(rng, 2, 9, (3, 12))
        outlines = [Outline("", 0.0, pixel_by_pixel(outer), True), Outline("", 0.0, pixel_by_pixel(hole), False)]
        expected = pylidcs_mask(outlines, (50, 50))
        np.testing.assert_array_equal(draw(outlines, (50, 50)), expected)
        np.testing.assert_array_equal(draw(outlines[::-1], (50, 50)), expected)
        seen += expected.any() and not expected[25, 25]
    assert seen > 50
    whole = Outline("", 0.0, np.array([[2, 2], [9, 2], [9, 9], [2, 9]]), True)
    assert not draw([Outline("", 0.0, whole.points, False), whole], (12, 12)).any()  # an exclusion of all of it


def test_holes_of_every_shape_are_written_and_read_back():
    rng = np.random.default_rng(2)
    for size in range(1, 60):  # holes of one pixel, lines, and larger ones
        mask = ndimage.binary_opening(rng.random((24, 24)) > size / 100, iterations=size % 2)
        outlines = [Outline("", 0.0, points, inclusion) for inclusion, points in lidc_files.outlines_of(mask)]
        np.testing.assert_array_equal(draw(outlines, mask.shape), mask)


def test_outlines_without_an_inside_are_counted_and_named():
    two, line = np.array([[3, 3], [4, 3]]), np.array([[3, 8], [6, 8], [4, 8]])
    square = np.array([[10, 10], [11, 10], [11, 11], [10, 11]])  # its inside has no pixel
    thin = [Outline("1.1", 0.0, points, True) for points in (two, line, square, two[:1])]
    alone, part = (0, "n1", [thin[0]]), (1, "n2", [square_at(2, 2), *thin[1:]])
    nodules, notes = find_nodules(SERIES, [reading_of(alone, part)])
    assert len(nodules) == 1 and nodules[0].masks[0].sum() == 25
    (note,) = notes
    assert note.startswith("4 outlines of one or two points, or along a line, enclose no pixel: nodule ")
    assert note.endswith("n1 of reader 1 at z 0, " + ", ".join(["n2 of reader 2 at z 0"] * 3))
    _, (note,) = find_nodules(SERIES, [reading_of((0, "n1", thin * 3))])
    assert note.startswith("12 outlines") and note.endswith("and 7 more")


def test_an_outline_of_two_points_is_read(hand_drawn):
    path = hand_drawn / "reading.xml"
    tiny = "<edgeMap><xCoord>14</xCoord><yCoord>2</yCoord></edgeMap>"
    path.write_text(path.read_text().replace(tiny, tiny + tiny.replace("14", "13")))
    reading = read_xml(str(path))
    assert reading.points == 0 and [a.nodule_id for a in reading.annotations][1] == "tiny"
    series = read_series("9.8.7", find_series(hand_drawn / "dicom")["9.8.7"])
    nodules, notes = find_nodules(series, [reading])
    assert len(nodules) == 2 and any("1 outlines of one or two points" in n and "tiny of reader 1" in n for n in notes)


def test_an_island_in_a_hole_stays():
    frame = np.zeros((20, 20), bool)
    frame[2:18, 2:18], frame[5:15, 5:15], frame[8:12, 8:12] = True, False, True
    outlines = [Outline("", 0.0, points, inclusion) for inclusion, points in lidc_files.outlines_of(frame)]
    for order in (outlines, outlines[::-1]):
        np.testing.assert_array_equal(draw(order, frame.shape), frame)


def test_outlines_that_leave_the_image_are_cut():
    points = np.array([[-3, -3], [4, -3], [4, 4], [-3, 4]])
    mask = draw([Outline("", 0, points, True)], (8, 8))
    assert mask.sum() == 16 and mask[:4, :4].all()
    assert not draw([Outline("", 0, points + 100, True)], (8, 8)).any()


def reading_of(*annotations, num_readers=4):
    return Reading("x.xml", "1", num_readers, [Annotation(*a) for a in annotations], 0)


def square_at(x, y, side=6, sop="1.1"):
    return Outline(sop, 0.0, np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]]), True)


SERIES = Series("1", "P", (1.0, 1.0), (40, 40), ["a", "b"], [0.0, 2.0], ["1.1", "1.2"])


def test_annotations_are_grouped_across_readers_by_overlap_directly_or_through_others():
    reading = reading_of(
        (0, "a", [square_at(2, 2)]),
        (1, "b", [square_at(6, 2)]),
        (2, "c", [square_at(10, 2)]),
        (3, "d", [square_at(25, 25)]),
        (3, "e", [square_at(2, 2, sop="1.2")]),
    )
    nodules, notes = find_nodules(SERIES, [reading])
    drawn = sorted(
        [
            sorted(np.flatnonzero(np.any([m.any((1, 2)) for m in nodule.masks.values()], axis=0)).tolist())
            for nodule in nodules
        ]
    )
    assert drawn == [[0, 1, 2], [3], [3]] and notes == []  # "e" lies on another slice
    assert all(masks.shape == (4, 40, 40) for nodule in nodules for masks in nodule.masks.values())


def test_more_readers_than_four_and_several_parts_of_one_reader_are_resolved_and_reported():
    twice = reading_of((0, "a", [square_at(2, 2)]), (0, "b", [square_at(12, 2)]), (1, "c", [square_at(2, 2, 14)]))
    nodules, notes = find_nodules(SERIES, [twice])
    assert len(nodules) == 1 and nodules[0].masks[0][0].sum() == 50 and "are merged" in notes[0]
    more = reading_of(*[(reader, "a", [square_at(2, 2)]) for reader in range(4)])
    nodules, notes = find_nodules(SERIES, [more, reading_of((0, "a", [square_at(2, 2)]), num_readers=1)])
    assert (
        nodules[0].masks[0].shape[0] == 4
        and nodules[0].masks[0].any((1, 2)).all()
        and "5 readers, of which only the first 4" in notes[0]
    )


def test_slices_are_found_by_uid_or_else_by_height(tmp_path):
    assert SERIES.slice_of(square_at(0, 0, sop="1.2")) == 1
    for z, index in ((2.005, 1), (0.0, 0), (1.0, None), (float("nan"), None)):
        assert SERIES.slice_of(Outline("unknown", z, np.zeros((3, 2)), True)) == index
    nodules, notes = find_nodules(
        SERIES, [reading_of((0, "a", [Outline("unknown", 9.0, np.array([[0, 0], [4, 0], [4, 4]]), True)]))]
    )
    assert nodules == [] and notes == ["1 outlines do not match any slice of the series and are skipped"]


def test_heights_are_slicelocations_where_more_outlines_lie_on_those():
    """The sign differs in some scans; by ImagePositionPatient one of these outlines would be found on a wrong slice."""
    series = Series(
        "1", "P", (1.0, 1.0), (40, 40), ["a", "b"], [-2.0, 0.0], ["1.1", "1.2"], locations=[2.0, float("nan")]
    )
    square = np.array([[2, 2], [8, 2], [8, 8], [2, 8]])
    for outlines, slices, by_location in (
        ([Outline("x", 2.0, square, True), Outline("1.2", 0.0, square + 20, True)], {0: [2, 7], 1: [22, 27]}, True),
        ([Outline("x", -2.0, square, True)], {0: [2, 7]}, False),
        ([Outline("1.2", 2.0, square, True)], {1: [2, 7]}, False),  # the UID comes before any height
    ):
        nodules, notes = find_nodules(
            series, [reading_of(*[(0, str(k), [outline]) for k, outline in enumerate(outlines)])]
        )
        drawn = {index: np.flatnonzero(masks[0].any(0)) for nodule in nodules for index, masks in nodule.masks.items()}
        assert {index: [columns[0] - 1, columns[-1]] for index, columns in drawn.items()} == slices
        assert ("the readers' z positions match SliceLocation, not ImagePositionPatient" in notes) == by_location


def test_of_slices_at_one_height_the_one_that_readers_drew_on_is_taken(tmp_path):
    files = [tmp_path / f"{name}.dcm" for name in "abcd"]
    for path, uid, z, hounsfield in zip(
        files, ("1.1", "1.2", "1.3", "1.4"), (0.0, 0.004, 2.5, 0.0), (10, 20, 30, 40), strict=True
    ):
        lidc_files.write_slice(path, np.full((40, 40), hounsfield), z, series_uid="1", sop_uid=uid, patient="P")
    files = [str(path) for path in files]
    for drawn, uid, hounsfield in (({"1.2", "1.3"}, "1.2", 20), (set(), "1.1", 10)):
        series = read_series("1", files, drawn)
        assert series.sop_uids == [uid, "1.3"] and (series.hounsfield(0) == hounsfield).all()
        assert series.notes == [
            "2 slices with the z position of another are skipped; outlines on them are moved to the other"
        ]
        outlines = [square_at(2 + 10 * k, 2, sop=uid) for k, uid in enumerate(("1.1", "1.2", "1.4"))]
        nodules, notes = find_nodules(
            series, [reading_of(*[(0, str(k), [outline]) for k, outline in enumerate(outlines)])]
        )
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
    lidc_files.write_slice(path, np.zeros((8, 8)), 1.0, series_uid="1", sop_uid="1.1", patient="P")
    series, data = read_series("1", [str(path)]), pydicom.dcmread(path)
    for tag, value in (("Rows", 60_000), ("NumberOfFrames", 10**9)):
        changed = pydicom.dcmread(path)
        setattr(changed, tag, value)
        changed.save_as(path)
        with pytest.raises(
            DataError, match=rf"a.dcm: 8x{changed.Rows} pixels in {changed.get('NumberOfFrames', 1)} frames"
        ):
            series.hounsfield(0)
        data.save_as(path)


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagePositionPatient", "RescaleSlope"])
def test_missing_tags_are_named_or_reported(tmp_path, tag):
    path = tmp_path / "a.dcm"
    lidc_files.write_slice(
        path, np.zeros((8, 8)), 1.0, series_uid="1.2", sop_uid="1.2.3", patient="P", intercept=0, leave_out=(tag,)
    )
    if tag == "RescaleSlope":
        series = read_series("1.2", [str(path)])
        assert (
            series.notes == ["rescale slope or intercept is missing; using 1 and 0"]
            and (series.hounsfield(0) == 0).all()
        )
    else:
        with pytest.raises(DataError, match=f"a.dcm: without {tag}"):
            read_series("1.2", [str(path)])


def test_crops_are_centred_padded_and_resampled():
    plane = np.arange(20.0 * 30).reshape(20, 30).astype(np.float32)
    np.testing.assert_array_equal(crop(plane, Square((10, 15), (0.7, 0.7), 8, None), 0), plane[6:14, 11:19])
    np.testing.assert_array_equal(crop(plane, Square((10, 15), (0.5, 0.5), 8, 0.5), 0), plane[6:14, 11:19])
    corner = crop(plane, Square((0, 0), (0.7, 0.7), 8, None), -5)
    assert (corner[:4] == -5).all() and (corner[:, :4] == -5).all() and (corner[4:, 4:] == plane[:4, :4]).all()
    wide = crop(plane, Square((10, 15), (1.0, 2.0), 8, 1.0), 0)  # columns are twice as far apart as the crop's
    np.testing.assert_allclose(wide[:, 4], plane[6:14, 15])
    np.testing.assert_allclose(wide[:, 5], plane[6:14, 15:17].mean(1))
    assert to_window(np.array([-2000.0, -1000, -300, 400, 3000]), -1000, 400).tolist() == [0, 0, 128, 255, 255]


def test_xml_that_would_expand_or_read_files_is_refused_by_name(hand_drawn, tmp_path):
    head = '<?xml version="1.0"?><!DOCTYPE x '
    bomb = (
        f'{head}[<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><LidcReadMessage>&b;</LidcReadMessage>'
    )
    leak = f'{head}[<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>'
    for name, text in (
        ("bomb", bomb),
        ("leak", leak),
        ("broken", HAND_DRAWN[:900]),
        ("text", HAND_DRAWN.replace("<xCoord>1<", "<xCoord>one<")),
        ("far", HAND_DRAWN.replace("<xCoord>1<", "<xCoord>999999999<")),
    ):
        path = tmp_path / f"{name}.xml"
        path.write_text(text)
        with pytest.raises(DataError, match=f"{name}.xml"):
            read_xml(str(path))


# -- patients ---------------------------------------------------------------------------------------------------------


def test_ids_become_pseudonyms_that_stay_when_patients_are_added():
    files = dict.fromkeys("abcdef", "download/0001/x.dcm")
    ids = {"a": "Müller^Hans", "b": "4711", "c": "Müller^Hans ", "d": ""}
    first = patients_of_series(ids, files, {})
    assert sorted(set(first.values())) == ["patient001", "patient002", "patient003"]
    assert first["a"] == first["c"] and first == patients_of_series(dict(reversed(ids.items())), files, {})
    more = patients_of_series({**ids, "e": "0815", "f": "4711"}, files, first)
    assert more == {**first, "e": "patient004", "f": first["b"]}
    few = patients_of_series({"b": "4711", "e": "0815"}, files, first)  # others are known, but not there
    assert few == {"b": first["b"], "e": "patient004"}
    assert patients_of_series(ids, files, first, keep_ids=True) == {**ids, "d": "d"}


def test_public_ids_of_lidc_stay_whether_in_the_file_or_the_path():
    ids = {"a": "LIDC-IDRI-0007", "b": "anonymous", "c": "anonymous", "d": "", "e": "LIDC-IDRI-0007 Müller"}
    files = {"a": "x/1.dcm", "b": "x/LIDC-IDRI-0009/1.dcm", "c": "x/2.dcm", "d": "LIDC-IDRI-0007/1.dcm", "e": "x"}
    found = patients_of_series(ids, files, {})
    assert found == {
        "a": "LIDC-IDRI-0007",
        "b": "LIDC-IDRI-0009",
        "c": "LIDC-IDRI-0009",
        "d": "LIDC-IDRI-0007",
        "e": "patient001",
    }
    ids, files = dict.fromkeys("abc", "anonymous"), {"a": "LIDC-IDRI-0001/x", "b": "LIDC-IDRI-0002/x", "c": "x"}
    found = patients_of_series(ids, files, {})
    assert found == {"a": "LIDC-IDRI-0001", "b": "LIDC-IDRI-0002", "c": "patient001"}
