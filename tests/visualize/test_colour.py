"""Wherever a case's image is shown, a colour image is shown in colour."""

import types

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from guided_diffusion.data.case_reader import CaseReader
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.geometry import CaseArrays, Geometry
from guided_diffusion.dist_util import Processes
from guided_diffusion.evaluation.case_figures import EvaluateConfig, Scorer
from guided_diffusion.lidcloader import make_case
from guided_diffusion.masks import legends, pictures
from guided_diffusion.masks.postprocess import PostprocessConfig
from guided_diffusion.prepare import check
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import SampleConfig, finish, identity
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.sampling.watch import ChainWatch
from guided_diffusion.training.validation import ValidationConfig, Validator
from guided_diffusion.visualize.inspector import InspectConfig, Inspector

RED, GREEN = (200, 41, 37), (60, 107, 60)  # of one luminance
IMAGE = np.repeat(np.array([RED, GREEN], np.float32).T[:, None] / 255, 8, axis=2).repeat(16, axis=1)  # [3, 16, 16]
RATERS = np.zeros((2, 16, 16), bool)
OWN = Geometry("image.png", (16, 16), (16, 16), (16, 16))
RATERS[0, 2:9, 2:9] = RATERS[1, 4:12, 4:12] = True
SAMPLES = RATERS.astype(np.float32)


def shows_colour(picture):
    """Whether the first tile is red and green; otherwise it must have the grey levels of the first plane."""
    pixels = np.asarray(picture.convert("RGB"))[legends.MARGIN + legends.LABEL_HEIGHT + 5]
    found = tuple(tuple(pixels[legends.MARGIN + x].tolist()) for x in (5, 122))
    assert found in ((RED, GREEN), ((RED[0],) * 3, (GREEN[0],) * 3)), found
    return found == (RED, GREEN)


@pytest.fixture(params=[True, False], ids=["colour", "three modalities"])
def colour(request, monkeypatch):
    """Whether images are in colour; reading a case gives IMAGE."""
    monkeypatch.setattr(CaseReader, "read", lambda self, folder: CaseArrays(IMAGE, RATERS, OWN))
    monkeypatch.setattr(CaseReader, "colour", request.param, raising=False)
    return request.param


@pytest.fixture
def case(colour):
    return make_case("case", CaseArrays(IMAGE, RATERS, OWN), colour=colour)


@pytest.fixture
def folders(tmp_path):
    """(cases, samples): a case, read by the fixture `colour`, and its samples."""
    (tmp_path / "data" / "case").mkdir(parents=True)
    for name in ("image", "label0_", "label1_"):
        Image.new("L", (16, 16)).save(tmp_path / "data" / "case" / f"{name}.png")
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "case_samples.npz", samples=SAMPLES)
    return str(tmp_path / "data"), str(tmp_path / "samples")


def test_sheets_and_movies_of_samples(case, colour, tmp_path):
    config = SampleConfig(out_dir=str(tmp_path))
    drawn_by, finished_by = identity(config, None, 1, "none", {}, ""), finish(config, PostprocessConfig())
    store.write_case(str(tmp_path), case, SAMPLES, drawn_by, finished_by, frames=[SAMPLES[0], SAMPLES[1]])
    with Image.open(tmp_path / "case_sheet.png") as sheet, Image.open(tmp_path / "case_movie.gif") as movie:
        assert shows_colour(sheet) == colour
        assert {shows_colour(frame) for frame in ImageSequence.Iterator(movie)} == {colour}


def test_windows_of_sampling(case, colour):
    shown = {}
    windows = types.SimpleNamespace(
        shown=True, picture=lambda window, picture, caption: shown.update({window: picture})
    )
    watch = ChainWatch(1, windows=windows)
    watch.begin([(case, 0)])
    watch.case_done(case, SAMPLES)
    assert shows_colour(shown["case"]) == shows_colour(shown["latest 0"]) == colour


def test_the_sheet_of_a_validation(case, colour):
    validator = Validator([case], ValidationConfig(), SamplerConfig(), Processes({}), 0, 4)
    validator._score_case(case, SAMPLES)
    assert shows_colour(validator.sheet) == colour


def test_the_sheet_of_checked_cases(colour, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "grey_faults", lambda *case: [])  # it looks at the files
    config = check.CheckConfig(folders[0], sheet=str(tmp_path / "sheet.png"))
    check.check_data(config, DataConfig(), lambda line: None)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert shows_colour(sheet) == colour


def test_pictures_of_the_report(colour, folders, tmp_path):
    data, samples = folders
    score = Scorer(EvaluateConfig(data_dir=data, samples=samples), {})(("case", f"{data}/case"))
    assert not score.faults
    (tmp_path / "picture.png").write_bytes(score.pictures[samples])
    with Image.open(tmp_path / "picture.png") as picture:
        assert shows_colour(picture) == colour


def test_the_page_of_the_inspector(colour, folders):
    data, samples = folders
    page = Inspector(types.SimpleNamespace(), InspectConfig(samples, data)).page()
    assert shows_colour(page) == colour
    expected = pictures.sheet(IMAGE if colour else IMAGE[0], RATERS, RATERS)
    np.testing.assert_array_equal(np.asarray(page), np.asarray(expected))


def test_a_case_of_repeated_planes_looks_like_its_plane(tmp_path):
    plane = torch.rand(1, 16, 16).numpy()
    config = SampleConfig(out_dir=str(tmp_path))
    drawn_by, finished_by = identity(config, None, 1, "none", {}, ""), finish(config, PostprocessConfig())
    store.write_case(str(tmp_path), make_case("case", CaseArrays(plane, RATERS), 4), SAMPLES, drawn_by, finished_by)
    expected = pictures.sheet(plane[0], RATERS, RATERS)
    with Image.open(tmp_path / "case_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(expected))
