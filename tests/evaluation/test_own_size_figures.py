"""Figures at the cases' own size are those of the written files and the labels; at the network's size, the former."""

import csv
import html
import json
import shutil

import numpy as np
import pytest
from drawings import put, put_nifti, white
from grids import on_another_grid, placed
from helpers import call_script
from own_size import blobs, draws_raters, plane_in, sample, write_model
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.evaluation.class_figures import ged_of_majority
from guided_diffusion.evaluation.truth import case_truth, read_truth
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import metrics
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.sampling import store

pytest.importorskip("nibabel")

NETWORK = (16, 24)
SIZES = {"larger": (40, 30), "smaller": (12, 10), "the network's": NETWORK, "slice": (30, 44)}


def ending(name):
    return ".nii.gz" if name == "slice" else ".png"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Cases of several sizes with three raters, one of them NIfTI."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, size) in enumerate(SIZES.items()):
        masks = [blobs(*size, 10 * seed + k) for k in range(3)]
        put(folder / name / f"image{ending(name)}", np.where(masks[0], 180, 40).astype(np.uint8), affine=placed())
        for k, mask in enumerate(masks):
            put(folder / name / f"label{k}_.png", white(mask))
    return folder


def draws_soft(monkeypatch):
    """Replace the network: smooth samples around 0.5, of their own for each case and number."""

    def masks(segmenter, cases, batch, *more, **named):
        shape = next(iter(cases.values())).image.shape[1:]
        rows = np.linspace(-1, 1, shape[0])[:, None]
        waves = [np.sin((index + 2) * rows + k) + np.cos(np.linspace(0, 4 + k, shape[1])) for index, k in batch]
        return np.stack([0.5 + 0.4 * wave for wave in waves]).astype(np.float32)

    monkeypatch.setattr("guided_diffusion.sampling.draw.draw_batch", masks)


@pytest.fixture(params=[False, True], ids=["stretched", "padded"])
def drawn(request, data, tmp_path, monkeypatch):
    """(a folder of samples, whether they were padded)."""
    draws_soft(monkeypatch)
    model = write_model(tmp_path / "model.pt", image_size=NETWORK, pad=request.param)
    sample(data, model, tmp_path / "drawn", masks=4)
    return tmp_path / "drawn", request.param


def evaluate(data, samples, *more, out="scored", report=False):
    """(rows of metrics.csv by case and folder, metrics.json, the printed text)."""
    folder = samples.parent / out
    arguments = (f"--data_dir={data}", f"--samples={samples}", f"--out_dir={folder}", f"--report={report}")
    done = call_script("segmentation_evaluate", *arguments, *more)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "metrics.json").read_text())
    with open(folder / "metrics.csv", newline="") as file:
        rows = {(row["case"], row.get("samples", str(samples))): row for row in csv.DictReader(file)}
    return rows, summary, done.stdout


def assert_figures(row, masks, raters):
    expected = metrics.all_figures(masks, raters)
    expected |= {"ged_less_majority": expected["ged"] - ged_of_majority(raters)}
    for name, value in expected.items():
        assert float(row[f"{name}_{len(masks)}"]) == pytest.approx(float(value), abs=1e-9), name
    assert float(row["ged_of_majority"]) == pytest.approx(ged_of_majority(raters))
    assert float(row["rater_diversity"]) == pytest.approx(float(metrics.diversity(raters)))


def labels_of(data, name):
    return np.stack([plane_in(data / name / f"label{k}_.png") > 0 for k in range(3)])


def masks_of(folder, name, count=4):
    return np.stack([plane_in(folder / f"{name}_output{k}{ending(name)}") > 0 for k in range(count)])


def test_figures_are_those_of_the_files(data, drawn):
    samples, _ = drawn
    rows, summary, text = evaluate(data, samples, report=True)
    for name in SIZES:
        assert_figures(rows[name, str(samples)], masks_of(samples, name), labels_of(data, name))
    assert not summary["faults"] and summary["settings"]["output size"] == "own"
    assert summary["settings"]["pixels"] == "4 different values"
    expected = "scored at 4 different sizes, the cases' own size"
    assert expected in text
    assert expected in html.unescape((samples.parent / "scored" / "report.html").read_text())


def test_figures_at_the_networks_size_are_the_former_ones(data, drawn):
    """Those of the stored samples against the labels as the network's reader resizes them."""
    samples, pad = drawn
    rows, summary, text = evaluate(data, samples, "--output_size=network")
    for case in LIDCDataset(data, NETWORK, 1, DataConfig(pad=pad)):
        soft, _ = store.read_case(str(samples / f"{case.id}_samples.npz"))
        assert_figures(rows[case.id, str(samples)], soft > 0.5, case.raters.numpy() > 0.5)
    assert "scored at 24x16 pixels, the network's size" in text
    assert (summary["settings"]["pixels"], summary["settings"]["output size"]) == ("24x16", "network")


