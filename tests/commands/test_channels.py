"""The channels of images: one number for network and cases, and how many of them the encoders see."""

import shutil

import numpy as np
import pytest
import torch
from helpers import LEAST, as_arguments, assert_refused, call_script

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.commands import train as train_command
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.registry import METHODS, PRESETS, foreign_flags
from guided_diffusion.script_util import create_model_and_diffusion, load_segmenter, model_and_diffusion_defaults
from guided_diffusion.unet import UNetConfig

FLAGS = {**LEAST, "image_channels": "auto", "batch_size": 2, "dropout": 0.1, "seed": 1}


def train(data, folder, steps=1, **flags):
    given = {**FLAGS, "iterations": steps, **flags}
    given = {name: value for name, value in given.items() if value is not None}
    foreign = foreign_flags(given.get("method", "cimd"), "unet")
    arguments = as_arguments({name: value for name, value in given.items() if name not in foreign})
    return call_script("segmentation_train", f"--data_dir={data}", f"--log_dir={folder}", *arguments)


def trained(*arguments, **flags):
    done = train(*arguments, **flags)
    assert done.returncode == 0, done.stderr
    return stored(arguments[1])


def stored(folder):
    return load_checkpoint(folder / "savedmodel.pt").flags


def sample(data, folder, *more):
    where = [f"--data_dir={data}", f"--model_path={folder / 'savedmodel.pt'}", f"--out_dir={folder / 'samples'}"]
    return call_script("segmentation_sample", *where, "--num_ensemble=2", *more)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_samples_on_three_planes(modalities, tmp_path, method):
    run = tmp_path / "run"
    flags = trained(modalities, run, method=method, num_filters="4,8")
    assert flags["image_channels"] == flags["encoder_channels"] == 3
    first = next(p for name, p in load_checkpoint(run / "savedmodel.pt").weights.items() if p.ndim == 4)
    assert first.shape[1] == 3 + METHODS[method].has_chain  # and the noisy mask
    trained(modalities, run, steps=2, method=method, num_filters="4,8")
    log = (run / "log.txt").read_text()
    assert "continuing" in log and "have changed" not in log
    steps = ["--steps=2"] if METHODS[method].has_chain else []
    done = sample(modalities, run, "--evaluate", *steps)
    assert done.returncode == 0, done.stderr
    with np.load(run / "samples" / "phantom0000_samples.npz") as file:
        assert file["samples"].shape == (2, 8, 8)


def test_auto_takes_the_planes_of_the_cases_and_stores_their_number(cases, modalities, tmp_path):
    assert trained(cases, tmp_path / "grey")["image_channels"] == 1
    flags = trained(modalities, tmp_path / "three")
    assert flags["image_channels"] == flags["encoder_channels"] == 3
    line = next(line for line in (tmp_path / "three" / "log.txt").read_text().splitlines() if "flags:" in line)
    assert "--image_channels 3" in line and "--encoder_channels 3" in line


def test_the_weights_do_not_depend_on_how_the_number_is_given(modalities, tmp_path):
    trained(modalities, tmp_path / "auto")
    trained(modalities, tmp_path / "number", image_channels=3, encoder_channels=3)
    auto, number = (load_checkpoint(tmp_path / name / "savedmodel.pt") for name in ("auto", "number"))
    assert all(torch.equal(weight, number.weights[name]) for name, weight in auto.weights.items())
    assert auto.data == number.data


def test_a_run_that_stored_a_number_resumes_with_auto(cases, tmp_path):
    """As runs of the preset `tuned` did before it took the number from the cases: grey cases fill four channels."""
    trained(cases, tmp_path / "run", image_channels=4)
    trained(cases, tmp_path / "run", steps=2)
    assert stored(tmp_path / "run")["image_channels"] == 4
    second = trained(cases, tmp_path / "second", 3, resume_checkpoint=tmp_path / "run" / "savedmodel.pt")
    assert second["image_channels"] == 4
    done = sample(cases, tmp_path / "run", "--image_channels=auto", "--steps=2")
    assert done.returncode == 0, done.stderr
    assert_refused(train(cases, tmp_path / "run", 3, image_channels=1), "--image_channels 4, not 1", "--log_dir")
    assert_refused(sample(cases, tmp_path / "run", "--image_channels=1"), "--image_channels 4, not 1")


def test_validation_cases_have_the_channels_of_the_training_cases(cases, modalities, tmp_path):
    assert_refused(
        train(cases, tmp_path / "grey", eval_data_dir=modalities), str(modalities), "--image_channels 1: add"
    )
    done = train(modalities, tmp_path / "three", eval_data_dir=cases)
    assert_refused(done, str(cases), "each case has a single plane", "--encoder_channels 3")
    small = {"eval_cases": 1, "eval_ensemble": 2, "eval_steps": 2}
    assert trained(modalities, tmp_path / "three", eval_data_dir=modalities, **small)["image_channels"] == 3


