"""Model folders: what they hold, where they are found, and what is refused in one line."""

import copy
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from blob_store import BlobStore
from exported import draw, flags_of, write_folder
from helpers import LEAST

from guided_diffusion.checkpoints import location
from guided_diffusion.checkpoints.files import fingerprint, sha256
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.checkpoints.location import locate
from guided_diffusion.checkpoints.model_folder import check_target, written_whole
from guided_diffusion.errors import CheckpointError, ConfigError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.script_util import load_segmenter
from guided_diffusion.training.start import find_start


@pytest.fixture(scope="module")
def made(made_once):
    return made_once("model_folder", lambda folder: write_folder(folder / "model")) / "model"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


def change(folder, **parts):
    """Change parts of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def change_flags(folder, **flags):
    change(folder, flags={**json.loads((folder / "config.json").read_text())["flags"], **flags})


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_as_a_checkpoint(folder):
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.step, checkpoint.samples, checkpoint.data, checkpoint.reading) == (3, 12, "0123", 2)
    assert checkpoint.exported == "ema" and checkpoint.prefix == "model." and not checkpoint.missing_to_resume()
    assert checkpoint.flags == flags_of("cimd") and checkpoint.written_by["version"]


def test_the_weights_mean_their_folder_and_the_fingerprint_is_of_both_files(folder):
    assert locate(str(folder / "model.safetensors")) == str(folder) == locate(folder)
    before = fingerprint(str(folder))
    assert before == fingerprint(str(folder / "model.safetensors")) and len(before) == 16
    (folder / "README.md").write_text("other words")
    assert fingerprint(str(folder)) == before
    change(folder, step=4)
    other = fingerprint(str(folder))
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b" ")
    assert len({before, other, fingerprint(str(folder))}) == 3


def test_a_folder_in_a_blob_store_is_read(folder, monkeypatch):
    store = BlobStore(monkeypatch)
    store.objects |= {f"gs://bucket/model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    there, here = load_checkpoint("gs://bucket/model"), load_checkpoint(folder)
    assert all(torch.equal(there.weights[name], value) for name, value in here.weights.items())
    assert fingerprint("gs://bucket/model") == fingerprint(str(folder))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def flip(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def of_another(folder):
    """Weights with the right checksum, which are not in the format."""
    (folder / "model.safetensors").write_bytes(b"{" * 100)
    change(folder, sha256=sha256(str(folder / "model.safetensors")))


def nested(folder):
    (folder / "config.json").write_text("[" * 100_000)


DAMAGES = {
    "a flipped bit": (flip, "model.safetensors: it is damaged, or not the one that config.json belongs to; copy"),
    "cut weights": (cut, "model.safetensors: it is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: the file is empty"),
    "a pointer": (lambda f: (f / "model.safetensors").write_bytes(POINTER), "Git LFS pointer.*git lfs pull"),
    "other content": (of_another, "model.safetensors: is damaged"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "an empty config": (lambda f: (f / "config.json").write_text(""), "config.json is damaged"),
    "a binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "a nested config": (nested, "config.json is damaged"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json is of another program"),
    "another program": (lambda f: change(f, format="diffusers"), "config.json is of another program.*cimd-export"),
    "a newer version": (lambda f: change(f, version=2), "of version 2 of the format.*version 1; install a newer"),
    "no version": (lambda f: change(f, version=None), "damaged parts: version"),
    "wrong parts": (lambda f: change(f, dtype=[1], step="3", flags=4), "damaged parts: flags, dtype, step"),
    "newer reading": (lambda f: change(f, reading=99), "version 99 of the reading rules"),
    "a wrong flag": (lambda f: change_flags(f, num_channels="many"), "stored flags are invalid: --num_channels many"),
    "a wrong sampler": (lambda f: change(f, sampler={"steps": "x"}), "stored flags are invalid: --steps x"),
    "other shapes": (lambda f: change_flags(f, num_channels=64), "does not fit the model.*--num_channels"),
    "vast shapes": (lambda f: change_flags(f, num_channels=320_000), "does not fit the model.*--num_channels"),
    "no channels": (lambda f: change_flags(f, image_channels="auto"), "--image_channels auto"),
}


@pytest.mark.parametrize("damage, words", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_line(folder, damage, words):
    damage(folder)
    with pytest.raises((CheckpointError, ConfigError), match=words) as error:
        load_segmenter(str(folder), {})
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value) or "auto" in words


def places(value, path=()):
    """The paths of all values in nested dicts and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def test_any_other_value_in_the_config_is_taken_or_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    rng = np.random.default_rng(0)
    spots = [path for path in places(config) if path]
    values = (None, -1, 0, 2.5, "x", "", [], {}, True, [[]], {"a": None}, float("nan"), float("inf"))
    for index in rng.permutation(len(spots) * len(values))[:150]:
        other, (*above, last) = copy.deepcopy(config), spots[index // len(values)]
        part = other
        for key in above:
            part = part[key]
        part[last] = values[index % len(values)]
        (folder / "config.json").write_text(json.dumps(other))
        try:
            load_segmenter(str(folder), {})
        except (CheckpointError, ConfigError) as error:
            assert "\n" not in str(error), error


def test_nothing_in_a_folder_is_executed(folder):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(folder / "owned"),)

    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload()))
    for known in ("0", sha256(str(folder / "model.safetensors"))):
        change(folder, sha256=known)
        with pytest.raises(CheckpointError, match="model.safetensors"):
            load_checkpoint(folder)
    assert not (folder / "owned").exists()


