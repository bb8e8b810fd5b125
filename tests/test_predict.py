"""The Python API: what `sample` takes, what it gives back, what `save` writes and what `score` gives."""

import contextlib
import csv
import os
import pickle
import threading
import warnings

import nibabel
import numpy as np
import pytest
import torch
from documents import commands_of, python_blocks, run_python
from drawings import put
from helpers import ROOT, call_script, write_checkpoint
from PIL import Image

from guided_diffusion.data.case_reader import READING_RULES
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.errors import CheckpointError, ConfigError, DataError
from guided_diffusion.lidcloader import Case, LIDCDataset
from guided_diffusion.predict import Predictor, load, score

HEIGHT, WIDTH = 30, 22
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
FEW = {"num_ensemble": 2, "steps": 2}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


def loader(folder, name, **flags):
    """A function of load's arguments that loads a checkpoint with these flags."""
    path = write_checkpoint(folder / f"{name}.pt", reading=READING_RULES, **flags)
    return lambda **more: load(path, device="cpu", **more)


@pytest.fixture(scope="module")
def model(folder):
    return loader(folder, "grey")()


@pytest.fixture(scope="module")
def colour_model(folder):
    return loader(folder, "colour", image_channels=3, encoder_channels=3)()


@pytest.fixture(scope="module")
def case(folder):
    """A labelled case of 30x22 pixels."""
    put(folder / "case1" / "image.png", GREY)
    put(folder / "case1" / "label0_.png", (GREY > 128).astype(np.uint8) * 255)
    put(folder / "case1" / "label1_.png", (GREY > 200).astype(np.uint8) * 255)
    return folder / "case1"


def same(a, b):
    """Whether two ensembles are equal bit for bit."""
    return np.array_equal(a.samples, b.samples) and np.array_equal(a.masks, b.masks)


# -- what it takes ----------------------------------------------------------------------------------------------------

IN_UNIT = (GREY / 255).astype(np.float32)


@pytest.mark.parametrize(
    "image",
    [
        torch.from_numpy(GREY),
        GREY[None],
        GREY[..., None],
        np.repeat(GREY[..., None], 3, axis=2),
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("RGB"),
        Image.fromarray(GREY).convert("RGBA"),
        GREY.astype(np.uint16) * 257,
        GREY.astype(">u2") * 257,
        Image.fromarray(GREY.astype(np.uint16) * 257),
        IN_UNIT,
        torch.from_numpy(IN_UNIT).requires_grad_(),
        (GREY / 255).astype(np.longdouble),
        np.asfortranarray(GREY)[::-1][::-1],
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'dtype', None) or image.mode}",
)
def test_every_form_of_an_image_gives_the_same_masks(model, image):
    assert same(model.sample(image, **FEW), model.sample(GREY, **FEW))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floating_point_values_are_taken_as_they_are(model, dtype):
    image = torch.from_numpy(IN_UNIT).to(dtype)
    drawn = model.sample(image, **FEW)
    np.testing.assert_array_equal(drawn.image[0], image.float().numpy())
    assert same(drawn, model.sample(image.float(), **FEW))


def test_bool_is_0_and_1(model):
    np.testing.assert_array_equal(model.sample(GREY > 128, **FEW).image[0], GREY > 128)


