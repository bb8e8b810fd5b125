"""What version 0.1 wrote is read: checkpoints, a packed file, a folder of samples and its figures."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import ROOT, call_script

from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags.configs import default_flags
from guided_diffusion.flags.retired import without_constants
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling import store

FORMER = ROOT / "tests" / "fixtures" / "version_0_1"


@pytest.fixture
def former(tmp_path):
    """A copy of the files, with the checkpoint decompressed."""
    folder = shutil.copytree(FORMER, tmp_path / "former")
    (folder / "cimd.pt").write_bytes(gzip.decompress((folder / "cimd.pt.gz").read_bytes()))
    return folder


def run(name, *arguments):
    done = call_script(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


LATER = ("reading", "written_by", "geometry", "output_size", "save_probabilities")


def made_by(file):
    """The flags and hashes that a file of samples names, without constants and what version 0.1 did not store."""
    stored = store.spread({name: file[name].item() for name in file if file[name].ndim == 0})
    stored = {name: value for name, value in stored.items() if name not in LATER}
    return {**default_flags(DataConfig, *MODEL_CONFIGS), **without_constants(stored)}


def sample(former, out):
    return run(
        "segmentation_sample",
        "--data_dir",
        former / "cases",
        "--model_path",
        former / "cimd.pt",
        "--num_ensemble",
        2,
        "--out_dir",
        out,
        "--consensus",
        "majority",
        "--seed",
        3,
    )


def test_a_run_continues_with_its_flags_scores_and_log(former):
    folder = former / "prob-unet"
    run(
        "segmentation_train",
        "--method",
        "prob-unet",
        "--data_dir",
        former / "cases",
        "--log_dir",
        folder,
        "--image_size",
        16,
        "--image_channels",
        1,
        "--num_filters",
        "2,4",
        "--no_convs_per_block",
        1,
        "--batch_size",
        2,
        "--iterations",
        3,
        "--eval_data_dir",
        former / "cases",
        "--eval_cases",
        2,
        "--eval_ensemble",
        2,
    )
    before, after = (torch.load(folder / f"savedmodel00000{step}.pt", weights_only=True) for step in (2, 3))
    assert after["step"] == 3 and after["samples"] == 6 and after["data"] == before["data"]
    assert before["best"]["settings"] == after["best"]["settings"]
    assert [line.split(",")[0] for line in (folder / "progress.csv").read_text().splitlines()] == ["step", "2", "3"]


def test_a_model_samples_as_it_did(former, tmp_path):
    sample(former, tmp_path / "samples")
    for path in sorted((former / "samples").glob("*_samples.npz")):
        with np.load(path) as stored, np.load(tmp_path / "samples" / path.name) as drawn:
            # Within the tolerance of the golden samples: the stored ones were drawn with PyTorch's group norm for
            # channels-last tensors, which rounds more than that of NCHW tensors.
            np.testing.assert_allclose(drawn["samples"], stored["samples"], atol=2e-5)
            assert made_by(drawn) == made_by(stored)


def test_a_folder_of_samples_is_complete_and_scores_as_it_did(former):
    stored = json.loads((former / "samples" / "metrics.json").read_text())
    written = {path: path.read_bytes() for path in (former / "samples").glob("*_*") if path.suffix in (".png", ".npz")}
    assert "nothing to do: all 3 cases are drawn" in sample(former, former / "samples")
    assert all(path.read_bytes() == content for path, content in written.items())
    run("segmentation_evaluate", "--data_dir", former / "cases", "--samples", former / "samples")
    figures = json.loads((former / "samples" / "metrics.json").read_text())["figures"]
    assert figures.keys() == stored["figures"].keys()
    for name, figure in figures.items():
        assert figure["mean"] == pytest.approx(stored["figures"][name]["mean"], abs=1e-6), name


def test_a_packed_file_holds_the_cases_of_its_folder(former):
    packed, folder = LIDCDataset(former / "cases.pack", 16, 1), LIDCDataset(former / "cases", 16, 1)
    assert packed.ids == folder.ids and packed.fingerprint == "e08f2f8d9541c86a"  # by which a run knows its cases again
    for a, b in zip(packed, folder, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.raters, b.raters)