def test_a_number_that_the_cases_do_not_have_is_refused(modalities, tmp_path):
    for _ in range(2):  # decoded, and from the cache
        assert_refused(train(modalities, tmp_path / "run", image_channels=4), "add --image_channels 3, or auto")
        trained(modalities, tmp_path / "auto")


@pytest.mark.parametrize("method", ["cimd", "unet"])
def test_a_model_of_several_planes_is_not_given_copies_of_one(cases, modalities, tmp_path, method):
    trained(modalities, tmp_path, method=method, num_filters="4,8")
    words = (str(cases), "each case has a single plane", "--encoder_channels 3")
    assert_refused(sample(cases, tmp_path), *words)
    assert_refused(train(cases, tmp_path / "run", image_channels=4, encoder_channels=2), "--encoder_channels 2")


# -- cases that cannot be trained on ----------------------------------------------------------------------------------


def test_training_cases_are_checked_before_a_run_begins(cases, tmp_path, monkeypatch):
    """Their masks, and whether each augmentation suits them; validation cases may be any."""

    class Blank(LIDCDataset):
        """The cases of a set, without a marked pixel below the folder `blank`."""

        def check_trainable(self):
            """DataError: no mask has a marked pixel."""
            if "blank" in self.directory:
                raise DataError(f"{self.directory}: every mask is empty")

    blank = shutil.copytree(cases, tmp_path / "blank")
    monkeypatch.setattr(train_command, "LIDCDataset", Blank)
    assert_refused(train(blank, tmp_path / "run"), "every mask is empty")
    trained(cases, tmp_path / "run", eval_data_dir=blank, eval_cases=1, eval_ensemble=2, eval_steps=2)

    asked = []
    monkeypatch.setattr(train_command, "check_augment", lambda *arguments: asked.append(arguments))
    trained(cases, tmp_path / "flipped", augment="flip")
    assert asked == [("flip", False)]


# -- what the encoders see --------------------------------------------------------------------------------------------


def test_a_given_number_of_encoder_channels_is_kept(modalities, tmp_path):
    run = tmp_path / "run"
    assert trained(modalities, run, encoder_channels=1)["encoder_channels"] == 1
    assert trained(modalities, run, 2)["encoder_channels"] == 1  # that of the run, not of its cases
    assert_refused(train(modalities, run, 3, encoder_channels=2), "--encoder_channels 1, not 2")
    assert load_segmenter(str(run / "savedmodel.pt"), {}).segmenter.prior.input_channels == 1
    assert_refused(
        train(modalities, tmp_path / "four", encoder_channels=4), "--encoder_channels 4", "--image_channels 3"
    )


def test_a_run_from_before_the_flag_showed_its_encoders_the_first_channel(modalities, tmp_path):
    trained(modalities, tmp_path, encoder_channels=1)
    state = torch.load(tmp_path / "savedmodel000001.pt", weights_only=True)
    del state["flags"]["encoder_channels"]
    torch.save(state, tmp_path / "savedmodel000001.pt")
    (tmp_path / "manifest.json").unlink()
    assert trained(modalities, tmp_path, 2)["encoder_channels"] == 1
    sampled = shutil.copytree(tmp_path, tmp_path / "copy")
    assert sample(modalities, sampled, "--steps=2").returncode == 0


# -- the model --------------------------------------------------------------------------------------------------------


def test_the_paper_s_number_stays_the_default():
    assert model_and_diffusion_defaults()["image_channels"] == UNetConfig().channels == 4
    assert [name for name, flags in PRESETS.items() if flags.get("image_channels") == "auto"] == ["tuned"]


def test_the_planes_of_no_cases_are_unknown():
    with pytest.raises(ConfigError, match="--image_channels auto: there are no cases"):
        create_model_and_diffusion(**{**LEAST, "image_channels": "auto"})
    with pytest.raises(ConfigError, match="--image_channels 0: must be at least 1"):
        UNetConfig(image_channels=0)


def test_a_model_that_cannot_be_built_is_refused_before_a_case_is_read(tmp_path):
    (tmp_path / "cases" / "a").mkdir(parents=True)
    (tmp_path / "cases" / "a" / "image.png").write_bytes(b"damaged")
    done = train(tmp_path / "cases", tmp_path / "run", image_size=18, channel_mult="1,1,1", encoder_channels=3)
    assert_refused(done, "--image_size 18", "halved")