def test_other_integers_are_scaled_as_npy_is(folder, model):
    values = GREY.astype(np.int16) - 100
    put(folder / "signed.npy", values)
    of_file = model.sample(folder / "signed.npy", **FEW)
    for dtype in (np.int16, np.int64, np.int32):
        assert same(model.sample(values.astype(dtype), **FEW, name="signed"), of_file)
    ranged = loader(folder, "ranged", intensity_range="-100,200")()
    np.testing.assert_allclose(ranged.sample(values, **FEW).image[0], np.clip((values + 100) / 300, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(ranged.sample(IN_UNIT, **FEW).image[0], IN_UNIT)  # a range is of stored values
    with pytest.raises(DataError, match="-100 and 200 must become 0 and 1"):
        ranged.sample(values.astype(np.float32), **FEW)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_and_stays_as_it_is(folder, model, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / f"turned{orientation}.png"
    Image.fromarray(GREY).save(path, exif=exif)
    with Image.open(path) as picture:
        drawn = model.sample(picture, **FEW, name=path.stem)
        np.testing.assert_array_equal(np.asarray(picture), GREY)
        assert picture.getexif()[0x0112] == orientation
    assert same(drawn, model.sample(path, **FEW))
    assert drawn.masks.shape[1:] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_of_pictures_is_read_as_a_file(mode, model):
    assert model.sample(Image.fromarray(GREY).convert(mode), **FEW).masks.shape == (2, HEIGHT, WIDTH)


def test_colour_comes_first_or_last(folder, colour_model):
    put(folder / "colours.png", COLOUR)
    of_file = colour_model.sample(folder / "colours.png", **FEW)
    for image in (COLOUR, COLOUR.transpose(2, 0, 1), Image.fromarray(COLOUR), torch.from_numpy(COLOUR) / 255):
        assert same(colour_model.sample(image, **FEW, name="colours"), of_file)
    assert colour_model.sample(np.repeat(GREY[..., None], 3, 2), **FEW).image.shape == (1, HEIGHT, WIDTH)
    shown = np.asarray(of_file.show())[..., :3].reshape(-1, 3)
    assert (shown[:, None] == COLOUR[0, :3]).all(-1).any(0).all()  # the sheet has the image in colour


def test_grey_converts_colour(folder, model):
    greyed = loader(folder, "greyed")(grey=True)
    luminance = np.asarray(Image.fromarray(COLOUR).convert("L"))
    assert same(greyed.sample(COLOUR, **FEW), model.sample(luminance, **FEW))
    for image in (COLOUR, Image.fromarray(COLOUR), COLOUR.transpose(2, 0, 1)):
        with pytest.raises(DataError, match="^image: has 3 planes, in colour; the network takes one plane.*grey=True$"):
            model.sample(image)


def test_modalities_are_planes_of_their_own(folder):
    network = loader(folder, "five", image_channels=5, encoder_channels=5)()
    planes = np.stack([GREY.astype(np.int16) * k for k in range(1, 6)])
    drawn = network.sample(planes, **FEW)
    np.testing.assert_allclose(drawn.image, np.repeat(drawn.image[:1], 5, 0), atol=1e-6)  # each by its own range
    assert same(drawn, network.sample(np.moveaxis(planes, 0, -1), **FEW))
    for wrong in (GREY, planes[:4], COLOUR):
        with pytest.raises(DataError, match=r"5 planes, \[5, H, W\] or \[H, W, 5\]"):
            network.sample(wrong)


def test_padding_is_undone(folder):
    padded = loader(folder, "padded", pad=True)()
    drawn = padded.sample(GREY, **FEW)
    assert drawn.masks.shape == (2, HEIGHT, WIDTH) and drawn.samples.shape == (2, 16, 16)
    assert any("padded to 16x16" in note for note in drawn.notes)
    rigid = loader(folder, "rigid", resize=False)()
    with pytest.raises(DataError, match="^image: 22x30 pixels, but --image_size 16 and --resize False"):
        rigid.sample(GREY)


@pytest.mark.parametrize("image_size", [16, None, (20, 12)])
@pytest.mark.parametrize("image_channels", [1, 4, "auto"])
def test_a_case_has_the_size_of_its_file(model, case, image_size, image_channels):
    found = LIDCDataset(case, image_size, image_channels)[0]
    drawn = model.sample(found, **FEW)
    assert (
        drawn.name == "case1" and drawn.masks.shape == (2, HEIGHT, WIDTH) and drawn.raters.shape == (2, HEIGHT, WIDTH)
    )
    assert any("brought back" in note for note in drawn.notes) == (image_size is not None)
    if image_size == (20, 12):
        return  # it was resized twice
    np.testing.assert_array_equal(drawn.samples, model.sample(case, **FEW).samples)


def test_a_case_of_colour_or_unknown_size(model, colour_model, folder):
    put(folder / "colours.png", COLOUR)
    found = LIDCDataset(folder / "colours.png", None, "auto", require_raters=False)[0]
    assert same(colour_model.sample(found, **FEW), colour_model.sample(COLOUR, **FEW, name="colours"))
    with pytest.raises(DataError, match="grey=True"):
        model.sample(found)
    of_unknown = model.sample(Case("a", torch.rand(1, 9, 7), torch.zeros(0, 9, 7)), **FEW)
    assert of_unknown.masks.shape == (2, 9, 7)
    with pytest.raises(DataError, match="a Case with an image of shape"):
        model.sample(Case("a", torch.rand(9, 7), torch.zeros(0, 9, 7)))


def test_a_list_is_drawn_in_one_batch(model, case, monkeypatch):
    images = [case, GREY, LIDCDataset(case, 16, 1)[0], Image.fromarray(GREY), torch.rand(5, 9)]
    calls = []
    draw = model.segmenter.spaced

    def counted(sampler):
        segmenter = draw(sampler)
        sample = segmenter.sample_masks
        segmenter.sample_masks = lambda image, *more: calls.append(len(image)) or sample(image, *more)
        return segmenter

    monkeypatch.setattr(model.segmenter, "spaced", counted)
    drawn = model.sample(tuple(images), **FEW, batch_size=10)
    assert calls == [5]
    assert [one.name for one in drawn] == ["case1", "image", "case1", "image1", "image2"]
    assert [one.masks.shape[1:] for one in drawn] == [(HEIGHT, WIDTH)] * 4 + [(5, 9)]
    monkeypatch.undo()
    for one, image in zip(drawn, images, strict=True):
        np.testing.assert_allclose(one.samples, model.sample(image, **FEW, name=one.name).samples, atol=1e-5)
    assert [one.name for one in model.sample([GREY, case], **FEW, name=["a", "b"])] == ["a", "b"]
    for names, words in ((["a", "a"], "twice"), (["a", "b\nc"], "cannot be printed")):
        with pytest.raises(ConfigError, match=words):
            model.sample([GREY, case], **FEW, name=names)
    assert [one.name for one in model.sample([GREY, case], **FEW, name=(f"c{k}" for k in range(2)))] == ["c0", "c1"]
    assert isinstance(model.sample([GREY], **FEW), list)


def test_several_threads_draw_the_same(model):
    expected, found = model.sample(GREY, **FEW), []
    threads = [threading.Thread(target=lambda: found.append(model.sample(GREY, **FEW))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(same(one, expected) for one in found)


# -- what it refuses --------------------------------------------------------------------------------------------------


def replaced(value):
    image = IN_UNIT.copy()
    image[3, 4] = value
    return image


@pytest.mark.parametrize(
    "image, words",
    [
        (replaced(np.nan), "contains NaN, in 1 of 660 values"),
        (torch.from_numpy(replaced(np.nan)).bfloat16(), "NaN"),
        (replaced(-np.inf), "infinite values"),
        (replaced(255), "divide an 8-bit image by 255, or pass it as uint8"),
        (replaced(1.00001), "clip"),
        (2 * IN_UNIT - 1, "scale them to"),
        (IN_UNIT[None, None], "pass a list"),
        (IN_UNIT[0], "one plane"),
        (np.float32(0.5), "one plane"),
        (RNG.random((7, 9, 11)), "one plane"),
        (RNG.random((HEIGHT, WIDTH, 4)), "alpha"),
        (RNG.random((3, HEIGHT, 3)), "first or last"),
        (np.zeros((0, 4)), "without any pixel"),
        (np.array(["a"]), "type <U1"),
        (np.array([[{}, 1]]), "type object"),
        (np.zeros((4, 4), [("a", int)]), "real numbers"),
        (IN_UNIT * 1j, "type complex64"),
        (np.ma.masked_array(IN_UNIT, IN_UNIT > 0.5), "masked"),
        (torch.rand(4, 4).to_sparse(), "cannot be converted"),
        (torch.rand(4, 4, device="meta"), "cannot be converted"),
        (None, "type NoneType"),
        ({}, "type dict"),
        ([[0.1, 0.2]], "type list"),
        ([], "an empty list"),
        ((), "an empty list"),
        ([IN_UNIT, replaced(np.nan)], "^image1: contains NaN"),
        ("nowhere", "^nowhere: no such file or folder$"),
        (Image.fromarray(np.dstack([COLOUR, GREY])), "alpha channel varies"),
    ],
)
def test_what_cannot_be_is_one_line(model, image, words):
    with pytest.raises(DataError, match=words) as error:
        model.sample(image)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"num_ensemble": 2.5}, "--num_ensemble 2.5: must be an integer"),
        ({"num_ensemble": np.float32(2.5)}, "--num_ensemble 2.5: must be an integer"),
        ({"num_ensemble": float("inf")}, "must be an integer"),
        ({"num_ensemble": True}, "must be an integer"),
        ({"num_ensemble": 0}, "must be at least 1"),
        ({"num_ensemble": "x"}, "must be an integer"),
        ({"seed": 1.5}, "--seed 1.5: must be an integer"),
        ({"seed": None}, "--seed None: must be an integer"),
        ({"seed": "now"}, "--seed now: must be an integer"),
        ({"batch_size": 2.5}, "--batch_size"),
        ({"steps": float("nan")}, "--steps"),
        ({"step": 3}, "did you mean --steps"),
        ({"pad": True}, "--pad is not a flag"),
        ({"output_size": "large"}, "choose one of own, network"),
        ({"name": 3}, "name 3"),
        ({"name": ""}, "name ''"),
        ({"name": ["a"]}, "name .'a'.: must be a name"),
    ],
)
def test_invalid_arguments_are_one_line(model, flags, words):
    with pytest.raises(ConfigError, match=words) as error:
        model.sample(GREY, **flags)
    assert "\n" not in str(error.value)
    for name in ("a", ["a"], [1, 2], ["a", ""], 5):
        with pytest.raises(ConfigError, match="name"):
            model.sample([GREY, GREY], name=name)


def test_folders_of_several_cases_and_of_none(folder, model):
    for k in range(3):
        put(folder / "several" / f"c{k}" / "image.png", GREY)
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="several: contains 3 cases"):
        model.sample(folder / "several")
    with pytest.raises(DataError, match="none: no pictures and no cases found"):
        model.sample(folder / "none")
    put(folder / "wrong.png", COLOUR)
    with pytest.raises(DataError, match=r"wrong.png: 3 planes, in colour.*--grey True$"):
        model.sample(folder / "wrong.png")


