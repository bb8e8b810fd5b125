"""Images that are not square, through the commands: every method trains, resumes and draws masks of their size."""

import importlib
import json

import numpy as np
import pytest
from drawings import put, white
from helpers import LEAST, TINY, as_arguments, assert_refused, call_main, call_script

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.commands import train
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.command_line import parse_command_line
from guided_diffusion.flags.words import AUGMENTATIONS
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.predict import load

SIZE, H, W = "8,16", 8, 16
DIFFUSION = {**TINY, "image_size": SIZE, "num_res_blocks": 1, "attention_resolutions": "8"}
PLAIN = {"image_size": SIZE, "image_channels": 1, "num_filters": "4,8,8,8", "no_convs_per_block": 1}
SHARED = {"architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1", "prediction": "x0"}
ENSEMBLE = {name: value for name, value in DIFFUSION.items() if name != "num_filters"}
METHODS = {
    "cimd": DIFFUSION,
    "implicit-ensemble": {**ENSEMBLE, "learn_sigma": False, "stable_target": True, "raters_per_image": 2},
    "shared-encoder": {**DIFFUSION, **SHARED, "method": "cimd", "encoder_guesses": 3, "guess_weight": 1},
    "prob-unet": {**PLAIN, "latent_dim": 2},
    "ssn": {**PLAIN, "cov_rank": 3},
    "mc-dropout": {**PLAIN, "dropout": 0.3},
    "unet": PLAIN,
}
SMALLEST = {**LEAST, "image_size": SIZE, "batch_size": 2, "iterations": 2}


def write(folder, count, height, width):
    """Cases of an ellipse as two raters see it, left of the middle."""
    y, x = np.mgrid[:height, :width]
    for k in range(count):
        away = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.3 - 0.02 * k)
        put(folder / f"case{k}" / "image.png", (200 - 150 * away).astype(np.uint8))
        for rater, radius in enumerate((0.3, 0.25)):
            put(folder / f"case{k}" / f"label{rater}_.png", white(away < radius))
    return folder


def in_this_process(script, arguments, log):
    """A runner of a comparison's commands that saves the seconds of importing torch."""
    return call_main(importlib.import_module(f"guided_diffusion.commands.{script}").main, *arguments).returncode


@pytest.fixture(scope="module")
def exact(made_once):
    """Eight cases of the network's size."""
    return made_once("rectangles", lambda folder: write(folder, 8, H, W))


@pytest.fixture(scope="module")
def run(made_once, exact):
    """The folder of the smallest network after two steps; read it only."""

    def fill(folder):
        done = call_script(
            "segmentation_train",
            "--data_dir",
            exact,
            "--log_dir",
            folder,
            *as_arguments({**SMALLEST, "augment": "flip"}),
        )
        assert done.returncode == 0, done.stderr

    return made_once("rectangular_run", fill)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_validates_and_samples(exact, tmp_path, name):
    flags = {"method": name, "batch_size": 4, "iterations": 2, **METHODS[name]}
    larger = write(tmp_path / "larger", 4, 30, 50)  # is resized
    validation = ("--eval_data_dir", exact, "--eval_cases", 2, "--eval_ensemble", 2)
    trained = call_script(
        "segmentation_train", "--data_dir", larger, "--log_dir", tmp_path, *validation, *as_arguments(flags)
    )
    assert trained.returncode == 0, trained.stderr
    assert load_checkpoint(str(tmp_path / "savedmodel.pt")).flags["image_size"] == [H, W]
    sample = ("segmentation_sample", "--data_dir", exact, "--model_path", tmp_path / "savedmodel.pt")
    drawn = call_script(*sample, "--out_dir", tmp_path / "s", "--num_ensemble", 2, "--evaluate")
    assert drawn.returncode == 0, drawn.stderr
    with np.load(tmp_path / "s" / "case0_samples.npz") as file:
        assert file["samples"].shape == (2, H, W)


def test_all_augmentation_but_rotation(exact, tmp_path):
    kind = "+".join(part for part in AUGMENTATIONS if part not in ("mirror", "rotate", "colour"))
    flags = (*as_arguments(SMALLEST), "--data_dir", exact, "--log_dir", tmp_path)
    assert call_script("segmentation_train", *flags, "--augment", kind).returncode == 0
    assert_refused(call_script("segmentation_train", *flags, "--augment", "mirror+rotate"), "use --augment mirror")


