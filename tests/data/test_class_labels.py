"""Cases of several classes: levels, regions, files per structure, ignored pixels; packed, cached and resized."""

import json

import numpy as np
import pytest
from drawings import DISCS, GREY, assert_says, classes, disc, masks_in, opened, paletted, put, put_case, refusal, white
from helpers import call_script
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.resize import resize_classes, resize_ignored
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset

CUPS = [disc(7), disc(5), disc(3)]
SPOT = classes() == 2
LEVELS = [outer.astype(np.uint8) + inner for outer, inner in zip(DISCS, CUPS, strict=True)]  # 1 around 2
RINGS = [outer & ~inner for outer, inner in zip(DISCS, CUPS, strict=True)]


def state(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def put_structures(folder, without=(), change=white):
    """label0_disc.png, label0_cup.png, ... of three raters; `without` some (structure, rater)."""
    put(folder / "image.png", GREY)
    for k in range(3):
        for name, mask in (("disc", DISCS[k]), ("cup", CUPS[k])):
            if (name, k) not in without:
                put(folder / f"label{k}_{name}.png", change(mask))


# -- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["disc,spot", "disc=1,spot=2"])
def test_levels_are_classes(flag, tmp_path):
    put_case(tmp_path / "c0", [classes(), DISCS[1].astype(np.uint8)])
    dataset = opened(tmp_path, classes=tuple(flag.split(",")))
    assert dataset.classes.names == ("disc", "spot") and dataset.classes.exclusive and dataset.classes.count == 2
    assert dataset[0].raters.shape == (2, 2, 64, 64) and dataset[0].raters.dtype.is_floating_point
    np.testing.assert_array_equal(masks_in(dataset), [[DISCS[0], SPOT], [DISCS[1], SPOT & False]])


def test_the_order_of_classes_is_that_of_the_flag(tmp_path):
    put_case(tmp_path / "c0", [classes()])
    np.testing.assert_array_equal(masks_in(opened(tmp_path, classes=("spot=2", "disc=1"))), [[SPOT, DISCS[0]]])


def test_jpeg_is_read_by_the_nearest_level(tmp_path):
    put_case(tmp_path / "c0", [classes() * 85], suffix=".jpg", quality=95)
    dataset = opened(tmp_path, classes=("disc", "spot"))
    np.testing.assert_array_equal(masks_in(dataset), [[DISCS[0], SPOT]])
    assert any("JPEG" in note and "nearest level" in note for note in dataset.notes)
    assert any("the levels 85, 170 of the labels are read as disc, spot" in note for note in dataset.notes)
    assert_says(refusal(tmp_path, classes=("disc", "spot", "more")), "JPEG", "0, 85, 170", "disc=LEVEL")
    assert_says(refusal(tmp_path, classes=("disc", "spot"), ignore_label=170), "JPEG", "--ignore_label", "PNG")


def test_background_of_a_jpeg_may_be_the_upper_level(tmp_path):
    """As in REFUGE: 0 is the cup, 128 the disc, 255 background."""
    put_case(tmp_path / "c0", [np.array([255, 128, 0], np.uint8)[classes()]], suffix=".jpg", quality=95)
    (masks,) = masks_in(opened(tmp_path, classes=("disc=128", "spot=0")))
    assert (masks ^ [DISCS[0], SPOT]).mean() < 0.001
    assert_says(refusal(tmp_path, classes=("disc=0", "spot=20")), "label0_.jpg", "the level 128, 255 beyond")


def test_three_levels_in_a_border_are_classes_or_ignored(tmp_path):
    """The case `border`: 128 in the first three rows, which are at the edge of the view."""
    border = white(DISCS[0]).copy()
    border[:3] = 128
    put_case(tmp_path / "c0", [border])
    assert_says(refusal(tmp_path), "--classes", "--merge_labels", "--structure")
    dataset = opened(tmp_path, ignore_label=128)
    np.testing.assert_array_equal(masks_in(dataset), [DISCS[0]])
    ignored = np.arange(64)[:, None] < np.full(64, 3)
    np.testing.assert_array_equal(dataset.own_arrays(0).ignored, ignored)
    np.testing.assert_array_equal(masks_in(opened(tmp_path, classes=("edge", "disc"))), [[ignored, DISCS[0]]])


@pytest.mark.parametrize(
    "label, flag, words",
    [
        (np.where(DISCS[2], 3, classes()), "disc,spot", ["3 (249 pixels)", "levels 1 to 2", "disc=LEVEL"]),
        (np.where(DISCS[2], 3, classes()), "disc=1,spot=2", ["the level 3", "disc, spot", "--ignore_label"]),
        (white(DISCS[0]), "disc,spot", ["255 (517 pixels)", "levels 1 to 2"]),
        (np.array([255, 128, 0])[classes()], "disc,spot", ["128 (517 pixels)", "levels 1 to 2"]),  # 0 is the spot
    ],
)
def test_levels_beyond_the_known_are_refused_in_one_line(label, flag, words, tmp_path):
    put_case(tmp_path / "c0", [label.astype(np.uint8)])
    text = refusal(tmp_path, classes=tuple(flag.split(",")))
    assert_says(text, *words)
    assert len(text.splitlines()) == 1


def test_other_levels_than_1_to_k_are_read_in_ascending_order_and_named(tmp_path):
    put_case(tmp_path / "c0", [np.array([0, 1, 3], np.uint8)[classes()]])
    dataset = opened(tmp_path, classes=("disc", "spot"))
    np.testing.assert_array_equal(masks_in(dataset), [[DISCS[0], SPOT]])
    assert "the levels 1, 3 of the labels are read as disc, spot (--classes)" in dataset.notes


@pytest.mark.parametrize("levels", [(255, 128, 0), (9, 0, 7)])
def test_background_is_the_level_that_no_class_has(levels, tmp_path):
    put_case(tmp_path / "c0", [np.array(levels, np.uint8)[label] for label in LEVELS])
    _, ring, cup = levels
    dataset = opened(tmp_path, classes=(f"disc={ring}+{cup}", f"cup={cup}"))
    assert not dataset.classes.exclusive
    np.testing.assert_array_equal(masks_in(dataset), list(zip(DISCS, CUPS, strict=True)))
    dataset = opened(tmp_path, classes=(f"disc={ring}", f"cup={cup}"))
    np.testing.assert_array_equal(masks_in(dataset), list(zip(RINGS, CUPS, strict=True)))


FORMS = {
    "float": (lambda levels: levels.astype(np.float32), ".npy"),
    "light palette": (lambda levels: paletted(levels, [(255, 255, 255), (90, 90, 90), (0, 0, 0)]), ".png"),
    "colours": (lambda levels: np.array([[0, 0, 0], [200, 0, 0], [255, 255, 0]], np.uint8)[levels], ".png"),
    "grey as RGB": (lambda levels: np.dstack([levels * 120] * 3), ".png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_labels_have_the_same_classes(form, tmp_path):
    change, suffix = FORMS[form]
    put_case(tmp_path / "c0", [change(label) for label in LEVELS], suffix=suffix)
    dataset = opened(tmp_path, classes=("ring", "cup"))
    np.testing.assert_array_equal(masks_in(dataset), list(zip(RINGS, CUPS, strict=True)))


def test_a_palette_is_read_by_index_also_without_background(tmp_path):
    full = np.maximum(LEVELS[0], 1)
    put_case(tmp_path / "c0", [paletted(full, [(0, 0, 0), (250, 250, 0), (0, 80, 0)]), LEVELS[1]])
    masks = masks_in(opened(tmp_path, classes=("ring", "cup")))
    np.testing.assert_array_equal(masks, [[full == 1, CUPS[0]], [RINGS[1], CUPS[1]]])


# -- dataset.json -----------------------------------------------------------------------------------------------------


def test_the_dataset_file_states_exclusive_classes_and_regions(tmp_path):
    put_case(tmp_path / "c0", LEVELS)
    state(tmp_path, labels={"background": 0, "the ring": 1, "cup": 2})
    dataset = opened(tmp_path)
    assert dataset.classes.names == ("the ring", "cup") and dataset.classes.exclusive
    np.testing.assert_array_equal(masks_in(dataset), list(zip(RINGS, CUPS, strict=True)))
    state(tmp_path, labels={"background": 0, "disc": [1, 2], "cup": [2]}, regions_class_order=[1, 2])
    dataset = opened(tmp_path)
    assert not dataset.classes.exclusive and dataset.classes.values == (1, 2)
    np.testing.assert_array_equal(masks_in(dataset), list(zip(DISCS, CUPS, strict=True)))
    np.testing.assert_array_equal(masks_in(opened(tmp_path, structure="disc")), DISCS)
    np.testing.assert_array_equal(masks_in(opened(tmp_path, structure="cup")), CUPS)
    np.testing.assert_array_equal(masks_in(opened(tmp_path, merge_labels=True)), DISCS)
    dataset = opened(tmp_path, classes=("cup", "disc"))  # in the order of the flag
    np.testing.assert_array_equal(masks_in(dataset), list(zip(CUPS, DISCS, strict=True)))
    assert_says(refusal(tmp_path, classes=("cup", "macula")), "dataset.json", "disc, cup", "cup, macula")


def test_a_region_is_taken_whatever_the_levels_beside_it(tmp_path):
    put_case(tmp_path / "c0", [np.where(SPOT, 3, label).astype(np.uint8) for label in LEVELS])
    state(tmp_path, labels={"background": 0, "disc": [1, 2], "cup": 2, "spot": 3})
    np.testing.assert_array_equal(masks_in(opened(tmp_path, structure="disc")), DISCS)
    np.testing.assert_array_equal(masks_in(opened(tmp_path, structure="1+3")), [ring | SPOT for ring in RINGS])


def test_background_and_ignored_level_of_the_dataset_file(tmp_path):
    label = np.array([3, 1, 2], np.uint8)[classes()]
    label[:2] = 4
    put_case(tmp_path / "c0", [label])
    labels = {"background": 3, "disc": 1, "spot": 2, "ignore": 4}
    state(tmp_path, labels=labels)
    dataset = opened(tmp_path)
    np.testing.assert_array_equal(masks_in(dataset), [[DISCS[0], SPOT]])
    assert dataset.own_arrays(0).ignored.sum() == 2 * 64
    merged = opened(tmp_path, structure="spot")
    np.testing.assert_array_equal(masks_in(merged), [SPOT])
    assert merged.own_arrays(0).ignored.sum() == 2 * 64


@pytest.mark.parametrize("name", ["a,b", "a=b", "a+b"])
def test_names_that_the_flag_cannot_express_are_refused(name, tmp_path):
    put_case(tmp_path / "c0", [classes()])
    state(tmp_path, labels={name: 1, "c": 2})
    text = refusal(tmp_path)
    assert len(text.splitlines()) == 1 and "dataset.json: labels" in text


def test_files_of_nnunet_are_read_as_they_are(tmp_path):
    """The labels of BraTS, as nnU-Net writes them."""
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
        "regions_class_order": [1, 2, 3],
        "numTraining": 1,
        "file_ending": ".png",
    }
    inner = disc(2)
    put_case(tmp_path / "training" / "c0", [LEVELS[0] + inner])
    state(tmp_path, **content)
    dataset = opened(tmp_path / "training")
    assert dataset.classes.names == ("whole tumor", "tumor core", "enhancing tumor")
    np.testing.assert_array_equal(masks_in(dataset), [[DISCS[0], CUPS[0], inner]])
    assert call_script("check_data", tmp_path).returncode == 0


# -- files per structure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [None, {"disc": 1, "cup": 2}, {"disc": [1, 2], "cup": 2}])
def test_files_per_structure_are_regions(stated, tmp_path):
    put_structures(tmp_path / "c0")
    if stated:
        state(tmp_path, labels={"background": 0, **stated})
    dataset = opened(tmp_path) if stated else opened(tmp_path, classes=("disc", "cup"))
    assert dataset.classes.from_files and not dataset.classes.exclusive
    np.testing.assert_array_equal(masks_in(dataset), list(zip(DISCS, CUPS, strict=True)))
    np.testing.assert_array_equal(masks_in(opened(tmp_path, structure="cup")), CUPS)
    assert call_script("check_data", tmp_path, *([] if stated else ["--classes=disc,cup"])).returncode == 0
    if not stated:
        assert_says(refusal(tmp_path), "two labels of rater 0", "--classes", "--structure")


@pytest.mark.parametrize("flags", [{"classes": ("disc", "cup")}, {"structure": "cup"}])
def test_a_missing_structure_is_refused_skipped_or_empty(flags, tmp_path):
    put_structures(tmp_path / "c0", without=[("cup", 1)])
    text = refusal(tmp_path, **flags)
    assert_says(text, "rater 1 has no label1_cup", "--missing empty", "--missing skip")
    masks = [*zip(DISCS, CUPS, strict=True)] if "classes" in flags else CUPS
    empty = (DISCS[1], CUPS[1] & False) if "classes" in flags else CUPS[1] & False
    np.testing.assert_array_equal(masks_in(opened(tmp_path, missing="skip", **flags)), [masks[0], masks[2]])
    np.testing.assert_array_equal(masks_in(opened(tmp_path, missing="empty", **flags)), [masks[0], empty, masks[2]])


def test_cases_without_any_structure_can_be_skipped(tmp_path):
    put_structures(tmp_path / "c0")
    put(tmp_path / "c1" / "image.png", GREY)
    put(tmp_path / "c1" / "label0_vessel.png", white(DISCS[0]))
    for flags in ({"classes": ("disc", "cup")}, {"structure": "cup"}):
        assert "no label" in refusal(tmp_path, **flags)
        assert opened(tmp_path, skip_unlabelled=True, **flags).ids == ["c0"]


def test_ignored_pixels_are_those_of_any_rater_and_structure(tmp_path):
    put_structures(tmp_path / "c0", change=lambda mask: mask.astype(np.uint8))
    ignored = np.zeros((64, 64), bool)
    for k, name in ((0, "disc"), (2, "cup")):
        ignored[20 + k, 30:50] = True
        label = (DISCS if name == "disc" else CUPS)[k].astype(np.uint8)
        label[20 + k, 30:50] = 9
        put(tmp_path / "c0" / f"label{k}_{name}.png", label)
    dataset = opened(tmp_path, classes=("disc", "cup"), ignore_label=9)
    np.testing.assert_array_equal(dataset.own_arrays(0).ignored, ignored)
    expected = np.array(list(zip(DISCS, CUPS, strict=True))) & ~ignored
    np.testing.assert_array_equal(masks_in(dataset), expected)


def test_an_ignored_level_beside_two_others_makes_no_third(tmp_path):
    """Of levels 1 and 2, the upper one is foreground, also where a file has ignored pixels."""
    label = DISCS[0].astype(np.uint8) + 1
    label[:2] = 7
    put_case(tmp_path / "c0", [label, np.full((64, 64), 7, np.uint8)])
    np.testing.assert_array_equal(masks_in(opened(tmp_path, ignore_label=7)), [DISCS[0] & False] * 2)
    put_case(tmp_path / "c0", [label])
    (tmp_path / "c0" / "label1_.png").unlink()
    np.testing.assert_array_equal(masks_in(opened(tmp_path, ignore_label=7)), [DISCS[0]])


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, flags",
    [
        ("levels", ["--classes=ring,cup"]),
        ("levels", ["--classes=disc=1+2,cup=2", "--ignore_label=9"]),
        ("files", ["--classes=disc,cup", "--missing=skip"]),
        ("stated", []),
        ("one", []),
    ],
)
def test_packed_cases_are_those_of_the_folder(kind, flags, tmp_path):
    label = LEVELS[1].copy()
    label[:1] = 9 if kind in ("stated", "one") or "--ignore_label=9" in flags else 0
    if kind == "files":
        put_structures(tmp_path / "x" / "c0", without=[("cup", 1)])
        put_structures(tmp_path / "x" / "c1")
    else:
        put_case(tmp_path / "x" / "c0", [LEVELS[0], label] if kind != "one" else [np.where(label == 2, 1, label)])
        put_case(tmp_path / "x" / "c1", LEVELS if kind != "one" else [DISCS[0].astype(np.uint8)])
    if kind in ("stated", "one"):
        labels = {"ring": 1, "cup": 2} if kind == "stated" else {"lesion": 1}
        state(tmp_path / "x", labels={"background": 0, **labels, "ignore": 9})
    done = call_script("pack_data", f"--data_dir={tmp_path}/x", f"--out={tmp_path}/packed", *flags)
    assert done.returncode == 0, done.stderr
    typed = dict(flag[2:].split("=", 1) for flag in flags)
    config = DataConfig(
        classes=tuple(typed["classes"].split(",")) if "classes" in typed else (),
        ignore_label=int(typed["ignore_label"]) if "ignore_label" in typed else None,
        missing=typed.get("missing", "refuse"),
    )
    folder = LIDCDataset(tmp_path / "x", 48, None, config)
    packed = LIDCDataset(tmp_path / "packed" / "x.pack", 48, None, config)
    cached = LIDCDataset(tmp_path / "x", 48, None, config, cache_dir=tmp_path / "cache")
    again = LIDCDataset(tmp_path / "x", 48, None, config, cache_dir=tmp_path / "cache")
    for other in (packed, cached, again):
        assert other.ids == folder.ids and other.classes == folder.classes
        for k in range(2):
            np.testing.assert_array_equal(masks_in(other, k), masks_in(folder, k))
            np.testing.assert_array_equal(other[k].image, folder[k].image)
        if other is packed:  # at the cases' own size
            for k in range(2):
                np.testing.assert_array_equal(other.own_arrays(k).raters, folder.own_arrays(k).raters)
                np.testing.assert_array_equal(other.own_arrays(k).ignored, folder.own_arrays(k).ignored)


def test_the_cache_tells_classes_apart(tmp_path):
    put_case(tmp_path / "x" / "c0", LEVELS)
    found = [
        LIDCDataset(tmp_path / "x", None, None, DataConfig(**flags), cache_dir=tmp_path / "cache")
        for flags in (
            {"classes": ("ring", "cup")},
            {"classes": ("disc=1+2", "cup=2")},
            {"classes": ("cup=2", "ring=1")},
            {"merge_labels": True},
            {"merge_labels": True, "ignore_label": 2},
        )
    ]
    assert len({dataset.fingerprint for dataset in found}) == len(found)
    assert [dataset[0].raters.ndim for dataset in found] == [4, 4, 4, 3, 3]
    assert masks_in(found[4]).sum() == sum((outer & ~CUPS[0]).sum() for outer in DISCS)  # the union of the cups


@pytest.mark.parametrize("packed", [False, True])
def test_unlabelled_cases_have_no_raters_of_k_classes(packed, tmp_path):
    put(tmp_path / "x" / "c0" / "image.png", GREY)
    put_case(tmp_path / "x" / "c1", LEVELS)
    config = DataConfig(classes=("ring", "cup"))
    cache = {"cache_dir": tmp_path / "cache"} if packed else {}
    dataset = LIDCDataset(tmp_path / "x", 32, None, config, require_raters=False, **cache)
    assert [tuple(dataset[k].raters.shape) for k in range(2)] == [(0, 2, 32, 32), (3, 2, 32, 32)]
    assert dataset.own_arrays(0).raters.shape == (0, 2, 64, 64)


# -- sizes ------------------------------------------------------------------------------------------------------------


def areas_of(masks, size):
    """Pixels of each mask [K, H, W] within each pixel of `size` (H, W), in full precision, by a loop."""
    (h, w), (H, W) = masks.shape[1:], size
    rows = np.array([[max(0, min((i + 1) * h / H, y + 1) - max(i * h / H, y)) for y in range(h)] for i in range(H)])
    columns = np.array([[max(0, min((j + 1) * w / W, x + 1) - max(j * w / W, x)) for x in range(w)] for j in range(W)])
    return rows @ masks.astype(float) @ columns.T


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (96, 96), (50, 20)])
def test_touching_classes_have_no_holes_between_them(size, tmp_path):
    """Three sectors that fill the image: each pixel keeps the class with the largest part of its area."""
    rows, columns = np.mgrid[:64, :64] - 31.3
    angle = np.arctan2(rows, columns)
    label = (1 + (angle > -1) + (angle > 1.2)).astype(np.uint8)
    put_case(tmp_path / "c0", [label])
    (masks,) = masks_in(opened(tmp_path, size=size, classes=("a", "b", "c")))
    assert (masks.sum(axis=0) == 1).all()
    areas = areas_of(label == np.arange(1, 4)[:, None, None], size)
    first, second = np.sort(areas, axis=0)[:-3:-1]
    clear = first - second > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(masks.argmax(axis=0)[clear], areas.argmax(axis=0)[clear])


