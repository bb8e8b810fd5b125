"""cimd-export: the folder draws what its checkpoint draws; the card says what was given, and nothing else."""

import json
import os
import re

import numpy as np
import pytest
import torch
from exported import METHODS, draw, save_checkpoint
from helpers import LEAST, TINY, as_arguments, assert_refused, call_script, nonzero
from PIL import Image

from guided_diffusion.checkpoints.files import fingerprint
from guided_diffusion.commands.model_card.card import as_text, as_yaml, hub_license
from guided_diffusion.commands.model_card.picture import phantom_image
from guided_diffusion.prepare.phantoms.phantom import make_phantom
from guided_diffusion.script_util import create_model_and_diffusion

FILES = ["README.md", "config.json", "model.safetensors", "samples.png"]
PUBLISHED = {**LEAST, "learn_sigma": True, "image_channels": 4}
ROW = {"mean": 0.25, "se": 0.01, "low": 0.2, "high": 0.3, "cases": 4}


def export(model, out, *more):
    return call_script("export", f"--model_path={model}", f"--out={out}", *more)


def exported(model, out, *more):
    """Export, and return the card."""
    done = export(model, out, *more)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(out)) == FILES
    return (out / "README.md").read_text()


@pytest.fixture(scope="module")
def checkpoint(made_once):
    return made_once("to_export", lambda folder: save_checkpoint(folder / "savedmodel.pt")) / "savedmodel.pt"


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_draws_the_masks_of_its_checkpoint(method, tmp_path):
    path = save_checkpoint(tmp_path / "model.pt", method)
    exported(path, tmp_path / "folder")
    assert np.array_equal(draw(tmp_path / "folder"), draw(path))
    exported(path, tmp_path / "raw", "--weights=raw")
    raw = draw(tmp_path / "raw")
    assert np.array_equal(raw, draw(path, weights="raw")) and not np.array_equal(raw, draw(path))


@pytest.mark.parametrize("method", ["cimd", "implicit-ensemble"])
@pytest.mark.parametrize("with_average", [False, True])
def test_published_checkpoints_export_with_their_flags(method, with_average, tmp_path):
    def weights(seed):
        torch.manual_seed(seed)
        return nonzero(create_model_and_diffusion(**PUBLISHED)[0]).state_dict()

    path = tmp_path / "savedmodel000100.pt"
    torch.save({f"module.{name}": value for name, value in weights(1).items()}, path)
    if with_average:
        torch.save(weights(2), tmp_path / "emasavedmodel_0.9999_000100.pt")
    flags = {**PUBLISHED, "method": method}
    if method == "implicit-ensemble":
        del flags["num_filters"]
    exported(path, tmp_path / "folder", *as_arguments(flags), "--sampler=ddim", "--steps=4")
    sampling = {"sampler": "ddim", "steps": 4}
    assert np.array_equal(draw(tmp_path / "folder", {}), draw(path, sampling, **flags))
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["sampler"]["sampler"] == "ddim" and config["sampler"]["steps"] == 4 and config["step"] == 100
    assert config["flags"]["method"] == method and config["weights"] == ("ema" if with_average else "raw")
    assert config["checkpoint"] == fingerprint(str(path)) and config["data"] is None
    assert_refused(export(path, tmp_path / "other", *as_arguments({**flags, "num_channels": 64})), "--num_channels")
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def learnt(made_once):
    """A checkpoint of a small model that has learnt where the nodules are."""

    def train(folder):
        from guided_diffusion.prepare.phantoms import phantom

        phantom.write_set(folder / "cases", num_cases=16, seed=5, size=16, num_raters=4)
        flags = {**TINY, "learn_sigma": False, "predict_xstart": True, "mask_low": -1.0, "lr": 2e-3, "ema_rate": 0.95}
        more = ["--iterations=150", "--batch_size=8", "--sampler=ddim", "--steps=10"]
        run = [f"--data_dir={folder / 'cases'}", f"--log_dir={folder / 'run'}"]
        done = call_script("segmentation_train", *run, *as_arguments(flags), *more)
        assert done.returncode == 0, done.stderr

    return made_once("learnt", train) / "run" / "savedmodel.pt"


def test_rounded_weights_draw_nearly_the_same_masks(learnt, tmp_path, unchecked):
    from guided_diffusion import predict

    exported(learnt, tmp_path / "folder", "--dtype=bf16")
    assert (tmp_path / "folder" / "model.safetensors").stat().st_size < 2.2 * 1e6
    models = [predict.load(str(path), "cpu") for path in (learnt, tmp_path / "folder")]
    same, marked = [], []
    for index in range(12):
        image = make_phantom(9, index, 16, 1).image
        masks, rounded = (model.sample(image, 8).masks for model in models)
        same.append((masks == rounded).mean())
        marked.append(masks.mean())
    assert 0.02 < np.mean(marked) < 0.5 and np.mean(same) >= 0.999


