"""The models that are shipped with the package."""

import json
import os
import shlex
import subprocess

import numpy as np
import pytest
from helpers import ROOT, call_script

import guided_diffusion
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


def test_the_citation_names_the_version():
    (line,) = [line for line in (ROOT / "CITATION.cff").read_text().splitlines() if line.startswith("version:")]
    assert line == f"version: {guided_diffusion.__version__}"


def recipe(name):
    """The words of the commands by which a shipped model is made, {script: flags}, from the Makefile."""
    done = subprocess.run(
        ["make", "--dry-run", "-o", ".venv/installed", f"model-{name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line)[1:] for line in done.stdout.replace("\\\n", " ").splitlines()]
    return {os.path.basename(script).removesuffix(".py"): words for script, *words in reversed(commands)}


def moved(words, folder):
    """Flags whose paths in results lie in `folder`."""
    return [word.replace("results/", f"{folder}/") for word in words]


def unseen(name, folder):
    """The paths of 12 cases like those of a shipped model's training."""
    if name == "phantom":
        return [str(ROOT / "data" / "testing" / f"phantom{k:04d}") for k in range(12)]
    call_script("make_phantom", f"--kind={name}", f"--out={folder / 'unseen'}", "--num_cases=12", "--seed=13")
    return [str(folder / "unseen" / f"{name}{k:04d}") for k in range(12)]


@pytest.mark.nightly
@pytest.mark.parametrize("name", shipped_names())
def test_a_short_run_of_its_recipe_is_on_the_way(name, tmp_path):
    """After a fifteenth of its steps the masks are better than those of an untrained model, by the unbiased GED."""
    commands = recipe(name)
    cases, train = moved(commands["make_phantom"], tmp_path), moved(commands["segmentation_train"], tmp_path)
    assert call_script("make_phantom", *cases).returncode == 0
    ged = {}
    for steps in (1, 200):
        log_dir = tmp_path / f"run{steps}"
        done = call_script(
            "segmentation_train", *train, f"--log_dir={log_dir}", f"--iterations={steps}", f"--lr_anneal_steps={steps}"
        )
        assert done.returncode == 0, done.stderr
        model = load(log_dir / "savedmodel.pt", weights="raw")
        scores = [score(one, one.raters) for one in model.sample(unseen(name, tmp_path), num_ensemble=8, batch_size=16)]
        ged[steps] = np.mean([figures["ged_unbiased"] for figures in scores])
    assert ged[200] < 0.6 * ged[1], ged