def test_holes_would_appear_class_by_class(tmp_path):
    """At a point where three classes meet, no one of them has half of the pixel."""
    label = np.ones((64, 64), np.uint8)
    label[:, 1::3], label[:, 2::3] = 2, 3
    put_case(tmp_path / "c0", [label])
    (masks,) = masks_in(opened(tmp_path, size=16, classes=("a", "b", "c")))
    areas = areas_of(label == np.arange(1, 4)[:, None, None], (16, 16))
    assert (masks.sum(axis=0) == 1).all() and (areas <= 8).all()  # of 16


def test_small_lesions_keep_a_pixel_of_their_class_and_are_counted(tmp_path):
    label = np.zeros((128, 128), np.uint8)
    label[20:22, 40:42], label[90:92, 10:12], label[60:120, 60:120] = 1, 2, 2
    put_case(tmp_path / "c0", [label], image=np.kron(GREY, np.ones((2, 2), np.uint8)))
    dataset = opened(tmp_path, size=16, classes=("a", "b"))
    (masks,) = masks_in(dataset)
    assert masks[0].sum() == 1 and masks[0, 2, 5] and masks[1, 11, 1]
    assert (masks.sum(axis=0) <= 1).all()
    assert any(note.startswith("2 lesions in 1 case would vanish") for note in dataset.notes)