def test_a_folder_exports_again(checkpoint, tmp_path):
    exported(checkpoint, tmp_path / "first")
    exported(tmp_path / "first", tmp_path / "second")
    assert np.array_equal(draw(tmp_path / "second"), draw(checkpoint))
    exported(tmp_path / "second" / "model.safetensors", tmp_path / "first")  # replaced


def test_the_config_has_what_decides_the_model_and_no_path_of_the_run(checkpoint, tmp_path):
    exported(checkpoint, tmp_path / "folder")
    text = (tmp_path / "folder" / "config.json").read_text()
    config = json.loads(text)
    assert config["step"] == 3 and config["samples"] == 12 and config["data"] == "0123456789abcdef"
    assert config["flags"]["image_channels"] == 1 and config["flags"]["encoder_channels"] == 1
    assert config["weights"] == "ema" and config["dtype"] == "float32" and config["written_by"]["torch"]
    assert "patients" not in text and "lr" not in config["flags"]
    assert "patients" not in (tmp_path / "folder" / "README.md").read_text()


# -- the card ---------------------------------------------------------------------------------------------------------


def header(card):
    """The YAML header of a card as the Hub reads it."""
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(card.split("---\n")[1])


def metrics_of(path, model, **changes):
    settings = {"samples per case": "16", "pixels": "8x8", "checkpoint": fingerprint(str(model)), "weights": "ema"}
    summary = {"samples": "s", "cases": 4, "of": 4, "settings": settings, "figures": {"ged_16": ROW, "area_16": ROW}}
    path.write_text(json.dumps({**summary, **changes}))
    return f"--metrics={path}"


def test_the_card_has_the_figures_with_their_intervals(checkpoint, tmp_path):
    metrics = metrics_of(tmp_path / "metrics.json", checkpoint)
    card = exported(checkpoint, tmp_path / "nodules", metrics, "--license=CC-BY-4.0", "--data_description=Two nodules")
    assert "| `ged_16` | 0.2500 | 0.2000 to 0.3000 | 4 | GED, squared" in card
    assert "Scored on 4 cases with 16 masks each, at 8x8 pixels." in card and "rounded" not in card
    assert "not a medical device" in card and "pages     = {11536-11546}" in card and "Two nodules" in card
    found = header(card)
    assert found["license"] == "cc-by-4.0" and found["pipeline_tag"] == "image-segmentation"
    assert found["library_name"] == "ambiguous-segmentation-diffusion" and "cimd" in found["tags"]
    (index,) = found["model-index"]
    assert index["name"] == "nodules" and index["results"][0]["metrics"][0]["value"] == 0.25

    hub = pytest.importorskip("huggingface_hub")
    results = hub.ModelCard(card).data.eval_results
    assert {result.metric_type for result in results} == {"ged_16", "area_16"}

    card = exported(checkpoint, tmp_path / "nodules", metrics, "--dtype=bf16")
    assert "before the weights were rounded to bf16" in card


def test_figures_of_the_folder_itself_are_not_called_rounded(checkpoint, tmp_path):
    exported(checkpoint, tmp_path / "folder", "--dtype=bf16")
    metrics = metrics_of(tmp_path / "metrics.json", tmp_path / "folder")
    assert "were rounded" not in exported(checkpoint, tmp_path / "folder", metrics, "--dtype=bf16")


def test_a_card_without_figures_says_so(checkpoint, tmp_path):
    done = export(checkpoint, tmp_path / "folder")
    assert done.returncode == 0 and not done.stderr
    assert "no figures; pass --metrics" in done.stdout and "no licence; pass --license" in done.stdout
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "No figures were given." in card and "No licence was given" in card and "not described" in card
    assert not {"license", "model-index"} & header(card).keys()


def test_texts_cannot_leave_their_place(checkpoint, tmp_path):
    text = "a \"b\" 'c' <script>x</script> | *d* `e` [f](g)\n---\nlicense: mit\n# h \x85 i \x07 ä 😀"
    metrics = metrics_of(
        tmp_path / "metrics.json", checkpoint, settings={"checkpoint": fingerprint(str(checkpoint)), "x|": "<b>\n# y"}
    )
    card = exported(checkpoint, tmp_path / "a`<b>: {c}", metrics, f"--data_description={text}")
    found = header(card)
    assert "license" not in found and found["model-index"][0]["name"] == "a`<b>: {c}"
    assert found["model-index"][0]["results"][0]["dataset"]["name"].endswith(" pixels")
    body = card.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)<(script|b)>", body) and "\n# h" not in body and "\n# y" not in body
    assert "ä 😀" in body and "\x07" not in body and "\x85" not in body


def test_escapes():
    assert as_text("a_b*\\") == "a\\_b\\*\\\\" and as_yaml("a\u2028b: 'c'") == "\"a b: 'c'\""
    assert hub_license("GPL-3.0-or-later") == "gpl-3.0" and hub_license("MIT") == "mit"


