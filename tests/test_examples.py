"""examples/: the loss of minimal.py equals the package's, it stays short, and it learns; the notebook runs."""

import ast
import dataclasses
import json
import re

import pytest
import torch
from helpers import ROOT, load_file, nonzero

from guided_diffusion.methods.cimd import AmbiguousSegmenter, SegmenterConfig

EXAMPLE = ROOT / "examples" / "minimal.py"
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
MOST_LINES = 150


@pytest.fixture
def minimal(monkeypatch):
    """The example as a module, at toy size."""
    module = load_file(EXAMPLE)
    toy = dataclasses.replace(module.UNET, image_size=16, channel_mult=(1,), attention_resolutions=())
    monkeypatch.setattr(module, "UNET", toy)
    monkeypatch.setattr(module, "ENCODERS", dataclasses.replace(module.ENCODERS, num_filters=(4, 8)))
    for name, value in {"TEST_IMAGES": 4, "ENSEMBLE": 4, "DDIM_STEPS": 4, "BATCH_SIZE": 4}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= MOST_LINES


def test_its_loss_equals_the_packages(minimal, monkeypatch):
    """Term by term, with its gradient, at first, middle and last timesteps."""
    monkeypatch.setattr(minimal, "KL_WEIGHT", 1.0)  # so that its gradient counts beside the squared error's
    torch.manual_seed(0)
    model = nonzero(minimal.CIMD())
    config = SegmenterConfig(mask_low=-1.0, kl_weight=minimal.KL_WEIGHT)
    segmenter = AmbiguousSegmenter(model.unet, model.diffusion, model.P, model.Q, config)
    b, mask = torch.rand(5, 1, 16, 16), (torch.rand(5, 1, 16, 16) > 0.5).float()
    t, eps = torch.tensor([0, 1, 300, 700, 999]), torch.randn(5, 1, 16, 16)

    own, package = model.loss(b, mask, t, eps), segmenter(b, mask, t, eps)
    assert own.keys() == package.keys() - {"loss"}
    for name, term in own.items():
        torch.testing.assert_close(term, package[name], msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(sum(own.values()), package["loss"])

    parameters = list(model.parameters())
    gradient, expected = (
        torch.cat([part.flatten() for part in torch.autograd.grad(loss.sum(), parameters)])
        for loss in (sum(own.values()), package["loss"])
    )
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


def test_it_learns(minimal, cases, monkeypatch, unchecked, tmp_path, capsys):
    """On the few images that it is trained on."""
    (tmp_path / "data").mkdir()
    for folder in ("training", "testing"):
        (tmp_path / "data" / folder).symlink_to(cases)
    monkeypatch.setattr(minimal, "ROOT", tmp_path)

    history, before, after = minimal.main(steps=40, picture=tmp_path / "sheet.png")
    losses = history.sum(dim=1)
    assert losses[-10:].mean() < losses[:10].mean() / 2
    assert after < before - 0.2
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert f"{before:.3f} untrained, {after:.3f} trained" in capsys.readouterr().out


def test_the_notebook_has_no_outputs_and_uses_the_public_interface():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
    imported = [node for cell in code for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imported if "guided_diffusion" in node.module} == {"guided_diffusion.predict"}


@pytest.mark.nightly
def test_the_notebook_runs(tmp_path, monkeypatch):
    """As it is, in a kernel of its own; it takes minutes."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2  # the sheets
    text = "".join(output.get("text", "") for output in outputs)
    figures = {name: float(value) for name, value in re.findall(r"^(ged\w*) +([\d.]+)$", text, re.MULTILINE)}
    assert figures["ged"] < figures["ged_of_majority"]
    assert "Ensemble('image', 8 masks of 200x150)" in text
    assert (tmp_path / "quickstart" / "samples" / "image_consensus.png").exists()
