"""The house of docs/design.md: imports point one way and do nothing, rooms stay small, each says what it is for."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGE = ROOT / "guided_diffusion"
FILES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {"visdom", "mpi4py", "defusedxml", "nibabel", "pydicom", "h5py", "matplotlib", "tensorboard", "diffusers", "monai"}
MOST_FILES, MOST_LINES = 10, 300


def title(path):
    """A module's name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_imports_point_one_way():
    """The contract of pyproject.toml: rooms, layer by layer."""
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=title)
def test_nothing_optional_is_imported_before_it_is_used(path):
    body = ast.parse(path.read_text()).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in body if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {name.split(".")[0] for name in names} & OPTIONAL


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
    names = [title(path) for path in FILES if path.stem not in ("__init__", "__main__")]
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=ROOT)


def test_published_names_are_where_users_look_for_them():
    from guided_diffusion.methods import AmbiguousSegmenter
    from guided_diffusion.methods.cimd import AmbiguousSegmenter as defined
    from guided_diffusion.sampling import sample
    from guided_diffusion.sampling.samplers import sample as sampler

    assert AmbiguousSegmenter is defined and sample is sampler
    with pytest.warns(DeprecationWarning, match="import it from guided_diffusion.methods"):
        from guided_diffusion.segmentation import AmbiguousSegmenter as former
    assert former is defined
    with pytest.raises(ImportError):
        from guided_diffusion.sampling import nothing  # noqa: F401
