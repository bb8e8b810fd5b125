"""Phantoms with several classes: raters follow the truth, pairs are dependent, and images show what they should."""

import json

import numpy as np
import pytest
from helpers import ROOT, assert_refused, call_script
from PIL import Image
from scipy import ndimage, stats

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.files.dataset_json import read_dataset_file
from guided_diffusion.flags.classes import parse_classes
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.class_pictures import colours_of
from guided_diffusion.prepare.phantoms import flips, fundus, label_maps

MAKERS = {"fundus": fundus.make_fundus, "flips": flips.make_flips}
KINDS = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def images_of(folder):
    """{case: (image, raters)} of a folder, as they are stored, with the modes of truth.json."""
    cases = json.loads((folder / "truth.json").read_text())["cases"]
    for name, case in cases.items():
        raters = [
            np.asarray(Image.open(path)) for path in sorted((folder / name).glob("label*_.png"), key=lambda p: p.name)
        ]
        modes = {mode: np.asarray(Image.open(folder / entry["mask"])) for mode, entry in case["modes"].items()}
        yield Image.open(folder / name / f"image_{name}.png"), raters, modes, case


@KINDS
def test_deterministic_in_its_seed_and_different_in_every_case(make):
    a, again = make(1, 2), make(1, 2)
    np.testing.assert_array_equal(a.image, again.image)
    np.testing.assert_array_equal(a.raters, again.raters)
    assert a.probabilities == again.probabilities and a.drawn == again.drawn
    for other in (make(1, 3), make(2, 2)):
        assert not np.allclose(a.image, other.image)


@KINDS
def test_a_case_is_the_same_at_another_size(make):
    small, large = make(1, 0), make(1, 0, (128, 128))
    assert small.probabilities == large.probabilities and small.drawn == large.drawn
    for name, label in small.modes.items():
        assert abs(label.astype(bool).mean() - large.modes[name].astype(bool).mean()) < 0.02
    blurred = ndimage.gaussian_filter(large.image, (1, 1, 0))[::2, ::2]
    assert np.corrcoef(small.image.ravel(), blurred.ravel())[0, 1] > 0.9


@KINDS
def test_raters_follow_the_stated_probabilities(make):
    """In each case, by a chi-square test over many raters; and in all, the totals of few raters of many cases."""
    values = []
    for index in range(8):
        made = make(9, index, (16, 16), num_raters=4000)
        assert sum(made.probabilities.values()) == pytest.approx(1, abs=1e-12) and min(made.probabilities.values()) >= 0
        possible = {name: p for name, p in made.probabilities.items() if p > 0}
        assert set(made.drawn) <= set(possible)
        if len(possible) > 1:
            observed, expected = [made.drawn.count(name) for name in possible], 4000 * np.array([*possible.values()])
            values.append(stats.chisquare(observed, expected * 4000 / expected.sum()).pvalue)
    assert min(values) > 1e-3 and len(values) >= 4

    cases = [make(10, index, (16, 16), num_raters=6) for index in range(300)]
    for name in {name for case in cases for name in case.modes}:
        p = np.array([case.probabilities.get(name, 0) for case in cases])
        count = sum(case.drawn.count(name) for case in cases)
        assert abs(count - 6 * p.sum()) <= 4.5 * np.sqrt(6 * (p * (1 - p)).sum()) + 1


# -- fundus -----------------------------------------------------------------------------------------------------------


def test_pairs_have_the_marginals_at_any_strength_and_are_ordered_at_the_largest():
    cups = [0.5, 0.2, 0.3]
    for strength in (0, 0.4, 1):
        pairs = fundus.pair_probabilities(0.4, cups, strength)
        np.testing.assert_allclose(pairs.sum(axis=0), cups)
        np.testing.assert_allclose(pairs.sum(axis=1), [0.6, 0.4])
    np.testing.assert_allclose(fundus.pair_probabilities(0.4, cups, 0), np.outer([0.6, 0.4], cups))
    np.testing.assert_allclose(fundus.pair_probabilities(0.4, cups, 1), [[0.5, 0.1, 0], [0, 0.1, 0.3]], atol=1e-12)
    np.testing.assert_allclose(fundus.pair_probabilities(0, cups, 0.7), [cups, [0, 0, 0]], atol=1e-12)


