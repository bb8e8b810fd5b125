"""The models that are shipped with the package."""

import json

import numpy as np
import pytest
from helpers import ROOT, call_script

from guided_diffusion.checkpoints.location import SHIPPED, shipped_names
from guided_diffusion.predict import load, score

MOST_BYTES, MOST_WEIGHTS = 6_000_000, 700_000


def test_all_models_together_are_small():
    assert shipped_names() and sum(path.stat().st_size for path in SHIPPED.rglob("*")) < MOST_BYTES


@pytest.mark.parametrize("name", shipped_names())
def test_a_model_has_its_card_and_few_weights(name):
    card = (SHIPPED / name / "README.md").read_text()
    assert "not a medical device" in card and "model-index:" in card and "| `ged_16` |" in card
    assert sum(weights.numel() for weights in load(name).segmenter.model.parameters()) <= MOST_WEIGHTS


def test_phantom_has_the_figures_of_its_card():
    """Its GED over some cases is near that of the card, and far below that of the raters' majority."""
    model = load("phantom")
    cases = [str(ROOT / "data" / "testing" / f"phantom{k:04d}") for k in range(12)]
    figures = [score(one, one.raters) for one in model.sample(cases, num_ensemble=8, batch_size=16)]
    ged, majority = (np.mean([figure[name] for figure in figures]) for name in ("ged", "ged_of_majority"))
    assert ged < 0.17 and ged < 0.75 * majority


def test_a_name_draws_from_the_command_line_and_a_path_of_that_name_comes_first(tmp_path, monkeypatch):
    picture = ROOT / "data" / "testing" / "phantom0000" / "image_phantom0000.png"
    words = [
        "-i",
        str(picture),
        "-o",
        str(tmp_path / "out"),
        "--model_path",
        "phantom",
        "--num_ensemble=1",
        "--steps=2",
    ]
    done = call_script("segmentation_sample", *words)
    assert done.returncode == 0 and len(list((tmp_path / "out").glob("*_output0.png"))) == 1, done.stderr
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom").write_text("no checkpoint")
    done = call_script("segmentation_sample", *words)
    assert done.returncode == 2 and "phantom" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((SHIPPED / "phantom" / "config.json").read_text())["version"] == 1
