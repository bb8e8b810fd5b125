"""hf://OWNER/NAME, with a local server as the Hub: downloaded once, then from the cache; one line where that fails."""

import os
import subprocess
import sys

import pytest
from exported import write_folder
from helpers import ROOT, assert_refused, run_script
from hub_server import COMMIT, Hub, model_of

pytest.importorskip("huggingface_hub")

LOCATE = """
import sys
from guided_diffusion.checkpoints.location import locate
from guided_diffusion.errors import CheckpointError
for path in sys.argv[1:]:
    try:
        print(locate(path))
    except CheckpointError as error:
        print(str(error).replace("\\n", "LINE"))
"""


@pytest.fixture(scope="module")
def model(made_once):
    """The files of a repository of the Hub with a model folder."""
    return model_of(made_once("hub_model", lambda folder: write_folder(folder / "model")) / "model")


def located(hub, cache, *paths, **environment):
    """What `locate` returns or raises for each path, in a process of its own without other output."""
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, *paths],
        env={**os.environ, **hub.environment(cache), **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths), done.stdout
    return lines


def sample(hub, cache, cases, out, path):
    return run_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={path}",
        f"--out_dir={out}",
        "--num_samples=1",
        "--num_ensemble=1",
        "--steps=2",
        env=hub.environment(cache),
    )


def test_a_command_downloads_a_model_once_and_then_works_offline(model, cases, tmp_path):
    with Hub({"alice/model": model}) as hub:
        done = sample(hub, tmp_path / "hf", cases, tmp_path / "first", "hf://alice/model")
        assert done.returncode == 0 and not done.stderr, done.stderr
    fetched = {line.rsplit("/", 1)[1] for line in hub.fetched if "/resolve/" in line}
    assert fetched == {"config.json", "model.safetensors"}
    done = sample(hub, tmp_path / "hf", cases, tmp_path / "second", "hf://alice/model")  # the server has stopped
    assert done.returncode == 0 and not done.stderr, done.stderr
    first, second = (sorted((tmp_path / name).glob("*_output0.png")) for name in ("first", "second"))
    assert first and [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    assert_refused(
        sample(hub, tmp_path / "empty", cases, tmp_path / "third", "hf://alice/model"),
        "hf://alice/model: the Hub cannot be reached, and the cache",
        str(tmp_path / "empty"),
    )


def test_the_cache_is_enough_offline(model, tmp_path):
    with Hub({"alice/model": model}) as hub:
        (folder,) = located(hub, tmp_path, "hf://alice/model")
        assert folder.startswith(str(tmp_path)) and folder.endswith(COMMIT)
        assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
        seen = len(hub.fetched)
        assert located(hub, tmp_path, "hf://alice/model@v1", f"hf://alice/model@{COMMIT}") == [folder, folder]
        assert not any("/resolve/" in line for line in hub.fetched[seen:])
        seen = len(hub.fetched)
        assert located(hub, tmp_path, "hf://alice/model", HF_HUB_OFFLINE="1") == [folder]
        (line,) = located(hub, tmp_path / "empty", "hf://alice/model", HF_HUB_OFFLINE="1")
        assert "the Hub cannot be reached" in line and len(hub.fetched) == seen


def test_what_cannot_be_had_is_one_line(model, tmp_path):
    reasons = {
        "hf://alice/unknown": "no model of this name, or it is private: correct the name, or log in",
        "hf://alice/secret": "/alice/secret, then log in by hf auth login",
        "hf://alice/model@v9": "no revision v9",
        "hf://alice/parts": "lacks config.json or model.safetensors",
        "hf://alice/none": "lacks config.json or model.safetensors",
        "hf://alice": "hf://OWNER/NAME",
        "hf://alice/model/sub": "hf://OWNER/NAME",
        "hf://alice/model@../../x": "hf://OWNER/NAME",
        "hf://../model": "hf://OWNER/NAME",
        "hf://alice/a--b": "not a name of the Hub",
        "https://huggingface.co/alice/model/tree/main": "pass hf://alice/model",
        "https://example.org/model.pt": "use a local folder, gs:// or az://, or hf://OWNER/NAME",
    }
    models = {"alice/model": model, "alice/parts": {"config.json": b"{}"}, "alice/none": {"README.md": b""}}
    with Hub(models, gated=["alice/secret"]) as hub:
        for (path, reason), line in zip(reasons.items(), located(hub, tmp_path, *reasons), strict=True):
            assert line.startswith(f"{path}: ") and reason in line and "LINE" not in line, line
        hub.silent = False
        assert reasons["hf://alice/unknown"] in located(hub, tmp_path, "hf://alice/unknown")[0]


def test_without_the_package_the_line_has_the_command_of_pip(tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not installed')\n")
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, "hf://alice/model"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    remedy = 'pip install "ambiguous-segmentation-diffusion[share]"'
    assert done.stdout == f"hf://alice/model: the Hub needs the package huggingface_hub; {remedy}\n", done.stderr