def test_nested_regions_stay_nested(tmp_path):
    put_structures(tmp_path / "c0")
    for size in (7, 16, 40):
        masks = masks_in(opened(tmp_path, size=size, classes=("disc", "cup")))
        assert masks[:, 1].any(axis=(1, 2)).all() and not (masks[:, 1] & ~masks[:, 0]).any()


def test_padding_and_other_sizes(tmp_path):
    wide = np.pad(LEVELS[0], [(0, 0), (0, 32)])
    put_case(tmp_path / "c0", [wide], image=np.pad(GREY, [(0, 0), (0, 32)]))
    put_case(tmp_path / "c1", [LEVELS[0]])
    dataset = opened(tmp_path, size=96, pad=True, classes=("ring", "cup"))
    for k, (top, left) in enumerate([(16, 0), (16, 16)]):
        (masks,) = masks_in(dataset, k)
        np.testing.assert_array_equal(masks[:, top : top + 64, left : left + 64], [RINGS[0], CUPS[0]])
        assert masks.sum() == DISCS[0].sum()
        assert dataset.own_arrays(k).raters.shape[-2:] == ((64, 96), (64, 64))[k]


# -- resizing ---------------------------------------------------------------------------------------------------------


def test_a_class_does_not_take_the_last_pixel_of_another():
    masks = np.zeros((1, 2, 64, 64), dtype=bool)
    masks[0, 0, 8:14, 8:14], masks[0, 1, 10:13, 10:13] = True, True
    masks[0, 0] &= ~masks[0, 1]  # a rim of 27 pixels around a core of 9, in one pixel of the network
    resized, vanishing = resize_classes(masks, (8, 8), exclusive=True)
    assert resized[0, 0, 1, 1] and not resized[0, 1].any() and vanishing == (1, 1)


