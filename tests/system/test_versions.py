"""The version of this program is written in one place, and files store the versions that wrote them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, call_script

import guided_diffusion
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.data.stores.packed import PackedCases
from guided_diffusion.sampling import store
from guided_diffusion.system import versions
from guided_diffusion.system.versions import is_written_by, written_by

OURS = {"version": guided_diffusion.__version__, "torch": torch.__version__}


def test_the_distribution_has_the_version_of_the_package():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == guided_diffusion.__version__


def test_the_version_is_known_in_a_clone_and_reading_it_imports_nothing():
    code = "import sys, guided_diffusion.system.versions as v; print(v.written_by(False), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"{{'version': {guided_diffusion.__version__!r}}} False"


def test_torch_is_named_where_it_takes_part():
    assert written_by() == OURS and written_by(uses_torch=False) == {"version": OURS["version"]}
    assert is_written_by(written_by()) and is_written_by({}) and is_written_by({"version": "9", "numpy": "3"})
    assert not any(map(is_written_by, (None, "0.2.0", ["0.2.0"], {"version": 2}, {3: "0.2.0"})))


def test_a_packed_file_stores_the_version(cases, tmp_path):
    pack_folder(str(cases), str(tmp_path / "a.pack"), 8)
    header = PackedCases(str(tmp_path / "a.pack")).header
    assert header["written_by"] == {"version": OURS["version"]} and header["image_size"] == 8
    pack_folder(str(cases), str(tmp_path / "b.pack"), 8)
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "b.pack").read_bytes()


@pytest.fixture
def drawn(trained, cases, tmp_path):
    """A function that samples one case, with more flags; its samples file and what is printed."""

    def draw(out, *more):
        flags = [f"--data_dir={cases}", f"--model_path={trained / 'savedmodel.pt'}", f"--out_dir={tmp_path / out}"]
        done = call_script("segmentation_sample", *flags, "--num_samples=1", "--num_ensemble=2", "--steps=2", *more)
        assert done.returncode == 0, done.stderr
        return tmp_path / out / "phantom0000_samples.npz", done.stdout

    return draw


def test_samples_store_the_versions_that_drew_them_which_do_not_decide_what_they_are(drawn, monkeypatch):
    path, _ = drawn("a")
    assert json.loads(store.read_case(str(path))[1]["written_by"]) == OURS
    assert path.read_bytes() == drawn("b")[0].read_bytes()

    monkeypatch.setattr(versions, "__version__", "0.9.9")
    assert "nothing to do" in drawn("a")[1]
    assert "written again" in drawn("a", "--threshold=0.4")[1]  # by this version, from samples of the earlier one
    made_by = store.read_case(str(path))[1]
    assert json.loads(made_by["written_by"]) == OURS and made_by["threshold"] == 0.4
    drawn("a", "--threshold=0.4", "--overwrite")
    assert json.loads(store.read_case(str(path))[1]["written_by"]) == {**OURS, "version": "0.9.9"}


def test_samples_of_an_unknown_version_stay_so_when_their_masks_are_written_again(drawn):
    path, _ = drawn("a")
    with np.load(path) as file:
        np.savez(path, **{name: file[name] for name in file.files if name != "written_by"})
    assert "written again" in drawn("a", "--threshold=0.4")[1]
    assert store.read_case(str(path))[1]["written_by"] == ""