def test_raw_weights_that_a_folder_lacks_are_refused(folder):
    with pytest.raises(CheckpointError, match="only averaged weights; remove --weights raw"):
        draw(folder, weights="raw")
    change(folder, weights="raw")
    assert np.array_equal(draw(folder), draw(folder, weights="raw"))


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_shipped_name_is_found_after_an_existing_path(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(location, "SHIPPED", tmp_path)
    there = tmp_path / "elsewhere"
    there.mkdir()
    monkeypatch.chdir(there)
    assert locate("model") == str(folder) and np.isfinite(draw("model")).all()
    with pytest.raises(CheckpointError, match="modle: no such file or folder.*shipped are model"):
        locate("modle")
    with pytest.raises(CheckpointError, match="missing.pt: no such checkpoint"):
        load_checkpoint("missing.pt")
    (there / "model").mkdir()
    assert locate("model") == "model"
    with pytest.raises(CheckpointError, match="model: is a folder"):
        load_checkpoint("model")


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_run_starts_from_a_folder_at_step_0(train, folder, tmp_path):
    trainer = train("run", resume_checkpoint=str(folder), iterations=2, save_interval=2)
    assert trainer.state.steps_done == 2
    again = train("run", resume_checkpoint=str(folder), iterations=4, save_interval=2)
    assert again.state.steps_done == 4
    with pytest.raises(CheckpointError, match="made with --num_channels 32, not 64"):
        train("other", resume_checkpoint=str(folder), num_channels=64)
    inside = shutil.copytree(folder, tmp_path / "inner" / "model")
    trainer = train("inner", resume_checkpoint=str(inside), iterations=1)
    assert trainer.state.steps_done == 1


def test_a_run_takes_the_weights_of_the_folder(folder, tmp_path):
    from small_runs import CONFIGS

    configs = configs_from_flags(
        {**LEAST, "log_dir": str(tmp_path / "run"), "data_dir": "x", "resume_checkpoint": str(folder)}, *CONFIGS
    )
    start = find_start(configs, configs.flags())
    assert start.step == 0 and not start.own and start.checkpoint.reading == 2
    stored = load_checkpoint(folder).weights
    assert all(torch.equal(stored[name], value) for name, value in start.checkpoint.weights.items())


# -- writing ----------------------------------------------------------------------------------------------------------


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_appears_whole_and_replaces_an_earlier_one(folder, tmp_path):
    check_target(str(folder))
    with written_whole(str(folder)) as aside:
        with open(os.path.join(aside, "config.json"), "w") as file:
            file.write("new")
        assert len(content(folder)) == 2
    assert content(folder) == {"config.json": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_earlier_folder_and_nothing_else(folder, tmp_path):
    before = content(folder)
    with pytest.raises(OSError, match="full"), written_whole(str(folder)) as aside:
        with open(os.path.join(aside, "config.json"), "w") as file:
            file.write("half")
        raise OSError("full")
    assert content(folder) == before and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_rename_that_fails_puts_the_earlier_folder_back(folder, tmp_path, monkeypatch):
    before, rename = content(folder), os.rename

    def fail(source, target):
        if str(source).endswith(".writing"):
            raise OSError("in use")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="in use"), written_whole(str(folder)):
        pass
    assert content(folder) == before and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".model.writing").mkdir()
    (tmp_path / ".model.writing" / "half").touch()
    with written_whole(str(tmp_path / "model")) as aside:
        assert not os.listdir(aside)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_folders_are_not_replaced(folder, tmp_path, monkeypatch):
    (folder / ".git").mkdir()
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "README.md").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, words in {
        "model": "files that are not of a model, e.g. .git",
        "cases": "not empty, and not a model folder",
        "file": "a file of this name exists",
        ".": "current folder",
        "..": "current folder, or one above it",
    }.items():
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=f"--out {name}: .*{words}"):
            check_target(name)
    for name in ("empty", "new", "new/below"):
        check_target(name)
    (tmp_path / "link").symlink_to("empty")
    with written_whole("link") as aside:
        open(os.path.join(aside, "config.json"), "w").close()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "config.json").exists()
