"""The version of the reading rules: what differs from version 1, in folders, caches and packed files."""

import nibabel
import numpy as np
import pytest
import tifffile
from helpers import ROOT
from PIL import Image

from guided_diffusion.data.case_reader import READING_RULES
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.flags.retired import current_flags
from guided_diffusion.lidcloader import LIDCDataset

FORMER = ROOT / "tests" / "fixtures" / "version_0_1"
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
MASK = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8)) * 255


@pytest.fixture
def folder(tmp_path):
    """A folder of one grey case."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.fromarray(GREY).save(tmp_path / "data" / "a" / "image_a.png")
    Image.fromarray(MASK).save(tmp_path / "data" / "a" / "label0_.png")
    return tmp_path / "data"


def colour(folder):
    Image.fromarray(np.dstack([GREY, GREY.T, GREY])).save(folder / "a" / "image_a.png")


def exif(folder):
    tags = Image.Exif()
    tags[274] = 3
    Image.fromarray(MASK).save(folder / "a" / "label0_.png", exif=tags)


def palette(folder):
    picture = Image.fromarray(MASK // 255).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(folder / "a" / "label0_.png")


def levels(folder):
    Image.fromarray(MASK // 255 + 1).save(folder / "a" / "label0_.png")


def alpha(folder):
    Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)])).save(folder / "a" / "image_a.png")


def turned(folder):
    for name, array, x in (("image", GREY, 1.0), ("label0_", MASK, -1.0)):
        affine = np.diag([x, 1, 1, 1])
        affine[0, 3] = 0 if x > 0 else 15
        nibabel.save(nibabel.Nifti1Image(array.T, affine), folder / "a" / f"{name}.nii.gz")
    (folder / "a" / "image_a.png").unlink()
    (folder / "a" / "label0_.png").unlink()


@pytest.mark.parametrize(
    "change, flags, word",
    [
        (None, {}, None),
        (colour, {"image_channels": "auto"}, "colour"),
        (colour, {"config": DataConfig(grey=True)}, None),
        (exif, {}, "EXIF"),
        (palette, {}, "palettes"),
        (levels, {}, "levels"),
        (alpha, {}, "alpha"),
        (turned, {}, "NIfTI"),
        (None, {"image_size": 8}, "resized"),
        (None, {"image_size": 16}, None),
        (None, {"config": DataConfig(intensity_range=(0, 100))}, "--intensity_range"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_what_version_1_read_differently_is_known(folder, tmp_path, change, flags, word, cached):
    if change:
        change(folder)
    cache = tmp_path / "cache" if cached else None
    for _ in range(1 + cached):  # decoded, then from the cache
        data = LIDCDataset(folder, **flags, cache_dir=cache)
        assert data.reading == READING_RULES
        assert [word in phrase for phrase in data.departures] == ([True] if word else [])


def test_cases_of_version_1_are_known_by_their_former_fingerprint(tmp_path):
    data = LIDCDataset(FORMER / "cases", None, None, cache_dir=tmp_path)
    assert data.fingerprint != data.former_fingerprint() == LIDCDataset(FORMER / "cases.pack").fingerprint


def test_a_packed_file_keeps_what_is_known_of_its_cases(folder, tmp_path):
    colour(folder)
    path = tmp_path / "x.pack"
    pack_folder(str(folder), str(path))
    packed = LIDCDataset(path, image_channels="auto")
    assert packed.num_planes == 3 and packed.colour and packed[0].colour and packed.departures
    with pytest.raises(DataError, match=r"3 planes, but --image_channels 4: add --image_channels 3, or auto"):
        LIDCDataset(path)


def test_a_packed_file_of_version_1_is_read_as_it_was_and_reported():
    data = LIDCDataset(FORMER / "cases.pack", 16, 1)
    assert data.reading == 1 and any("version 1 of the reading rules" in note for note in data.notes)
    resized = LIDCDataset(FORMER / "cases.pack", 8, 1)
    assert resized.reading == READING_RULES and resized.departures == ["masks are resized by area"]


def test_a_stored_threshold_of_half_was_the_rule_for_jpeg():
    assert current_flags({"label_threshold": 0.5, "pad": True}) == {
        "label_threshold": None, "pad": True, "grey": False, "structure": "",
    }  # fmt: skip
    assert current_flags({"label_threshold": 0.3})["label_threshold"] == 0.3
    now = {"label_threshold": 0.5, "grey": False}
    assert current_flags(now) == now
    assert current_flags({}) == {}


@pytest.mark.parametrize("other", [{"merge_labels": True}, {"label_threshold": 0.5}])
def test_a_structure_is_chosen_by_one_rule(other):
    with pytest.raises(ConfigError, match=f"--structure and --{next(iter(other))} contradict each other"):
        DataConfig(structure="2", **other)


def test_pages_of_a_picture_that_pillow_does_not_open_are_counted(folder):
    (folder / "a" / "image_a.png").unlink()
    pages = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    tifffile.imwrite(folder / "a" / "image.tif", pages, photometric="rgb")
    with pytest.raises(DataError, match="image.tif: has 2 pages"):
        LIDCDataset(folder, image_channels="auto")
    tifffile.imwrite(folder / "a" / "image.tif", pages[0], photometric="rgb")
    assert LIDCDataset(folder, image_channels="auto")[0].image.shape == (3, 16, 16)


def test_labels_of_another_structure_are_not_taken_in_place_of_the_named_one(folder):
    (folder / "a" / "label0_.png").rename(folder / "a" / "label0_disc.png")
    assert LIDCDataset(folder, config=DataConfig(structure="disc"))[0].raters.sum() == (MASK > 0).sum()
    with pytest.raises(DataError, match=r"no label; add a mask per rater, named label0_cup\.png"):
        LIDCDataset(folder, config=DataConfig(structure="cup"))