def test_nan_of_a_file_is_named(folder, model):
    put(folder / "nan.npy", replaced(np.nan))
    with pytest.raises(DataError, match=r"nan.npy: contains values that are not finite \(NaN\)"):
        model.sample(folder / "nan.npy")


def test_a_picture_of_several_pages_is_refused(folder, model):
    pages = [Image.fromarray(GREY)] * 3
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    with Image.open(folder / "pages.tif") as picture:
        picture.seek(1)
        with pytest.raises(DataError, match="has 3 pages"):
            model.sample(picture)
        assert picture.tell() == 1
        assert model.sample(picture.copy(), **FEW).masks.shape == (2, HEIGHT, WIDTH)


def test_a_packed_file_of_one_case(folder, model, cases, case, tmp_path):
    for name, source in (("one", case), ("several", cases)):
        pack_folder(str(source), str(tmp_path / f"{name}.pack"))
    assert same(model.sample(tmp_path / "one.pack", **FEW), model.sample(case, **FEW))
    with pytest.raises(DataError, match="several.pack: contains 6 cases"):
        model.sample(tmp_path / "several.pack")


@pytest.mark.parametrize("content", [b"", b"text", bytes(2000)])
def test_a_file_of_another_kind_is_not_called_packed_cases(model, tmp_path, content):
    (tmp_path / "scan.dcm").write_bytes(content)
    with pytest.raises(DataError, match="scan.dcm: neither a file of pack_data.py nor a picture of a known format"):
        model.sample(tmp_path / "scan.dcm")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", 3.5, "", 99, "mps", "xla"])
