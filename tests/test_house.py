"""Imports point one way, and importing does nothing."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGE = ROOT / "guided_diffusion"

# module -> the modules of ours that it may import
ALLOWED = {
    "__init__": set(),
    "nn": set(),
    "losses": set(),
    "phantom": set(),
    "metrics": set(),
    "fidelity": {"case_reader", "image_files", "metrics"},
    "report": {"metrics"},
    "scoring": {"nn", "case_reader", "ensemble", "fidelity", "image_files", "lidcloader", "metrics", "pictures", "postprocess"},
    "evaluation": {"case_reader", "fidelity", "image_files", "metrics", "nn", "report", "scoring", "storage", "threads"},
    "postprocess": {"nn"},
    "image_files": set(),
    "folder_walk": set(),
    "workers": set(),
    "threads": set(),
    "thread_choice": {"compute", "threads", "train_config"},
    "case_reader": {"folder_walk", "image_files"},
    "case_store": {"case_reader", "image_files", "packed"},
    "lidcloader": {"case_reader", "case_store"},
    "case_folder": {"image_files", "storage"},
    "safe_pickle": {"image_files"},
    "source_files": {"folder_walk", "image_files"},
    "lidc_sets": {"case_folder", "image_files", "safe_pickle", "source_files"},
    "challenge_sets": {"case_folder", "folder_walk", "image_files", "source_files"},
    "converters": {"nn", "case_folder", "challenge_sets", "image_files", "lidc_sets"},
    "lidc_dicom": {"folder_walk", "image_files"},
    "lidc_idri": {"image_files", "lidc_dicom"},
    "prepare": {"nn", "case_folder", "folder_walk", "image_files", "lidc_dicom", "lidc_idri", "storage", "threads", "workers"},
    "phantom_files": {"phantom"},
    "split_check": {"case_folder", "image_files", "storage"},
    "data_check": {"case_reader", "image_files", "metrics", "pictures", "split_check", "storage"},
    "packed": {"image_files", "storage"},
    "symmetry": set(),
    "augmentation": {"symmetry"},
    "batches": set(),
    "dist_util": {"nn"},
    "logger": {"nn", "dist_util", "storage"},
    "storage": set(),
    "signals": set(),
    "step_reports": set(),
    "checkpoint": {"storage"},
    "checkpoint_folder": {"storage", "checkpoint"},
    "gaussian_diffusion": {"nn", "losses"},
    "respace": {"nn", "gaussian_diffusion"},
    "sampling": {"nn", "gaussian_diffusion", "symmetry"},
    "ema": {"dist_util"},
    "presets": set(),
    "compute": {"nn"},
    "predict": {"nn", "command_line", "compute", "ensemble", "image_files", "lidcloader", "postprocess", "sampling", "script_util"},
    "resample": {"nn"},
    "unet": {"nn"},
    "shared_encoder": {"gaussian_diffusion", "nn", "unet"},
    "distribution": {"nn"},
    "baselines.__init__": set(),
    "baselines.plain_unet": {"nn", "distribution"},
    "baselines.baseline": {"nn"},
    "baselines.prob_unet": {"nn", "distribution", "baselines.baseline", "baselines.plain_unet"},
    "baselines.ssn": {"nn", "baselines.baseline", "baselines.plain_unet"},
    "baselines.deterministic": {"nn", "baselines.baseline", "baselines.plain_unet"},
    "baselines.methods": {"baselines.deterministic", "baselines.prob_unet", "baselines.ssn"},
    "comparison": {
        "baselines.methods", "case_reader", "case_store", "command_line", "comparison_cases", "comparison_runner", "fidelity", "gaussian_diffusion",
        "image_files", "lidcloader", "logger", "nn", "predict", "presets", "sampling", "script_util", "storage", "train_config", "workers",
    },
    "comparison_config": {"nn", "presets"},
    "comparison_cases": {"case_folder", "case_reader", "image_files", "split_check", "storage"},
    "comparison_page": set(),
    "comparison_runner": {"workers"},
    "segmentation": {"nn", "unet", "distribution", "gaussian_diffusion", "respace", "sampling", "symmetry"},
    "pictures": {"postprocess"},
    "windows": {"nn"},
    "chain_watch": {"pictures", "postprocess", "windows"},
    "inspector": {"case_reader", "ensemble", "image_files", "pictures", "postprocess", "storage", "windows"},
    "visualize": {"command_line", "image_files", "inspector", "nn", "storage", "windows"},
    "case_writer": {"storage"},
    "ensemble": {"nn", "case_writer", "checkpoint", "image_files", "pictures", "postprocess", "storage"},
    "validation": {"nn", "compute", "ensemble", "metrics", "pictures", "postprocess"},
    "train_config": {"nn", "augmentation", "checkpoint", "checkpoint_folder", "storage", "symmetry"},
    "train_util": {
        "nn", "augmentation", "batches", "checkpoint", "checkpoint_folder", "compute", "dist_util", "ema", "logger", "resample", "signals",
        "step_reports", "train_config", "windows",
    },
    "command_line": {"checkpoint", "image_files", "nn", "presets", "train_config"},
    "script_util": {
        "nn", "baselines.baseline", "baselines.methods", "case_reader", "checkpoint", "command_line", "distribution", "gaussian_diffusion",
        "presets", "respace", "sampling", "segmentation", "shared_encoder", "unet",
    },
}  # fmt: skip
OPTIONAL = {"visdom", "mpi4py", "defusedxml", "nibabel", "pydicom", "h5py", "matplotlib", "tensorboard", "diffusers", "monai"}


def title(path):
    """A module's name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path):
    """(modules of ours, top-level names of others imported at module level)."""
    tree = ast.parse(path.read_text())
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = path.parent.relative_to(PACKAGE).parts
            inside = inside[: len(inside) + 1 - node.level]
            ours |= {".".join((*inside, name)) for name in ([node.module] if node.module else [alias.name for alias in node.names])}
        names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
        assert not any(name and name.startswith("guided_diffusion") for name in names), "import by relative names"
    others = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    others |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
    return ours, others


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=title)
def test_imports_point_one_way(path):
    ours, others = imports(path)
    assert ours <= ALLOWED[title(path)], f"{title(path)} imports {ours - ALLOWED[title(path)]}"
    assert not others & OPTIONAL


def test_importing_has_no_effect():
    """No connection, file, environment variable, device or global random state is touched by importing everything."""
    code = """
import os, socket, sys, torch, numpy, scipy.ndimage, PIL.Image, blobfile, tqdm
before = dict(os.environ), torch.get_rng_state(), torch.get_default_dtype()
def refuse(*a, **k): raise AssertionError("a connection at import")
socket.socket.connect = refuse
for name in sys.argv[1:]: __import__(f"guided_diffusion.{name}")
assert before[0] == dict(os.environ) and torch.equal(before[1], torch.get_rng_state())
assert before[2] == torch.get_default_dtype() and not torch.cuda.is_initialized()
assert not torch.distributed.is_initialized()
"""
    names = [title(path) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=ROOT)