def test_a_small_lesion_keeps_its_next_pixel_if_another_class_needs_the_first():
    masks = np.zeros((1, 2, 16, 16), dtype=bool)
    masks[0, 0, 0:4, 0:3], masks[0, 1, 0:1, 3:6] = True, True  # the second covers 1 of 16 and 2 of 16 pixels
    resized, vanishing = resize_classes(masks, (4, 4), exclusive=True)
    assert resized[0, 0, 0, 0] and resized[0, 1, 0, 1] and vanishing == (1, 0)


def test_nested_regions_remain_nested():
    masks = np.zeros((2, 2, 64, 64), dtype=bool)
    masks[:, 0, 20:44, 20:44], masks[:, 1, 43:44, 40:44] = True, True
    resized, _ = resize_classes(masks, (8, 8), exclusive=False)
    assert resized[:, 1].any() and not (resized[:, 1] & ~resized[:, 0]).any()


def test_a_pixel_that_overlaps_an_ignored_one_is_ignored():
    ignored = np.zeros((16, 16), dtype=bool)
    ignored[3, 5] = True
    np.testing.assert_array_equal(np.argwhere(resize_ignored(ignored, (4, 4))), [[0, 1]])
    np.testing.assert_array_equal(resize_ignored(ignored, (16, 16)), ignored)