def test_a_run_resumes_with_its_size_and_with_no_other(exact, run, tmp_path):
    for file in run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    command = ("segmentation_train", "--data_dir", exact, "--log_dir", tmp_path, "--augment", "flip")
    more = as_arguments({**SMALLEST, "iterations": 3})
    for size in ("16,8", "8", "8,8"):
        shown = "8" if size == "8,8" else size
        assert_refused(call_script(*command, *more, "--image_size", size), f"--image_size 8,16, not {shown}:")
    resumed = call_script(*command, *more)
    assert resumed.returncode == 0 and "at step 2" in resumed.stdout + resumed.stderr
    assert load_checkpoint(str(tmp_path / "savedmodel.pt")).step == 3


def test_a_square_given_as_two_numbers_is_one_number(cases, tmp_path):
    flags = {**SMALLEST, "iterations": 1}
    command = ("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path, *as_arguments(flags))
    assert call_script(*command, "--image_size", "8,8").returncode == 0
    assert load_checkpoint(str(tmp_path / "savedmodel.pt")).flags["image_size"] == 8
    assert call_script(*command, "--image_size", 8, "--iterations", 2).returncode == 0


def test_sampling_is_at_the_size_of_the_checkpoint_and_turns_nothing(exact, run, tmp_path):
    sample = ("segmentation_sample", "--data_dir", exact, "--model_path", run / "savedmodel.pt", "--out_dir", tmp_path)
    few = ("--num_ensemble", 1, "--num_samples", 1, "--steps", 2)
    assert_refused(call_script(*sample, *few, "--image_size", 16), "trained with --image_size 8,16, not 16")
    for kind, rest in (("rotate", "none"), ("flip+rotate", "flip")):
        assert_refused(
            call_script(*sample, *few, "--tta", kind),
            f"--tta {kind}: rotate needs a square --image_size, not 8,16: use --tta {rest}",
        )
    assert call_script(*sample, *few, "--tta", "flip", "--image_size", "8,16").returncode == 0
    model, image = load(str(run / "savedmodel.pt"), device="cpu"), LIDCDataset(exact, (H, W), 1)[0].image
    with pytest.raises(ConfigError, match="--tta rotate"):
        model.sample(image, 1, steps=2, tta="rotate")
    assert model.sample(image, 2, steps=2, tta="mirror").samples.shape == (2, H, W)


def test_a_preset_that_rotates_says_what_to_add(tmp_path):
    size = ("--preset", "tuned", "--image_size", "64,96", "--image_channels", "1", "--data_dir", str(tmp_path))
    with pytest.raises(ConfigError, match="not 64,96: use --augment flip$"):
        train.check_flags(parse_command_line(train.CONFIGS, None, size, PRESETS))
    with pytest.raises(ConfigError, match="--image_size 64,96 has no default --channel_mult") as refusal:
        train.check_flags(parse_command_line(train.CONFIGS, None, [*size, "--augment", "flip"], PRESETS))
    assert "\n" not in str(refusal.value)
    train.check_flags(
        parse_command_line(train.CONFIGS, None, [*size, "--augment", "flip", "--channel_mult", "1,2,4"], PRESETS)
    )


def test_methods_are_compared(exact, tmp_path):
    flags = {**TINY, "image_size": SIZE, "channel_mult": "1", "steps": 2, "batch_size": 2, "num_ensemble": 2}
    command = ("compare", "--data_dir", exact, "--budget_images", 4, "--folds", 2, *as_arguments(flags))
    assert_refused(
        call_script(*command, "--methods", "tuned,unet", "--batch_size", 4, "--out_dir", tmp_path / "refused"),
        "--augment flip+rotate: rotate needs a square --image_size, not 8,16: use --augment flip",
    )
    done = call_script(*command, "--methods", "unet,demo", "--out_dir", tmp_path, run_command=in_this_process)
    assert done.returncode == 0, done.stderr
    assert [row["method"] for row in json.loads((tmp_path / "comparison.json").read_text())["rows"]] == ["unet", "demo"]


def test_packed_cases_and_checks(tmp_path):
    data = write(tmp_path / "data", 3, 30, 50)
    packed = call_script("pack_data", "--data_dir", data, "--out", tmp_path, "--image_size", SIZE, "--pad", "True")
    assert packed.returncode == 0, packed.stderr
    dataset = LIDCDataset(tmp_path / "data.pack", (H, W), 1)
    assert dataset[0].image.shape == (1, H, W) and dataset[0].raters.shape == (2, H, W)
    assert call_script("check_data", data, "--image_size", SIZE).returncode == 0
    for script in ("check_data", "pack_data"):
        for size in ("8,16,1", "8,0", "8x16", "8,1.5", "small"):
            out = ("--out", tmp_path) if script == "pack_data" else ()
            assert_refused(
                call_script(script, "--data_dir", data, *out, "--image_size", size), f"--image_size {size}: "
            )