def test_a_device_that_cannot_be_used_is_one_line(folder, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is such a device")
    with pytest.raises(ConfigError, match="cannot be used .* usable here: cpu") as error:
        load(folder / "grey.pt", device=device)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_cuda_without_a_gpu(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="^device cuda cannot be used"):
        load(folder / "grey.pt", device="cuda")


def test_load_refuses_other_flags_than_those_of_training(model, folder):
    for flags in ({"pad": True}, {"resize": False}, {"intensity_range": (0, 1)}, {"image_size": 32}):
        with pytest.raises(CheckpointError, match=f"was trained with --{next(iter(flags))}"):
            load(folder / "grey.pt", device="cpu", **flags)
    with pytest.raises(ConfigError, match="did you mean --image_size"):
        load(folder / "grey.pt", device="cpu", image_sise=16)


def test_values_on_a_small_part_of_the_scale_are_reported(model):
    with pytest.warns(UserWarning, match="less than a tenth of the scale .* 4080 of 65535"):
        model.sample(GREY.astype(np.uint16) * 16 % 4096, **FEW)
    with pytest.warns(UserWarning, match=r"of 1 in image: scale the values to \[0, 1\]"):
        drawn = model.sample(IN_UNIT / 16, **FEW)
    assert any("less than a tenth" in note for note in drawn.notes)


# -- what it gives back -----------------------------------------------------------------------------------------------


def test_reprs_are_one_line(model, folder):
    assert repr(model) == f"Predictor(cimd, 16x16, 1 channel, 40 steps of ddpm, cpu, '{folder / 'grey.pt'}')"
    assert repr(model.sample(GREY, num_ensemble=1, steps=2)) == f"Ensemble('image', 1 mask of {WIDTH}x{HEIGHT})"
    one_call = loader(folder, "unet", method="unet")()
    assert "unet" in repr(one_call) and "one network call" in repr(one_call)


def test_masks_and_maps_have_the_size_of_the_image(model, case):
    drawn = model.sample(case, num_ensemble=3, steps=2, threshold=0.4)
    maps = (drawn.mean, drawn.variance, drawn.entropy, drawn.consensus(), drawn.consensus("mean"))
    assert {one.shape for one in maps} == {(HEIGHT, WIDTH)} and drawn.samples.shape == (3, 16, 16)
    np.testing.assert_allclose(drawn.image[0], GREY / 255, atol=1e-6)
    np.testing.assert_array_equal(drawn.raters[1], GREY > 200)
    small = model.sample(case, num_ensemble=3, steps=2, threshold=0.4, output_size="network")
    np.testing.assert_array_equal(small.masks, drawn.samples > 0.4)
    assert small.image.shape == (1, 16, 16) and small.raters.shape == (2, 16, 16)


def test_an_ensemble_can_be_sent_to_another_process(model):
    drawn = model.sample(GREY, **FEW)
    assert same(pickle.loads(pickle.dumps(drawn)), drawn)


def write_inputs(folder):
    """A labelled case, a case of the network's size, a NIfTI slice, a turned JPEG and an array; their paths."""
    put(folder / "case1" / "image.png", GREY)
    put(folder / "case1" / "label0_.png", (GREY > 128).astype(np.uint8) * 255)
    put(folder / "same" / "image.png", GREY[:16, :16])
    values = GREY.astype(np.int16)[:, :, None] - 100
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.7, 3, 1])), folder / "slice.nii.gz")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(folder / "turned.jpg", exif=exif)
    put(folder / "values.npy", GREY.astype(np.float64) - 7)
    return {name: folder / name for name in ("case1", "same", "slice.nii.gz", "turned.jpg", "values.npy")}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["case1", "same", "slice.nii.gz", "turned.jpg", "values.npy"])