def test_postprocessing_given_at_the_evaluation_is_done_at_the_cases_size(data, drawn):
    samples, _ = drawn
    rows, summary, _ = evaluate(data, samples, "--threshold=0.6", "--fill_holes", "--median_blur=3")
    copy = shutil.copytree(samples, samples.parent / "copy")
    model = samples.parent / "model.pt"
    assert "written again" in sample(data, model, copy, "--threshold=0.6", "--fill_holes", "--median_blur=3", masks=4)
    for name in SIZES:
        assert_figures(rows[name, str(samples)], masks_of(copy, name), labels_of(data, name))
    assert summary["settings"]["threshold"] == "0.6" and summary["settings"]["median blur"] == "3"


def test_former_samples_are_scored_at_either_size(data, drawn):
    """Without geometry, output size and the rest, which earlier versions did not store."""
    samples, _ = drawn
    former = samples.parent / "former"
    former.mkdir()
    for path in samples.glob("*_samples.npz"):
        with np.load(path) as file:
            later = ("geometry", "output_size", "save_probabilities", "written_by")
            np.savez(former / path.name, **{name: file[name] for name in file.files if name not in later})
    for flags in ([], ["--output_size=network"]):
        now, then = evaluate(data, samples, *flags)[0], evaluate(data, former, *flags, out="then")[0]
        for name in SIZES:
            a, b = now[name, str(samples)], then[name, str(former)]
            assert {key: value for key, value in a.items() if key != "samples"} == {
                key: value for key, value in b.items() if key != "samples"
            }


def test_samples_of_other_network_sizes_are_compared_at_the_cases_own(data, drawn, monkeypatch):
    samples, pad = drawn
    folders = [samples]
    for size in ("8", "32"):
        model = write_model(samples.parent / f"{size}.pt", image_size=size, pad=not pad)
        folders.append(samples.parent / f"at{size}")
        sample(data, model, folders[-1], masks=4)
    rows, summary, _ = evaluate(data, samples, f"--compare={folders[1]},{folders[2]}")
    for name in SIZES:
        for folder in folders:
            assert_figures(rows[name, str(folder)], masks_of(folder, name), labels_of(data, name))
    assert all(part["settings"]["output size"] == "own" for part in summary["compared"])
    arguments = (f"--data_dir={data}", f"--samples={samples}", f"--compare={folders[1]}", "--output_size=network")
    refused = call_script("segmentation_evaluate", *arguments)
    assert refused.returncode == 2 and "use --output_size own" in refused.stderr


# -- masks of other programs ------------------------------------------------------------------------------------------


def write_others(folder, samples, size="own", suffix=".png", grid=None):
    """The masks of our samples as another program writes them."""
    for name in SIZES:
        soft, made_by = store.read_case(str(samples / f"{name}_samples.npz"))
        back = store.geometry_of(made_by).bring_back
        for k, plane in enumerate(soft):
            mask = (plane if size == "network" else back(plane)) > 0.5
            path = folder / f"{name}_output{k}{suffix}"
            if suffix == ".png":
                put(path, white(mask))
            else:
                voxels = mask.T.astype(np.uint8)[..., None]
                put_nifti(path, *(on_another_grid(voxels, placed(), *grid) if grid else (voxels, placed())))
    return folder