def test_pairs_are_not_products_of_their_marginals():
    """In the cases with a ring, and such that a wide disc has a larger cup more often."""
    distances = []
    for index in range(100):
        pairs = np.reshape([*fundus.make_fundus(3, index, (16, 16)).probabilities.values()], (2, 3))
        wide = pairs[1].sum()
        if wide == 0:
            continue
        distances.append(np.abs(pairs - np.outer(pairs.sum(axis=1), pairs.sum(axis=0))).sum() / 2)
        assert pairs[1, 2] / wide > pairs[0, 2] / (1 - wide) and pairs[1, 0] / wide < pairs[0, 0] / (1 - wide)
    assert 60 <= len(distances) <= 90 and np.mean(distances) > 0.2 and min(distances) > 0.03


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 96)])
def test_cups_are_inside_of_discs_and_all_modes_differ(size):
    for index in range(20):
        modes = fundus.make_fundus(6, index, size).modes
        assert list(modes) == [f"{disc}+{cup}" for disc in fundus.DISCS for cup in fundus.CUPS]
        for disc in fundus.DISCS:
            whole = [modes[f"{disc}+{cup}"] > 0 for cup in fundus.CUPS]
            assert (whole[0] == whole[1]).all() and (whole[0] == whole[2]).all()
            cups = [modes[f"{disc}+{cup}"] == 2 for cup in fundus.CUPS]
            for inner, outer in zip(cups, [*cups[1:], whole[0]], strict=True):
                assert inner.any() and (inner <= outer).all() and inner.sum() < 0.9 * outer.sum()
        for cup in fundus.CUPS:
            tight, wide = modes[f"tight+{cup}"], modes[f"wide+{cup}"]
            assert ((tight == 2) == (wide == 2)).all() and ((tight > 0) <= (wide > 0)).all()
            assert 1.2 < (wide > 0).sum() / (tight > 0).sum() < 2.2
        for label in modes.values():
            assert set(np.unique(label)) == {0, 1, 2} and ndimage.label(label == 2)[1] == 1
            assert not label[[0, -1]].any() and not label[:, [0, -1]].any()


def test_the_image_shows_the_probabilities():
    """The ring that of a wide disc, zones of the cup those of larger cups, the vessels the dependence."""
    shown = {"wide": [], "large": [], "not small": [], "strength": []}
    known = {name: [] for name in shown}
    for index in range(80):
        made, chances = fundus.make_fundus(4, index), fundus.draw_chances(np.random.default_rng((4, index)))
        disc, ring = made.modes["tight+small"] > 0, made.modes["wide+small"] > 0
        small, medium, large = (made.modes[f"tight+{cup}"] == 2 for cup in fundus.CUPS)
        red, green, blue = np.moveaxis(made.image, -1, 0)
        rim = np.median(blue[disc & ~large])
        shown["wide"].append(green[ring & ~disc].mean() - green[~ring].mean())
        shown["large"].append(np.median(blue[large & ~medium]) - rim)
        shown["not small"].append(np.median(blue[medium & ~small]) - rim)
        shown["strength"].append((red - ndimage.gaussian_filter(red, 3))[~ring].std())
        p = made.probabilities
        known["wide"].append(sum(p[f"wide+{cup}"] for cup in fundus.CUPS))
        known["large"].append(p["tight+large"] + p["wide+large"])
        known["not small"].append(1 - p["tight+small"] - p["wide+small"])
        known["strength"].append(chances.strength)
    found = {name: np.corrcoef(shown[name], known[name])[0, 1] for name in shown}
    assert found["wide"] > 0.95 and found["large"] > 0.85 and found["not small"] > 0.8 and found["strength"] < -0.9


def test_vessels_meet_on_the_disc_and_the_picture_is_orange_red_with_a_pale_disc():
    for index in range(10):
        vessels = fundus.draw_vessels(np.random.default_rng(index), 1)
        assert len(vessels) == 24 and sum(np.hypot(*vessel.points[0]) < 0.1 for vessel in vessels) >= 8
        made = fundus.make_fundus(2, index)
        label = made.modes["wide+large"]
        red, green, blue = np.median(made.image[label == 0], axis=0)
        assert red > 1.7 * green > 2.5 * blue > 0
        assert made.image[made.modes["tight+small"] == 1].mean() > made.image[label == 0].mean() + 0.15


# -- flips ------------------------------------------------------------------------------------------------------------


