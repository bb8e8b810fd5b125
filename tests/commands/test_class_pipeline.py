"""Several classes from the folder of cases to masks, metrics and pages, by the commands."""

import csv
import json
import shutil
import types

import numpy as np
import pytest
from drawings import put
from helpers import LEAST, as_arguments, assert_refused, call_script
from own_size import draws_nothing, draws_raters, write_model
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.errors import DataError
from guided_diffusion.flags.classes import parse_classes
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.class_pictures import colours_of
from guided_diffusion.masks.label_maps import from_label_map, label_map
from guided_diffusion.masks.metrics import squared_ged
from guided_diffusion.masks.postprocess import PostprocessConfig
from guided_diffusion.predict import load, score
from guided_diffusion.sampling.watch import ChainWatch
from guided_diffusion.visualize.inspector import InspectConfig, Inspector

NAMES = ("disc", "cup")
y, x = np.mgrid[:24, :20]


def rings(rater):
    """A disc with a cup inside, as a label map, of one of several raters."""
    distance = np.hypot(y - 12, x - 9 - rater)
    return np.where(distance < 4 - rater, 2, distance < 8).astype(np.uint8)


RATERS = np.stack([rings(k) for k in range(3)])
IMAGE = np.stack([np.where(RATERS[0] == k, 220, 40) for k in range(3)], axis=-1).astype(np.uint8)


def write_cases(folder, count=2, labels=None):
    for index in range(count):
        put(folder / f"case{index}" / "image.png", np.roll(IMAGE, index, axis=1))
        for rater, label in enumerate(RATERS):
            put(folder / f"case{index}" / f"label{rater}_.png", np.roll(label, index, axis=1))
    stated = {"background": 0, "disc": 1, "cup": 2} if labels is None else labels
    (folder / "dataset.json").write_text(json.dumps({"labels": stated}))
    return folder


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path / "cases")


def model_of(path, *classes):
    return write_model(path, image_size=16, image_channels=3, encoder_channels=3, classes=classes)


def sample(data, model, out, *more, masks=3):
    words = (f"--data_dir={data}", f"--model_path={model}", f"--out_dir={out}", f"--num_ensemble={masks}", "--steps=2")
    return call_script("segmentation_sample", *words, *more)


def maps_in(out, case, count=3):
    return np.stack([np.asarray(Image.open(out / f"{case}_output{k}.png")) for k in range(count)])