def test_jpeg_of_a_white_background_is_not_read_in_ascending_order(tmp_path):
    put(tmp_path / "a" / "image.png", GREY)
    levels = np.full((64, 64), 255, dtype=np.uint8)
    levels[16:48, 16:48], levels[24:40, 24:40] = 128, 0
    Image.fromarray(levels).save(tmp_path / "a" / "label0_.jpg", quality=95)
    with pytest.raises(DataError, match="the most frequent"):
        LIDCDataset(tmp_path, config=DataConfig(classes=("disc", "cup")))


def test_levels_that_dataset_json_states_are_not_reinterpreted(tmp_path):
    put(tmp_path / "a" / "image.png", GREY)
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[16:48, 16:48], levels[24:40, 24:40] = 1, 3
    put(tmp_path / "a" / "label0_.png", levels)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "tumour": 2}}')
    with pytest.raises(DataError, match="the level 3 beyond"):
        LIDCDataset(tmp_path)


def test_one_class_with_files_of_its_own_has_no_axis_of_classes(tmp_path):
    put(tmp_path / "a" / "image.png", GREY)
    for name in ("cup", "disc"):
        put(tmp_path / "a" / f"label0_{name}.png", np.where(np.eye(64), 255, 0).astype(np.uint8))
    assert LIDCDataset(tmp_path, config=DataConfig(classes=("cup",)))[0].raters.shape == (1, 64, 64)