KINDS = {
    "PNG": {},
    "NIfTI": {"suffix": ".nii.gz"},
    "NIfTI, turned": {"suffix": ".nii.gz", "grid": ((1, 0, 2), (True, False, False))},
    "PNG at the network's size": {"size": "network"},
    "NIfTI at the network's size": {"size": "network", "suffix": ".nii.gz"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["ours", "others"])
def test_masks_of_other_programs_beside_ours(data, tmp_path, monkeypatch, kind, first):
    """Masks equal to ours have our figures, at either size, whichever folder is first."""
    draws_raters(monkeypatch)
    model = write_model(tmp_path / "model.pt", image_size=NETWORK)
    sample(data, model, tmp_path / "ours", masks=3)
    others = write_others(tmp_path / "others", tmp_path / "ours", **KINDS[kind])
    names = set(SIZES) - ({"smaller", "larger", "the network's"} if "turned" in kind else set())
    for name in set(SIZES) - names:  # a turned mask needs an image with an affine
        for path in others.glob(f"{name}_*"):
            path.unlink()
    folders = [tmp_path / "ours", others][:: 1 if first == "ours" else -1]
    sizes = ["own", "network"] if "network" in kind else ["own"]
    for size in sizes:
        rows, summary, text = evaluate(data, folders[0], f"--compare={folders[1]}", f"--output_size={size}")
        assert summary["cases"] == len(names), summary["faults"]
        for name in names:
            a, b = (rows[name, str(folder)] for folder in folders)
            assert {**a, "samples": ""} == {**b, "samples": ""}
        assert summary["settings"]["output size"] == summary["compared"][0]["settings"]["output size"] == size
        assert ("own size" if size == "own" else "the network's size") in text


def test_masks_of_other_programs_alone_are_scored_at_the_cases_size(data, drawn):
    samples, _ = drawn
    others = write_others(samples.parent / "others", samples)
    rows, summary, text = evaluate(data, others)
    for name in SIZES:
        masks = np.stack([plane_in(others / f"{name}_output{k}.png") > 0 for k in range(4)])
        assert_figures(rows[name, str(others)], masks, labels_of(data, name))
    assert "the cases' own size" in text and summary["settings"]["output size"] == "own"


def test_a_mask_on_another_grid_than_its_image_is_a_fault(data, drawn):
    samples, _ = drawn
    others = write_others(samples.parent / "others", samples, suffix=".nii.gz")
    path = others / "slice_output1.nii.gz"
    put_nifti(path, plane_in(path).T[..., None], placed(origin=(-29.2, 12, 5)))
    _, summary, _ = evaluate(data, others)
    assert summary["cases"] == 3
    (fault,) = [fault for fault in summary["faults"] if "grid" in fault]
    assert fault.startswith("slice") and "slice_output1.nii.gz" in fault


def test_labels_are_read_for_other_programs_as_for_ours(tmp_path, monkeypatch):
    """A flag that is stored with our samples holds for the raters' masks of all folders."""
    draws_raters(monkeypatch)
    for k in range(3):
        levels = blobs(30, 20, k).astype(np.uint8)
        levels[20:25, 2:8] = 2
        put(tmp_path / "data" / f"c{k}" / "image.png", levels * 100)
        put(tmp_path / "data" / f"c{k}" / "label0_.png", levels)
    model = write_model(tmp_path / "model.pt", merge_labels=True)
    ours, others = tmp_path / "ours", tmp_path / "others"
    sample(tmp_path / "data", model, ours)
    others.mkdir()
    for path in ours.glob("*_output*"):
        shutil.copy(path, others)
    rows, summary, _ = evaluate(tmp_path / "data", others, f"--compare={ours}")
    assert summary["cases"] == 3
    for k in range(3):
        assert rows[f"c{k}", str(ours)]["ged_2"] == rows[f"c{k}", str(others)]["ged_2"]


# -- known truth, packed files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("size", ["own", "network"])
def test_the_truth_is_brought_to_the_size_of_the_figures(tmp_path, monkeypatch, pad, size):
    draws_raters(monkeypatch)
    phantom.write_set(tmp_path / "data", num_cases=3, seed=4, size=48, num_raters=4)
    for path in (tmp_path / "data").rglob("*.png"):
        with Image.open(path) as picture:
            part = picture.crop((0, 6, 48, 42))
        part.save(path)
    model = write_model(tmp_path / "model.pt", image_size=32, pad=pad)
    sample(tmp_path / "data", model, tmp_path / "out", f"--output_size={size}", masks=4)
    rows, summary, _ = evaluate(tmp_path / "data", tmp_path / "out", f"--truth={tmp_path / 'data' / 'truth.json'}")
    assert not summary["faults"]
    figures = {name: figure["mean"] for name, figure in summary["figures"].items()}
    assert figures["implausible_4"] == 0  # the samples are modes
    assert summary["settings"]["pixels"] == ("48x36" if size == "own" else "32x32")
    (mode, *_) = read_truth(str(tmp_path / "data" / "truth.json")).values()
    pixels = (36, 48) if size == "own" else (32, 32)
    assert case_truth(mode, pixels, pad).modes.shape[1:] == pixels


def test_samples_of_packed_cases_are_scored_as_those_of_their_folder(data, drawn):
    samples, _ = drawn
    packed = samples.parent / "packed"
    done = call_script("pack_data", f"--data_dir={data}", f"--out={packed}")
    assert done.returncode == 0, done.stderr
    (pack,) = packed.glob("*.pack")
    sample(pack, samples.parent / "model.pt", samples.parent / "of_pack", masks=4)
    rows, summary, _ = evaluate(data, samples, f"--compare={samples.parent / 'of_pack'}")
    assert summary["cases"] == 4
    for name in SIZES:
        a, b = rows[name, str(samples)], rows[name, str(samples.parent / "of_pack")]
        assert {**a, "samples": ""} == {**b, "samples": ""}