def test_classes_are_pairs_and_then_those_that_never_flip():
    assert flips.class_names(2) == ["square", "square2"]
    assert flips.class_names(5) == ["square", "square2", "disc", "disc2", "triangle"]
    assert [len(set(flips.class_names(count))) for count in range(2, 20)] == [*range(2, 20)]
    assert flips.flip_probabilities(19) == {
        name: p / 17 for name, p in zip(("square", "disc", "triangle", "star", "cross"), (8, 7, 6, 5, 4), strict=True)
    }
    assert flips.class_names(19)[:10] == flips.class_names(10) and not any(
        name.endswith("2") for name in flips.class_names(19)[10:]
    )


@pytest.mark.parametrize("count", [2, 5, 10, 19])
def test_modes_are_the_combinations_of_the_flips_in_the_image(count):
    names, p = ["background", *flips.class_names(count)], flips.flip_probabilities(count)
    seen = set()
    for index in range(24):
        made = flips.make_flips(5, index, (64, 128), num_classes=count)
        first = next(iter(made.modes.values()))
        present = {names[k] for k in np.unique(first)}
        seen |= {names[k] for label in made.modes.values() for k in np.unique(label)}
        flippable = present & set(p)
        assert len(made.modes) == 2 ** len(flippable) == len({label.tobytes() for label in made.modes.values()})
        for mode, label in made.modes.items():
            answers = mode.split("+") if flippable else []
            expected = [1 - p[name] if name in p else p[name.removesuffix("2")] for name in answers]
            assert made.probabilities[mode] == pytest.approx(np.prod(expected))
            assert {names[k] for k in np.unique(label)} == {"background", *answers} | (present - flippable)
            assert ((label == 0) == (first == 0)).all()
            fixed = np.isin(first, [k for k, name in enumerate(names) if name not in p])
            np.testing.assert_array_equal(label[fixed], first[fixed])
    assert seen == set(names)


