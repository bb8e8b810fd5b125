"""What commands take from the dataset.json beside the cases."""

import json

import numpy as np
import pytest
import torch
from helpers import LEAST, as_arguments, assert_refused, call_script
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.lidcloader import LIDCDataset

CLASSES = np.zeros((8, 8), np.uint8)
CLASSES[1:6, 1:6], CLASSES[2:4, 2:4] = 1, 2


@pytest.fixture
def cases(tmp_path):
    """Two cases with 16-bit images of 12 bits and two structures, and their dataset.json."""
    for name in ("a", "b"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 65).save(folder / "image.png")
        Image.fromarray(CLASSES).save(folder / "label0_.png")
    content = {"labels": {"background": 0, "disc": 1, "cup": 2}, "intensity_range": [0, 4095]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    return tmp_path / "data"


def train(cases, log_dir, *flags):
    fixed = ["--iterations=1", "--batch_size=1", *as_arguments(LEAST)]
    return call_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={log_dir}", *fixed, *flags)


def test_a_structure_is_chosen_by_its_name(cases):
    assert LIDCDataset(cases, config=DataConfig(structure="cup"))[0].raters.sum() == (CLASSES == 2).sum()
    assert LIDCDataset(cases, config=DataConfig(structure="1"))[0].raters.sum() == (CLASSES == 1).sum()
    assert "no faults" in call_script("check_data", cases, "--structure=disc").stdout


def test_training_stores_the_range_of_the_data_set_and_resumes(cases, tmp_path):
    for _ in range(2):
        done = train(cases, tmp_path / "run", "--structure=cup")
        assert done.returncode == 0, done.stderr
    flags = torch.load(tmp_path / "run" / "savedmodel.pt", weights_only=True)["flags"]
    assert flags["intensity_range"] == [0, 4095] and flags["structure"] == "cup"
    train(cases, tmp_path / "own", "--structure=cup", "--intensity_range=0,100")
    flags = torch.load(tmp_path / "own" / "savedmodel.pt", weights_only=True)["flags"]
    assert flags["intensity_range"] == [0, 100]


def test_samples_are_scored_with_the_structure_that_they_were_drawn_for(cases, tmp_path):
    train(cases, tmp_path / "run", "--structure=cup")
    model, out = f"--model_path={tmp_path / 'run' / 'savedmodel.pt'}", tmp_path / "samples"
    done = call_script(
        "segmentation_sample", f"--data_dir={cases}", model, f"--out_dir={out}", "--num_ensemble=1", "--evaluate=True"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "metrics.json").read_text())["figures"]


def test_check_data_reports_what_contradicts_the_cases(cases):
    path = cases / "dataset.json"
    path.write_text(
        json.dumps({"channel_names": {"0": "red", "1": "green"}, "labels": {"background": 0, "a": 2, "b": 3}})
    )
    done = call_script("check_data", cases, "--merge_labels=True")
    assert done.returncode == 1 and f"fault: {path}: channel_names has 2 names" in done.stdout
    assert f"fault: {path}: labels does not name the level 1" in done.stdout
    path.write_text("{")
    assert f"fault: {path}" in call_script("check_data", cases, "--merge_labels=True").stdout
    assert_refused(call_script("segmentation_train", f"--data_dir={cases}", "--log_dir=x"), str(path))