@pytest.mark.parametrize(
    "flags, files",
    [
        ({}, {}),
        ({"seed": 3, "median_blur": 3, "sampler": "ddim"}, {"consensus": "staple", "save_probabilities": True}),
        ({"output_size": "network", "threshold": 0.4}, {"save_probabilities": True}),
    ],
)
def test_save_writes_what_the_command_writes(model, folder, tmp_path, name, flags, files):
    path = write_inputs(tmp_path / "in")[name]
    command = [
        "segmentation_sample",
        f"--data_dir={path}",
        f"--model_path={folder / 'grey.pt'}",
        "--num_ensemble=3",
        "--steps=2",
        *(f"--{key}={value}" for key, value in {**flags, **files}.items()),
    ]
    done = call_script(*command, f"--out_dir={tmp_path / 'command'}")
    assert done.returncode == 0, done.stderr
    drawn = model.sample(path, num_ensemble=3, steps=2, **flags)
    drawn.save(tmp_path / "python", **files)
    assert content(tmp_path / "python") == content(tmp_path / "command")
    assert "nothing to do" in call_script(*command, f"--out_dir={tmp_path / 'python'}").stdout
    with Image.open(tmp_path / "command" / f"{drawn.name}_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(drawn.show()), np.asarray(sheet))


def test_save_continues_a_folder_and_mixes_nothing_in(model, tmp_path):
    drawn = model.sample(GREY, **FEW)
    drawn.save(tmp_path)
    drawn.save(tmp_path, consensus="majority")
    assert (tmp_path / "image_consensus.png").exists()
    drawn.save(tmp_path)
    assert not (tmp_path / "image_consensus.png").exists()
    other = model.sample(GREY, **FEW, seed=1)
    with pytest.raises(ConfigError, match="made with --seed 0, not 1"):
        other.save(tmp_path)
    other.save(tmp_path, overwrite=True)
    with np.load(tmp_path / "image_samples.npz") as file:
        np.testing.assert_array_equal(file["samples"], other.samples)
    with pytest.raises(ConfigError, match="--consensus vote"):
        drawn.save(tmp_path, consensus="vote")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to"):
        drawn.save(tmp_path / "file")
    with pytest.raises(DataError, match="cannot be that of a file"):
        model.sample(GREY, **FEW, name="a/b").save(tmp_path)


def test_save_needs_the_checkpoint_as_it_was(tmp_path):
    predictor = loader(tmp_path, "changing")()
    drawn = predictor.sample(GREY, **FEW)
    write_checkpoint(tmp_path / "changing.pt", reading=READING_RULES, num_heads=1)
    with pytest.raises(ConfigError, match="has changed since it was loaded"):
        drawn.save(tmp_path / "out")
    os.unlink(tmp_path / "changing.pt")
    with pytest.raises(ConfigError, match="has changed since it was loaded"):
        drawn.save(tmp_path / "out")


def test_a_predictor_without_a_file_draws_and_does_not_save(model, tmp_path):
    from guided_diffusion.script_util import LoadedModel

    bare = Predictor(LoadedModel(model.segmenter, model.configs, model.stored))
    assert "no file" in repr(bare)
    with pytest.raises(ConfigError, match="not loaded from a checkpoint"):
        bare.sample(GREY, **FEW).save(tmp_path)


# -- score ------------------------------------------------------------------------------------------------------------


def test_score_gives_the_figures_of_the_command(model, case, folder, tmp_path):
    drawn = model.sample(case, num_ensemble=3, steps=2)
    drawn.save(tmp_path)
    done = call_script("segmentation_evaluate", f"--data_dir={case}", f"--samples={tmp_path}")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "metrics.csv", newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["case"] == "case1"]
    expected = {name.removesuffix("_3"): value for name, value in row.items() if name not in ("case", "samples")}
    found = score(drawn, drawn.raters)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert type(value) is float and value == pytest.approx(float(expected[name]), rel=1e-5, abs=1e-6), name
    for samples in (drawn.masks, torch.from_numpy(drawn.masks).float(), list(drawn.masks)):
        assert score(samples, torch.from_numpy(drawn.raters).float()) == found