def test_the_image_shows_the_kind_and_not_the_flip():
    """Colours are as far apart as a classifier of the kinds needs, and do not depend on what the raters choose."""
    means, flipped, shades = {}, [], []
    for index in range(40):
        made = flips.make_flips(7, index, (64, 64), num_classes=19)
        first = next(iter(made.modes.values()))
        for k in np.unique(first):
            inside = ndimage.binary_erosion(first == k)
            if inside.any():
                means.setdefault(int(k), []).append(np.median(made.image[inside], axis=0))
        for name, p in flips.flip_probabilities(19).items():
            label = flips.class_names(19).index(name) + 1
            if (first == label).any():
                flipped.append(sum(f"{name}2" in drawn.split("+") for drawn in made.drawn) - 8 * p)
                shades.append(made.image[first == label].mean() - flips.colour_of((label - 1) // 2).mean())
    centres = {k: np.mean(colours, axis=0) for k, colours in means.items()}
    assert len(centres) == 15
    numbers, table = list(centres), np.stack(list(centres.values()))
    for k, colours in means.items():
        nearest = np.linalg.norm(table - np.stack(colours)[:, None], axis=-1).argmin(axis=1)
        assert np.mean([numbers[n] == k for n in nearest]) > 0.9
    assert abs(np.corrcoef(flipped, shades)[0, 1]) < 4 / np.sqrt(len(shades)) < 0.4


def test_objects_do_not_overlap_and_none_is_empty():
    for size in ((16, 16), (64, 64), (64, 128), (50, 33)):
        for index in range(20):
            objects = flips.place_objects(np.random.default_rng(index), size, 14)
            assert all(thing.mask.any() for thing in objects)
            assert len({thing.kind for thing in objects}) >= 7
            assert np.sum([thing.mask for thing in objects], axis=0).max() == 1


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, shape, raters, classes",
    [
        (["--kind=fundus"], (64, 64), 6, ["disc", "cup"]),
        (["--kind=fundus", "--size=32,48", "--raters=3"], (32, 48), 3, ["disc", "cup"]),
        (["--kind=flips"], (64, 64), 8, flips.class_names(10)),
        (["--kind=flips", "--size=64,128", "--num_classes=19", "--raters=2"], (64, 128), 2, flips.class_names(19)),
    ],
)
def test_files(tmp_path, flags, shape, raters, classes):
    out = tmp_path / "set"
    done = call_script("make_phantom", f"--out={out}", "--num_cases=3", "--seed=7", *flags)
    assert done.returncode == 0, done.stderr
    assert read_dataset_file(str(out)).labels == {name: (k,) for k, name in enumerate(classes, 1)}
    truth = json.loads((out / "truth.json").read_text())
    assert truth["size"] == (list(shape) if shape[0] != shape[1] else shape[0]) and truth["raters"] == raters
    assert ("flips" in truth) == ("--kind=flips" in flags)
    for image, labels, modes, case in images_of(out):
        assert image.mode == "RGB" and np.asarray(image).shape == (*shape, 3) and len(labels) == raters
        assert sum(entry["probability"] for entry in case["modes"].values()) == pytest.approx(1, abs=1e-4)
        for label, name in zip(labels, case["drawn"], strict=True):
            assert label.dtype == np.uint8 and label.max() <= len(classes)
            np.testing.assert_array_equal(label, modes[name])
    again = tmp_path / "again"
    call_script("make_phantom", f"--out={again}", "--num_cases=3", "--seed=7", *flags)
    for path in out.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()


def test_labels_have_a_colour_per_class(tmp_path):
    colours, classes = (
        colours_of(label_maps.MAX_CLASSES),
        parse_classes([f"c{k}" for k in range(label_maps.MAX_CLASSES)]),
    )
    assert len({(0, 0, 0), *colours}) == label_maps.MAX_CLASSES + 1
    label_maps.save_label(str(tmp_path / "x.png"), np.arange(20, dtype=np.uint8).reshape(4, 5), classes)
    content = (tmp_path / "x.png").read_bytes()
    assert content[24] == 8 and content[25] == 3  # bits, and the colour type of palettes
    picture = Image.open(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(picture).ravel(), np.arange(20))
    assert [tuple(rgb) for rgb in np.asarray(picture.convert("RGB")).reshape(-1, 3)] == [(0, 0, 0), *colours]


def test_the_reader_takes_one_structure(tmp_path):
    call_script("make_phantom", f"--out={tmp_path / 'set'}", "--num_cases=2", "--kind=fundus", "--size=32")
    dataset = LIDCDataset(tmp_path / "set", 32, 3, config=DataConfig(structure="cup"))
    for index, (_, labels, _, _) in enumerate(images_of(tmp_path / "set")):
        np.testing.assert_array_equal(dataset[index].raters.numpy() > 0, np.stack(labels) == 2)


def test_nodules_are_those_that_ship(tmp_path):
    """The default kind, size and number of raters, file by file: the first cases of data/testing."""
    assert call_script("make_phantom", f"--out={tmp_path / 'x'}", "--num_cases=2", "--seed=2").returncode == 0
    shipped = json.loads((ROOT / "data" / "testing" / "truth.json").read_text())
    made = json.loads((tmp_path / "x" / "truth.json").read_text())
    assert made == {**shipped, "cases": {name: shipped["cases"][name] for name in ("phantom0000", "phantom0001")}}
    files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
    assert len(files) == 1 + 2 * (1 + 8 + 4)
    for path in files:
        if path.suffix == ".png":
            ours, theirs = Image.open(path), Image.open(ROOT / "data" / "testing" / path.relative_to(tmp_path / "x"))
            assert ours.mode == theirs.mode
            assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= (ours.mode == "L")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--kind=rocks"], ["--kind rocks", "fundus"]),
        (["--num_classes=4"], ["--num_classes 4", "--kind nodules"]),
        (["--kind=fundus", "--num_classes=4"], ["--num_classes 4", "--kind fundus"]),
        (["--kind=flips", "--num_classes=20"], ["--num_classes 20", "from 2 to 19"]),
        (["--kind=flips", "--num_classes=1"], ["--num_classes 1", "from 2 to 19"]),
        (["--kind=flips", "--format=lidc"], ["--format lidc", "--kind flips"]),
        (["--kind=fundus", "--modes=absent"], ["--modes absent", "--kind fundus"]),
        (["--kind=fundus", "--nodules=2"], ["--nodules 2", "--kind fundus"]),
        (["--kind=fundus", "--modalities=2"], ["--modalities 2", "--kind fundus"]),
        (["--kind=flips", "--probabilities=1"], ["--probabilities 1", "--kind flips"]),
        (["--size=64,96"], ["--size 64,96", "square"]),
        (["--kind=fundus", "--size=64,8"], ["--size 64,8", "at least 16"]),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, words):
    assert_refused(call_script("make_phantom", f"--out={tmp_path / 'x'}", *flags), *words)
    assert not (tmp_path / "x").exists()