WRONG_METRICS = {
    "not JSON": ("{", "not the result of an evaluation"),
    "a list": ("[]", "not the result of an evaluation"),
    "other JSON": ('{"checkpoints": []}', "not the result of an evaluation"),
    "no figures": ('{"figures": {}, "settings": {}, "cases": 1}', "has no figures"),
    "no number": ('{"figures": {"ged": {"mean": "x"}}, "settings": {}, "cases": 1}', "not the result of"),
    "no settings": (json.dumps({"figures": {"ged_4": ROW}, "cases": 1}), "not the result of an evaluation"),
    "an odd name": (json.dumps({"figures": {"a|b": ROW}, "settings": {}, "cases": 1}), "not the result of"),
    "another model": (
        json.dumps({"figures": {"ged_4": ROW}, "settings": {"checkpoint": "0" * 16}, "cases": 1}),
        "of another model (0000000000000000",
    ),
    "no model": (json.dumps({"figures": {"ged_4": ROW}, "settings": {}, "cases": 1}), "of another model (not stored"),
}


@pytest.mark.parametrize("text, words", WRONG_METRICS.values(), ids=WRONG_METRICS)
def test_other_figures_are_refused(text, words, checkpoint, tmp_path):
    (tmp_path / "m.json").write_text(text)
    assert_refused(
        export(checkpoint, tmp_path / "out", f"--metrics={tmp_path / 'm.json'}"), "--metrics", "m.json", words
    )
    assert not (tmp_path / "out").exists()


def test_figures_of_other_weights_of_the_checkpoint_are_refused(checkpoint, tmp_path):
    metrics = metrics_of(tmp_path / "metrics.json", checkpoint)
    assert_refused(export(checkpoint, tmp_path / "out", metrics, "--weights=raw"), "--weights ema; export the same")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--license=my own"], "--license my own: must be an SPDX identifier"),
        (["--metrics=missing.json"], "--metrics missing.json: no such file"),
        (["--metrics=."], "--metrics .: no such file"),
        (["--picture=missing.png"], "--picture missing.png: no such file"),
        (["--dtype=int8"], "--dtype int8 is unknown"),
        (["--num_channels=64"], "--num_channels"),
        (["--beta=2"], "--beta has no effect with --method cimd"),
        (["--steps=99"], "--steps"),
    ],
)
def test_wrong_flags_are_one_line(flags, words, checkpoint, tmp_path):
    assert_refused(export(checkpoint, tmp_path / "out", *flags), words)
    assert not list(tmp_path.iterdir())


def test_other_files_and_missing_models_are_refused(checkpoint, tmp_path):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "image.png").touch()
    assert_refused(export(checkpoint, tmp_path / "cases"), "--out", "files that are not of a model, e.g. image.png")
    assert_refused(export(tmp_path / "missing.pt", tmp_path / "out"), "missing.pt: no such checkpoint")
    assert_refused(export(checkpoint.parent, tmp_path / "out"), "is a folder; pass a file in it")
    assert_refused(export(checkpoint, "gs://bucket/out"), "local folder")


# -- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_is_of_a_phantom_or_the_given_one_without_its_other_content(checkpoint, tmp_path):
    card = exported(checkpoint, tmp_path / "folder")
    assert "The image is synthetic" in card
    with Image.open(tmp_path / "folder" / "samples.png") as picture:
        assert picture.width > 500 and picture.height > 200
    own = Image.new("RGB", (30, 20), (200, 10, 10))
    exif = Image.Exif()
    exif[0x010E] = "Patient Somebody"
    own.save(tmp_path / "own.jpg", exif=exif)
    card = exported(checkpoint, tmp_path / "folder", f"--picture={tmp_path / 'own.jpg'}")
    assert "chosen by the author" in card and "synthetic, and not" not in card
    assert b"Somebody" not in (tmp_path / "folder" / "samples.png").read_bytes()
    with Image.open(tmp_path / "folder" / "samples.png") as picture:
        assert picture.size == (30, 20)


@pytest.mark.parametrize("flags", [{"image_size": [16, 8]}, {"image_channels": 3, "encoder_channels": 3}])
def test_models_of_other_shapes_export(flags, tmp_path):
    path = save_checkpoint(tmp_path / "model.pt", **flags)
    card = exported(path, tmp_path / "folder")
    assert ("images of 16x8 pixels (height x width) and one plane" in card) == ("image_size" in flags)
    assert ("and 3 planes" in card) == ("image_channels" in flags)


def test_a_phantom_has_its_nodule_in_the_middle():
    image = phantom_image((64, 96), 2)
    assert image.shape == (2, 64, 96) and image.min() >= 0 and image.max() <= 1
    assert image[0, 22:42, 38:58].mean() > image[0].mean() + 0.2