def rows_of(out):
    with open(out / "metrics.csv", encoding="utf-8", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(cases, tmp_path, monkeypatch):
    """(model, output) of a network that draws the raters' label maps."""
    draws_raters(monkeypatch)
    model = model_of(tmp_path / "model.pt", *NAMES)
    more = ("--consensus=majority", "--save_probabilities=True", "--evaluate=True")
    done = sample(cases, model, tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr
    return model, tmp_path / "out"


def test_masks_are_label_maps_in_the_colours_of_their_palette(drawn):
    _, out = drawn
    masks = maps_in(out, "case0")
    assert masks.shape == RATERS.shape and set(np.unique(masks)) == {0, 1, 2}
    assert (masks != RATERS).mean() < 0.12  # outlines move by a pixel of the network
    with Image.open(out / "case0_output0.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[:9] == [0, 0, 0, *np.ravel(colours_of(2)).tolist()]


def test_probabilities_and_consensus_follow_from_the_masks(drawn):
    _, out = drawn
    masks = maps_in(out, "case0")
    for k in (1, 2):
        with Image.open(out / f"case0_prob{k}.png") as picture:
            np.testing.assert_allclose(np.asarray(picture) / 65535, (masks == k).mean(0), atol=1e-5)
    votes = np.stack([(masks == k).sum(0) for k in range(3)])
    with Image.open(out / "case0_consensus.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), votes.argmax(0))


def test_figures_are_those_of_the_masks(drawn, cases):
    _, out = drawn
    row, raters = rows_of(out)["case0"], LIDCDataset(cases, image_channels=3)[0].raters.numpy() > 0.5
    masks = from_label_map(maps_in(out, "case0"), parse_classes(NAMES))
    for name, k in (("disc", 0), ("cup", 1)):
        assert float(row[f"ged_3_{name}"]) == pytest.approx(squared_ged(masks[:, k], raters[:, k]).total, abs=1e-6)
    assert float(row["ged_3"]) == pytest.approx((float(row["ged_3_disc"]) + float(row["ged_3_cup"])) / 2, abs=1e-6)
    page = (out / "report.html").read_text()
    assert "disc" in page and "are the colours of the classes" in page


def test_masks_alone_have_the_same_figures(drawn, cases, tmp_path):
    _, out = drawn
    before = rows_of(out)["case1"]
    shutil.copytree(out, tmp_path / "others", ignore=shutil.ignore_patterns("*.npz", "metrics*", "report*"))
    done = call_script("segmentation_evaluate", f"--data_dir={cases}", f"--samples={tmp_path / 'others'}")
    assert done.returncode == 0, done.stderr
    after = rows_of(tmp_path / "others")["case1"]
    assert {name: value for name, value in after.items() if name != "samples"} == {
        name: value for name, value in before.items() if name != "samples"
    }


def test_finished_cases_are_left_and_rewritten_with_other_settings(drawn, cases, monkeypatch):
    model, out = drawn
    draws_nothing(monkeypatch)
    more = ("--consensus=majority", "--save_probabilities=True")
    assert "nothing to do" in sample(cases, model, out, *more).stdout
    assert "2 cases written again" in sample(cases, model, out, "--threshold=0.7").stdout
    assert not list(out.glob("*_prob*")) and not list(out.glob("*_consensus*"))


def test_a_mean_of_several_classes_is_not_one_picture(cases, tmp_path):
    model = model_of(tmp_path / "model.pt", *NAMES)
    assert_refused(sample(cases, model, tmp_path / "out", "--consensus=mean"), "--save_probabilities True")


def test_the_inspector_shows_the_sheet_that_was_written(drawn, cases):
    _, out = drawn
    page = Inspector(types.SimpleNamespace(), InspectConfig(str(out), str(cases))).page()
    with Image.open(out / "case0_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(page), np.asarray(sheet.convert("RGB")))
    without = Inspector(types.SimpleNamespace(), InspectConfig(str(out), "")).page()
    assert without.width > 0


def test_masks_of_nifti_images_are_label_maps_in_their_space(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    draws_raters(monkeypatch)
    affine = np.diag([0.75, 0.5, 3, 1])
    folder = tmp_path / "cases" / "a"
    folder.mkdir(parents=True)
    for name, plane in (("image", IMAGE[..., 0]), ("label0_", RATERS[0]), ("label1_", RATERS[1])):
        nibabel.save(nibabel.Nifti1Image(plane.T[..., None], affine), folder / f"{name}.nii.gz")
    model = write_model(tmp_path / "model.pt", image_size="24,20", classes=NAMES)
    done = sample(tmp_path / "cases", model, tmp_path / "out", "--save_probabilities=True", masks=2)
    assert done.returncode == 0, done.stderr
    image = nibabel.load(tmp_path / "out" / "a_output1.nii.gz")
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, RATERS[1])
    assert nibabel.load(tmp_path / "out" / "a_prob2.nii.gz").get_fdata().max() == 1


def test_regions_of_files_are_painted_over_each_other(tmp_path, monkeypatch):
    draws_raters(monkeypatch)
    folder = tmp_path / "cases" / "a"
    put(folder / "image.png", IMAGE)
    for k, label in enumerate(RATERS):
        put(folder / f"label{k}_disc.png", np.where(label > 0, 255, 0).astype(np.uint8))
        put(folder / f"label{k}_cup.png", np.where(label == 2, 255, 0).astype(np.uint8))
    regions = tuple(f"{name}=file" for name in NAMES)
    model = write_model(
        tmp_path / "model.pt", image_size="24,20", image_channels=3, encoder_channels=3, classes=regions
    )
    done = sample(tmp_path / "cases", model, tmp_path / "out", "--evaluate=True")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(maps_in(tmp_path / "out", "a"), RATERS)
    assert float(rows_of(tmp_path / "out")["a"]["ged_3_disc"]) == pytest.approx(0, abs=1e-9)


# -- training and models ----------------------------------------------------------------------------------------------

TRAIN = (*as_arguments({**LEAST, "image_size": 16, "image_channels": 3}), "--iterations=2", "--batch_size=2")


@pytest.fixture
def run(cases, tmp_path):
    """The folder of a short training."""
    done = call_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path / 'run'}", *TRAIN)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_checkpoint_names_its_classes(run, cases, tmp_path):
    model = load(run / "savedmodel.pt")
    assert model.flags["classes"] == ["disc=1", "cup=2"] and "the classes disc, cup" in repr(model)
    dataset = LIDCDataset(cases, 16, 3)
    ensemble = model.sample(str(cases / "case0"), 3, steps=2)
    assert ensemble.masks.shape == (3, 2, 24, 20) and ensemble.classes == NAMES
    assert ensemble.entropy.shape == (24, 20) and ensemble.consensus("staple").shape == (2, 24, 20)
    assert score(ensemble, ensemble.raters).keys() >= {"ged", "ged_of_majority"}
    same = model.sample(dataset[0], 3, steps=2)
    np.testing.assert_array_equal(same.samples, ensemble.samples)
    ensemble.save(tmp_path / "python")
    assert sample(cases, run / "savedmodel.pt", tmp_path / "out", "--num_samples=1").returncode == 0
    for file in ("case0_output0.png", "case0_sheet.png"):
        assert (tmp_path / "python" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_run_resumes_and_refuses_other_classes(run, cases, tmp_path):
    more = [*TRAIN[:-2], "--iterations=3", "--batch_size=2", f"--log_dir={run}"]
    assert call_script("segmentation_train", f"--data_dir={cases}", *more).returncode == 0
    others = write_cases(tmp_path / "others", labels={"background": 0, "rim": 1, "cup": 2})
    assert_refused(call_script("segmentation_train", f"--data_dir={others}", *more), "classes")
    new = (f"--log_dir={tmp_path / 'new'}", f"--resume_checkpoint={run / 'savedmodel.pt'}")
    assert_refused(call_script("segmentation_train", f"--data_dir={others}", *TRAIN, *new), "the classes disc, cup")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "rim": 1, "cup": 2}, "rim, cup"),
        ({"background": 0, "disc": [1, 2], "cup": 2}, "the regions disc, cup"),
        ({"background": 0, "disc": 1}, "disc, cup"),
    ],
)
def test_cases_of_other_classes_are_refused(tmp_path, labels, expected):
    model = model_of(tmp_path / "model.pt", *NAMES)
    cases = write_cases(tmp_path / "cases", labels=labels)
    assert_refused(sample(cases, model, tmp_path / "out"), expected)


def test_a_model_of_one_class_names_the_flag(cases, tmp_path):
    model = model_of(tmp_path / "model.pt")
    assert_refused(sample(cases, model, tmp_path / "out"), "--structure")
    assert sample(cases, model, tmp_path / "out", "--structure=cup").returncode == 0


def test_unlabelled_cases_need_no_classes(tmp_path):
    put(tmp_path / "scan.png", IMAGE)
    done = sample(tmp_path / "scan.png", model_of(tmp_path / "model.pt", *NAMES), tmp_path / "out", masks=1)
    assert done.returncode == 0 and (tmp_path / "out" / "scan_output0.png").exists(), done.stderr


def test_an_exported_model_draws_the_same_classes(run, cases, tmp_path):
    done = call_script("export", f"--model_path={run / 'savedmodel.pt'}", f"--out={tmp_path / 'model'}")
    assert done.returncode == 0, done.stderr
    one, other = (
        load(path).sample(str(cases / "case0"), 2, steps=2) for path in (run / "savedmodel.pt", tmp_path / "model")
    )
    np.testing.assert_array_equal(one.samples, other.samples)
    assert "disc, cup" in (tmp_path / "model" / "README.md").read_text()


def test_packed_cases_have_the_same_classes(cases, tmp_path):
    done = call_script("pack_data", f"--data_dir={cases}", f"--out={tmp_path / 'packed'}")
    assert done.returncode == 0, done.stderr
    packed, folder = (
        LIDCDataset(tmp_path / "packed" / "cases.pack", image_channels=3),
        LIDCDataset(cases, image_channels=3),
    )
    assert packed.classes == folder.classes
    for one, other in zip(packed, folder, strict=True):
        np.testing.assert_array_equal(one.raters, other.raters)
    run = tmp_path / "run"
    done = call_script(
        "segmentation_train", f"--data_dir={tmp_path / 'packed' / 'cases.pack'}", f"--log_dir={run}", *TRAIN
    )
    assert done.returncode == 0 and load(run / "savedmodel.pt").flags["classes"] == ["disc=1", "cup=2"], done.stderr


def test_a_comparison_keeps_the_classes(cases, tmp_path):
    words = ("--methods=unet", "--budget_images=2", "--batch_size=1", "--num_ensemble=2", "--num_filters=2,4")
    small = ("--image_size=16", "--image_channels=3", "--no_convs_per_block=1", f"--out_dir={tmp_path / 'out'}")
    test = write_cases(tmp_path / "test", 1)
    shutil.move(test / "case0", test / "other0")
    cases = write_cases(cases, 3)
    done = call_script("compare", f"--data_dir={cases}", f"--test_dir={test}", *words, *small)
    assert done.returncode == 0, done.stderr
    assert "ged_2_cup" in (tmp_path / "out" / "metrics.csv").read_text()


def test_ignored_pixels_count_in_no_figure(tmp_path, monkeypatch):
    draws_raters(monkeypatch)
    cases = write_cases(tmp_path / "cases", 1, {"background": 0, "disc": 1, "cup": 2, "ignore": 7})
    changed = RATERS[0].copy()
    changed[:, 9:] = 7
    put(cases / "case0" / "label0_.png", changed)
    dataset = LIDCDataset(cases, image_channels=3)
    np.testing.assert_array_equal(dataset[0].ignored, changed == 7)
    assert not dataset[0].raters[..., 9:].any()
    model = write_model(tmp_path / "model.pt", image_size="24,20", image_channels=3, encoder_channels=3, classes=NAMES)
    done = sample(cases, model, tmp_path / "out", "--evaluate=True")
    assert done.returncode == 0, done.stderr
    left = np.stack([RATERS == 1, RATERS == 2], axis=1)[..., :9]
    classes = parse_classes(NAMES)
    expected = squared_ged(left, left, classes=classes).within_raters
    row = rows_of(tmp_path / "out")["case0"]
    assert float(row["ged_cross_3"]) == pytest.approx(expected, abs=1e-6)


def test_label_maps_and_masks_are_inverse():
    classes = parse_classes(("disc=1+2", "cup=2"))
    masks = from_label_map(RATERS, classes)
    np.testing.assert_array_equal(masks[:, 0], RATERS > 0)
    np.testing.assert_array_equal(label_map(masks, classes.values), RATERS)


def test_the_windows_of_sampling_show_the_classes_in_colours(cases):
    shown = {}
    sink = types.SimpleNamespace(shown=True, picture=lambda window, picture, caption: shown.update({window: picture}))
    classes, case = parse_classes(NAMES), LIDCDataset(cases, image_channels=3)[0]
    watch = ChainWatch(1, True, sink, PostprocessConfig(), classes)
    watch.begin([(case, 0)])
    watch.step(0, case.raters[:1])
    samples = case.raters.numpy()
    watch.finished(case, list(samples))
    (frame,) = watch.case_done(case, samples)
    np.testing.assert_allclose(frame, RATERS[0] / 2)  # a grey label map
    for window in ("case", "masks", "mean, variance and entropy", "latest 0"):
        pixels = {tuple(pixel) for pixel in np.asarray(shown[window].convert("RGB")).reshape(-1, 3).tolist()}
        assert set(colours_of(2)) <= pixels, window


# -- what must not be altered in silence ------------------------------------------------------------------------------


def evaluated(data, samples, *more):
    return call_script("segmentation_evaluate", f"--data_dir={data}", f"--samples={samples}", "--report=False", *more)


def test_samples_of_other_classes_are_not_scored(drawn, cases, tmp_path):
    """Classes in another order, and regions of the same names."""
    _, out = drawn
    (cases / "dataset.json").unlink()
    done = evaluated(cases, out, "--classes=cup,disc")
    assert (
        done.returncode
        and "the classes disc, cup, but the cases have the classes cup, disc" in done.stdout + done.stderr
    )
    write_cases(cases, labels={"background": 0, "disc": [1, 2], "cup": 2})
    done = evaluated(cases, out)
    assert done.returncode and "the regions disc, cup" in done.stdout + done.stderr


def test_the_order_in_dataset_json_does_not_matter(tmp_path, monkeypatch):
    draws_raters(monkeypatch)
    cases = write_cases(tmp_path / "cases", 1, {"background": 0, "cup": 2, "disc": 1})
    model = model_of(tmp_path / "model.pt", "cup=2", "disc=1")
    assert sample(cases, model, tmp_path / "out", "--output_size=own").returncode == 0
    masks = maps_in(tmp_path / "out", "case0")
    assert (masks != RATERS).mean() < 0.12  # with the levels of the labels
    others = tmp_path / "others"
    others.mkdir()
    for k, rater in enumerate(RATERS):
        Image.fromarray(rater).save(others / f"case0_output{k}.png")
    assert evaluated(cases, others).returncode == 0
    assert float(rows_of(others)["case0"]["ged_3_cup"]) == pytest.approx(0, abs=1e-9)


def test_regions_of_levels_that_contain_0_are_written_and_read(tmp_path, monkeypatch):
    """REFUGE's levels: 0 is the cup, 128 the rest of the disc, 255 the background."""
    draws_raters(monkeypatch)
    cases = tmp_path / "cases"
    put(cases / "a" / "image.png", IMAGE)
    for k, rater in enumerate(RATERS):
        put(cases / "a" / f"label{k}_.png", np.array([255, 128, 0], dtype=np.uint8)[rater])
    classes = ("disc=128+0", "cup=0")
    model = write_model(
        tmp_path / "model.pt", image_size="24,20", image_channels=3, encoder_channels=3, classes=classes
    )
    done = sample(cases, model, tmp_path / "out")
    assert done.returncode == 0 and "the level 255 of the labels is read as background" in done.stdout, done.stderr
    np.testing.assert_array_equal(maps_in(tmp_path / "out", "a"), RATERS)
    (tmp_path / "out" / "a_samples.npz").unlink()
    done = evaluated(cases, tmp_path / "out", f"--classes={','.join(classes)}")
    assert done.returncode == 0, done.stdout
    assert float(rows_of(tmp_path / "out")["a"]["ged_3_disc"]) == pytest.approx(0, abs=1e-9)


def test_validation_cases_need_the_same_classes(cases, tmp_path):
    for k in range(2):
        put(tmp_path / "one" / "a" / f"label{k}_.png", RATERS[k].clip(0, 1))
    put(tmp_path / "one" / "a" / "image.png", IMAGE)
    words = (f"--data_dir={tmp_path / 'one'}", f"--log_dir={tmp_path / 'run'}", f"--eval_data_dir={cases}", *TRAIN[:-1])
    done = call_script("segmentation_train", *words, "--batch_size=1")
    assert_refused(done, "the classes disc, cup", "--data_dir", "has one class")


def test_levels_that_contradict_dataset_json_are_refused_in_training(cases, tmp_path):
    words = (f"--data_dir={cases}", f"--log_dir={tmp_path / 'run'}", "--classes=disc=2,cup=1")
    assert_refused(call_script("segmentation_train", *words, *TRAIN), "--classes disc=2,cup=1", "disc=1,cup=2")


def test_a_run_stores_the_levels_so_that_a_class_may_be_absent_later(tmp_path):
    cases, alone = tmp_path / "cases", tmp_path / "alone" / "a"
    levels = np.array([0, 128, 255], dtype=np.uint8)
    put(cases / "a" / "image.png", IMAGE)
    put(cases / "a" / "label0_.png", levels[RATERS[0]])
    put(alone / "image.png", IMAGE)
    put(alone / "label0_.png", levels[RATERS[0].clip(0, 1)])
    words = (
        f"--data_dir={cases}",
        f"--log_dir={tmp_path / 'run'}",
        "--classes=disc,cup",
        *TRAIN[:-1],
        "--batch_size=1",
    )
    for _ in range(2):  # the second resumes
        done = call_script("segmentation_train", *words)
        assert done.returncode == 0, done.stderr
    model = load(tmp_path / "run" / "savedmodel.pt")
    assert model.flags["classes"] == ["disc=128", "cup=255"]
    raters = model.sample(str(alone), 1, steps=2).raters
    assert raters[0, 0].any() and not raters[0, 1].any()


def test_comparisons_refuse_test_cases_with_other_levels(cases, tmp_path):
    test = write_cases(tmp_path / "test", 1, {"background": 0, "disc": 2, "cup": 1})
    words = ("--methods=unet", "--budget_images=2", "--batch_size=1", f"--out_dir={tmp_path / 'out'}")
    assert_refused(call_script("compare", f"--data_dir={cases}", f"--test_dir={test}", *words), "disc=2,cup=1")


def test_a_case_of_other_classes_is_refused_in_python(cases, tmp_path):
    model = load(model_of(tmp_path / "model.pt", *NAMES))
    (cases / "dataset.json").unlink()
    case = LIDCDataset(cases, 16, 3, DataConfig(classes=("cup", "disc")))[0]
    with pytest.raises(DataError, match="the classes cup, disc, but the model has the classes disc, cup"):
        model.sample(case, 1, steps=2)
