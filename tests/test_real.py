"""Real multi-rater images, where they are available: load, train three steps, sample. See conftest.py for where."""

import pytest
import torch
from helpers import TINY, as_arguments, call_script

from guided_diffusion.data.config import DataConfig
from guided_diffusion.lidcloader import LIDCDataset

SETS = {"lidc": (19, 4), "brain_growth": (27, 7)}
FLAGS = as_arguments({**TINY, "image_size": 32})


@pytest.mark.parametrize("name", SETS)
def test_loads(real_data, name):
    count, raters = SETS[name]
    dataset = LIDCDataset(real_data / name / "training", image_channels=1)
    assert len(dataset) == count
    for index in range(count):
        case = dataset[index]
        assert case.image.shape == (1, 128, 128) and case.raters.shape == (raters, 128, 128)
        assert case.image.min() >= 0 and 0.2 < case.image.max() <= 1
        assert set(case.raters.unique().tolist()) <= {0.0, 1.0}


def test_lidc_labels_are_jpeg_some_empty_and_swollen_without_the_threshold(real_data):
    folder = real_data / "lidc" / "training"
    half, zero = (
        LIDCDataset(folder, image_channels=1, config=DataConfig(label_threshold=level)) for level in (None, 0)
    )
    count = sum(len(half[k].raters) for k in range(len(half)))
    assert f"{count} labels with lossy compression (JPEG)" in half.notes[0]
    areas, swollen = (torch.stack([data[i].raters.sum((1, 2)) for i in range(len(data))]) for data in (half, zero))
    assert (areas == 0).sum() == 13
    assert (swollen / areas)[areas > 0].median().item() == pytest.approx(1.6, abs=0.1)


@pytest.mark.parametrize("name", SETS)
def test_trains_three_steps_and_samples(real_data, name, tmp_path):
    data = f"--data_dir={real_data / name / 'training'}"
    done = call_script("segmentation_train", data, f"--log_dir={tmp_path}", "--iterations=3", "--batch_size=2", *FLAGS)
    assert done.returncode == 0, done.stderr
    done = call_script(
        "segmentation_sample",
        data,
        f"--model_path={tmp_path}/savedmodel.pt",
        f"--out_dir={tmp_path / 'out'}",
        "--num_samples=2",
        "--num_ensemble=2",
        "--timestep_respacing=3",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_output?.png"))) == 4
    done = call_script("segmentation_evaluate", data, f"--samples={tmp_path / 'out'}")
    assert done.returncode == 0 and f"2 of {SETS[name][0]} cases" in done.stdout