def test_score_of_one_rater_and_of_one_sample():
    masks = RNG.random((3, 8, 8)) > 0.5
    assert "rater_diversity" not in score(masks, masks[:1]) and "ged_unbiased" not in score(masks[:1], masks)


@pytest.mark.parametrize(
    "samples, raters, words",
    [
        (np.ones((2, 4, 4)), np.full((2, 4, 4), 255), r"^raters: .*other than 0 and 1, e.g. 255"),
        (np.full((2, 4, 4), 0.5), np.ones((2, 4, 4)), "^samples: .*0.5"),
        (np.full((2, 4, 4), np.nan), np.ones((2, 4, 4)), "nan"),
        (np.ones((2, 4, 4)), np.ones((4, 4)), "at least one mask"),
        (np.ones((2, 4, 4)), np.ones((0, 4, 4)), "at least one mask"),
        (np.ones((2, 4, 4)), [], "at least one mask"),
        (np.ones((2, 4, 4)), None, "type NoneType"),
        (np.ones((2, 4, 4)), "label0_.png", "type str"),
        (np.ones((2, 4, 4)), np.array([["a"]]), "type <U1"),
        (np.ones((2, 4, 4)), [np.ones((4, 4)), np.ones((4, 5))], "different shapes"),
        (np.ones((2, 4, 4)), np.ones((2, 4, 5)), "samples of 4x4 and raters of 5x4 pixels"),
        (np.ones((1, 2, 4, 4)), np.ones((2, 4, 4)), "samples of 2 and raters of 1 classes .* pass both as"),
        (np.ones((1, 1, 2, 4, 4)), np.ones((2, 4, 4)), "at least one mask"),
    ],
)
def test_score_refuses_in_one_line(samples, raters, words):
    with pytest.raises(DataError, match=words) as error:
        score(samples, raters)
    assert "\n" not in str(error.value)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run(tmp_path):
    """With an untrained network in place of the model of `make demo`."""
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    write_checkpoint(tmp_path / "results" / "demo" / "savedmodel.pt", reading=READING_RULES, image_size=32)
    page = (ROOT / "docs" / "python.md").read_text()
    run_python(python_blocks(page), tmp_path)
    assert (tmp_path / "results" / "sheet.png").exists()
    (words,) = [words for words in commands_of("docs/python.md", tmp_path) if "scripts/segmentation_sample.py" in words]
    with contextlib.chdir(tmp_path):
        assert "nothing to do" in call_script("segmentation_sample", *words[2:]).stdout
