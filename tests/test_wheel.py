"""The wheel, in an environment of its own, without the repository: trains, samples, scores and compares."""

import os
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from helpers import LEAST, ROOT, as_arguments
from PIL import Image

from guided_diffusion.prepare.phantoms import phantom


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment's folder of programs; what the wheel needs comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, source], check=True)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source,
    ]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], check=True
    )
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    with open(os.path.join(packages.stdout.strip(), "needs.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")  # behind the wheel's own packages
    return python.parent


@pytest.mark.nightly
def test_the_wheel_draws_with_a_shipped_model(installed, tmp_path):
    """Beside a picture alone, without the repository."""
    shutil.copy(ROOT / "data" / "testing" / "phantom0000" / "image_phantom0000.png", tmp_path / "picture.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["cimd-sample", "--model_path", "phantom", "-i", "picture.png", "-o", "out/", "--num_ensemble=2"]
    done = subprocess.run(
        [installed / words[0], *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    masks = [np.asarray(Image.open(tmp_path / "out" / f"picture_output{k}.png")) for k in range(2)]
    assert all(mask.shape == (128, 128) and mask.any() for mask in masks)


@pytest.mark.nightly
def test_the_wheel_trains_samples_scores_and_compares(installed, tmp_path):
    phantom.write_set(tmp_path / "cases", num_cases=4, seed=1, size=8, num_raters=2)
    phantom.write_set(tmp_path / "others", num_cases=2, seed=2, size=8, num_raters=2)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        done = subprocess.run(
            [installed / program, *map(str, arguments)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import guided_diffusion; print(guided_diffusion.__file__)")
    assert where.startswith(str(installed.parent))
    run("cimd-train", "--data_dir=cases", "--log_dir=run", "--iterations=1", "--batch_size=2", *as_arguments(LEAST))
    run(
        "cimd-sample",
        "--data_dir=cases",
        "--model_path=run/savedmodel.pt",
        "--num_ensemble=2",
        "--steps=2",
        "--out_dir=samples",
    )
    run("cimd-evaluate", "--data_dir=cases", "--samples=samples")
    assert "<html" in (tmp_path / "samples" / "report.html").read_text()
    run(
        "cimd-compare",
        "--data_dir=cases",
        "--test_dir=others",
        "--methods=unet",
        "--budget_images=2",
        "--batch_size=1",
        "--num_ensemble=2",
        "--image_size=8",
        "--image_channels=1",
        "--num_filters=2,4",
        "--no_convs_per_block=1",
        "--out_dir=comparison",
    )
    assert "unet" in (tmp_path / "comparison" / "comparison.md").read_text()
