"""Checkpoints: what they hold, what is refused, and those of the published code."""

import errno
import os
import pathlib
from dataclasses import replace

import pytest
import torch
from helpers import TINY, segmenter_of

from guided_diffusion import __version__
from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.checkpoints.format import Checkpoint
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.distribution import EncoderConfig
from guided_diffusion.errors import CheckpointError, ConfigError
from guided_diffusion.flags.configs import differences
from guided_diffusion.script_util import create_model_and_diffusion, load_segmenter

PUBLISHED = {
    "image_size": 16,
    "image_channels": 4,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_heads": 1,
    "learn_sigma": True,
    "use_scale_shift_norm": False,
}


def published_model(**flags):
    torch.manual_seed(1)
    model = create_model_and_diffusion(**{**PUBLISHED, **flags})[0]
    for p in model.parameters():
        torch.nn.init.normal_(p)
    return model


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_state_dicts_of_the_published_code_load(tmp_path, prefix):
    model = published_model()
    torch.save({prefix + name: value for name, value in model.state_dict().items()}, tmp_path / "savedmodel.pt")
    segmenter = load_segmenter(str(tmp_path / "savedmodel.pt"), PUBLISHED).segmenter
    for a, b in zip(segmenter.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def renamed(weights, prefix, inner=None):
    """Weights with a prefix, on all names or, for `inner`, behind the first part of those that begin with it."""
    if inner is None:
        return {prefix + name: value for name, value in weights.items()}
    return {name.replace(f"{inner}.", f"{inner}.{prefix}", 1): value for name, value in weights.items()}


WRAPPED = {
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3, "loss": 0.5},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}},
    "compiled": lambda weights: renamed(weights, "_orig_mod."),
    "compiled in part": lambda weights: renamed(weights, "_orig_mod.", "middle_block"),
    "parallel and compiled": lambda weights: renamed(weights, "module._orig_mod."),
    "compiled and parallel": lambda weights: renamed(weights, "_orig_mod.module."),
    "wrapped and parallel": lambda weights: {"state_dict": renamed(weights, "module.")},
    "wrapped and compiled": lambda weights: {"model": renamed(weights, "_orig_mod.")},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_unwrapped(tmp_path, wrap):
    model = published_model()
    torch.save(wrap(model.state_dict()), tmp_path / "theirs.pt")
    for to_sample in (False, True):
        loaded = load_checkpoint(tmp_path / "theirs.pt", to_sample)
        assert loaded.is_published and loaded.weights.keys() == {f"model.{name}" for name in model.state_dict()}
    segmenter = load_segmenter(str(tmp_path / "theirs.pt"), PUBLISHED).segmenter
    for a, b in zip(segmenter.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


UNCLEAR = {
    "two entries": (lambda w: {"model": w, "ema": w}, "unclear.*'model' or 'ema'"),
    "both wrappers": (lambda w: {"model": w, "state_dict": w}, "unclear.*'model' or 'state_dict'"),
    "another entry": (lambda w: {"ema": w, "step": 3}, "unclear.*'ema'.*torch.save"),
    "twice": (lambda w: {**w, **renamed(w, "module.")}, "occur twice"),
    "another network": (lambda w: {"conv1.weight": w["out.2.weight"]}, "another network.*conv1.weight"),
    "another network, wrapped": (lambda w: {"model": {"conv1.weight": w["out.2.weight"]}}, "not a checkpoint"),
    "no weights": (lambda w: {"model": "resnet"}, "not a checkpoint"),
    "empty": (lambda w: {}, "not a checkpoint"),
}


@pytest.mark.parametrize("wrap, words", UNCLEAR.values(), ids=UNCLEAR)
def test_weights_that_are_ambiguous_or_of_something_else_are_refused(tmp_path, wrap, words):
    torch.save(wrap(published_model().state_dict()), tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=f"theirs.pt: .*{words}"):
        load_checkpoint(tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    "flags, word",
    [
        ({"num_channels": 64}, "--num_channels"),
        ({"learn_sigma": False}, "--learn_sigma"),
        ({"use_scale_shift_norm": True}, "--use_scale_shift_norm"),
        ({"channel_mult": "1,2"}, "--channel_mult"),
        ({"attention_resolutions": "16"}, "--attention_resolutions"),
        ({"num_res_blocks": 2}, "--num_res_blocks"),
        ({"resblock_updown": True}, "--resblock_updown"),
        ({"image_channels": 2}, "--image_channels"),
    ],
)
def test_a_mismatch_names_the_weight_and_the_likely_flag(tmp_path, flags, word):
    path = str(tmp_path / "savedmodel.pt")
    torch.save(published_model().state_dict(), path)
    with pytest.raises(CheckpointError) as error:
        load_segmenter(path, {**PUBLISHED, **flags})
    assert path in str(error.value) and "model." in str(error.value)
    assert word in str(error.value).split("Likely cause:")[1]


def test_a_picture_model_of_three_channels_is_refused_so(tmp_path):
    path = str(tmp_path / "64x64_diffusion.pt")
    torch.save(published_model(image_channels=2).state_dict(), path)
    with pytest.raises(CheckpointError, match="takes 3 channels.*a model with 3 channels generates images"):
        load_segmenter(path, PUBLISHED)


def test_classes_in_a_checkpoint_are_named(tmp_path):
    path = str(tmp_path / "m.pt")
    torch.save(published_model(class_cond=True).state_dict(), path)
    with pytest.raises(CheckpointError, match="class_cond"):
        load_segmenter(path, PUBLISHED)


def test_damaged_foreign_and_missing_files_are_refused_and_nothing_in_them_runs(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save(published_model().state_dict(), whole)
    content = whole.read_bytes()
    files = {"cut.pt": content[: len(content) // 2], "empty.pt": b"", "text.pt": b"hello"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({0: torch.zeros(2)}, tmp_path / "numbers.pt")
    torch.save({"time_embed.0.weight": Payload(tmp_path / "owned")}, tmp_path / "payload.pt")
    for name in (*files, "foreign.pt", "list.pt", "numbers.pt", "payload.pt", "missing.pt", "."):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(str(tmp_path / name))
    assert not (tmp_path / "owned").exists()


def state(step, value=0.0):
    segmenter = segmenter_of(TINY)
    with torch.no_grad():
        next(segmenter.parameters()).fill_(value)
    return Checkpoint(step=step, flags=dict(TINY), weights=segmenter.state_dict())


def test_saving_keeps_every_step_and_renews_the_newest(tmp_path):
    for step in (3, 12):
        CheckpointFolder(str(tmp_path)).save(state(step, value=step))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "savedmodel.pt",
        "savedmodel000003.pt",
        "savedmodel000012.pt",
    ]
    newest = CheckpointFolder(str(tmp_path)).newest()
    assert newest.checkpoint.step == 12 and newest.path.endswith("savedmodel000012.pt") and newest.skipped == []
    for name, step in (("savedmodel.pt", 12), ("savedmodel000003.pt", 3)):
        plain = torch.load(tmp_path / name, weights_only=True)
        assert plain["step"] == step and plain["weights"]["model.time_embed.0.weight"].eq(step).all()


def test_a_failed_save_leaves_the_old_one_and_nothing_half_written(tmp_path, monkeypatch):
    CheckpointFolder(str(tmp_path)).save(state(1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left on device: .*savedmodel000002.pt"):
        CheckpointFolder(str(tmp_path)).save(state(2))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_newest_whole_one_is_found_behind_a_damaged_one(tmp_path):
    for step in (1, 2):
        CheckpointFolder(str(tmp_path)).save(state(step))
    newest = tmp_path / "savedmodel000002.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    found = CheckpointFolder(str(tmp_path)).newest()
    assert found.checkpoint.step == 1 and "savedmodel000002.pt" in found.skipped[0]
    (tmp_path / "savedmodel000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in .* is intact"):
        CheckpointFolder(str(tmp_path)).newest()


def resident_bytes(path):
    """Bytes of a file that this process has mapped into memory and touched."""
    found, total = False, 0
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:  # the first line of a mapping
            found = line.endswith(str(path))
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="only Linux says what is mapped")
def test_sampling_reads_of_a_checkpoint_only_the_weights_that_it_uses(tmp_path):
    """Of 18 parts of 4 MB one is used: the others, 16 of them the optimizer's, are neither read nor kept."""
    size, name = 4 * 2**20, "model.time_embed.0.weight"
    moments = {index: {"exp_avg": torch.ones(size // 4), "exp_avg_sq": torch.ones(size // 4)} for index in range(8)}
    weights, average = {name: torch.full((size // 4,), 2.0)}, {name: torch.full((size // 4,), 3.0)}
    whole = replace(state(1), weights=weights, ema={"0.9": average}, optimizer={"state": moments})
    path = CheckpointFolder(str(tmp_path)).save(whole)

    checkpoint = load_checkpoint(path, to_sample=True)
    assert checkpoint.optimizer is None and resident_bytes(path) < size / 2
    assert checkpoint.ema["0.9"][name].clone().mean() == 3
    assert size <= resident_bytes(path) < 1.5 * size
    del checkpoint
    assert resident_bytes(path) == 0
    assert load_checkpoint(path).optimizer.keys() == {"state"} and resident_bytes(path) == 0


def test_a_file_that_cannot_be_mapped_is_read(tmp_path, monkeypatch):
    model = published_model()
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load, refused = torch.load, []

    def load_without_maps(file, mmap=False, **more):
        if mmap:
            refused.append(file)
            raise RuntimeError("mmap: Operation not supported")
        return load(file, **more)

    def check(name):
        segmenter = load_segmenter(str(tmp_path / name), PUBLISHED).segmenter
        for a, b in zip(segmenter.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b)

    check("old.pt")
    torch.save(model.state_dict(), tmp_path / "new.pt")
    monkeypatch.setattr(torch, "load", load_without_maps)
    check("new.pt")
    assert refused == [str(tmp_path / "new.pt")]


def test_sampling_leaves_the_optimizer_of_the_published_code_alone(tmp_path):
    path = tmp_path / "savedmodel000100.pt"
    torch.save(published_model().state_dict(), path)
    torch.save(published_model().state_dict(), tmp_path / "emasavedmodel_0.9999_000100.pt")
    (tmp_path / "optsavedmodel000100.pt").write_bytes(b"damaged")
    checkpoint = load_checkpoint(path, to_sample=True)
    assert checkpoint.is_published and checkpoint.step == 100 and list(checkpoint.ema) == ["0.9999"]
    with pytest.raises(CheckpointError, match="optsavedmodel000100.pt"):
        load_checkpoint(path)


def test_weights_of_whole_numbers_are_refused(tmp_path):
    weights = published_model().state_dict()
    torch.save({**weights, "out.2.bias": weights["out.2.bias"].long()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="model.out.2.bias is 2 int64, not 2"):
        load_segmenter(str(tmp_path / "m.pt"), PUBLISHED)


def test_a_checkpoint_is_written_as_it_was_read(tmp_path):
    """What a file lacks has a default, which is written only where it has a meaning."""
    path = CheckpointFolder(str(tmp_path)).save(state(3))
    content = torch.load(path, weights_only=True)
    assert content.keys() == {
        *("format", "version", "flags", "threads", "data", "reading"),
        *("random", "step", "weights", "ema", "best", "bad_steps", "written_by"),
    }
    checkpoint = load_checkpoint(path)
    assert checkpoint.content().keys() == content.keys() and checkpoint.bad_steps == (0, 0)
    assert checkpoint.missing_to_resume() == ["samples", "optimizer", "schedule_sampler", "scaler"]


def test_a_checkpoint_names_the_versions_that_wrote_it(tmp_path):
    path = CheckpointFolder(str(tmp_path)).save(state(3))
    content = torch.load(path, weights_only=True)
    assert content["written_by"] == {"version": __version__, "torch": torch.__version__}
    assert all(type(text) is str for text in content["written_by"].values())  # torch's own is of a class of torch
    assert load_checkpoint(path).written_by == content["written_by"]

    earlier = {"version": "0.1.5", "torch": "2.9.0", "later": "entry"}
    torch.save({**content, "written_by": earlier}, path)
    read = load_checkpoint(path)
    assert read.written_by == earlier and read.content()["written_by"] == content["written_by"]
    del content["written_by"]
    torch.save(content, path)
    assert load_checkpoint(path).written_by == {}  # of a version that did not store it


@pytest.mark.parametrize("damaged", ["0.2.0", None, {"version": 2}, {"torch": torch.zeros(1)}])
def test_damaged_versions_are_refused(tmp_path, damaged):
    path = CheckpointFolder(str(tmp_path)).save(state(3))
    torch.save({**torch.load(path, weights_only=True), "written_by": damaged}, path)
    with pytest.raises(CheckpointError, match="damaged parts: written_by"):
        load_checkpoint(path)


def test_a_misspelt_flag_is_refused_in_python_too(tmp_path):
    path = CheckpointFolder(str(tmp_path)).save(state(1))
    with pytest.raises(
        ConfigError, match="timestep_respacin is not a flag of this command; did you mean --timestep_respacing"
    ):
        load_segmenter(path, {"timestep_respacin": "10"})


def test_flags_that_contradict_a_checkpoint_are_named_with_both_values(tmp_path):
    stored = replace(state(1), flags={"num_channels": 32, "attention_resolutions": [8]})
    path = CheckpointFolder(str(tmp_path)).save(stored)
    with pytest.raises(CheckpointError, match=r"--num_channels 32, not 64"):
        load_segmenter(path, {"num_channels": 64, "attention_resolutions": (8,)})
    with pytest.raises(CheckpointError, match="--mask_low 0.*, not -1"):  # stored before there was such a flag
        load_segmenter(path, {"mask_low": -1})


def test_a_flag_that_was_not_stored_has_its_default():
    assert differences({"x": 1}, {"x": 1, "y": 2}) == []
    assert differences({"latent_dim": 1}, {"latent_dim": 1, "no_convs_per_block": 3}, EncoderConfig) == []
    assert differences({"num_filters": [8, 16]}, {"num_filters": [8], "latent_dim": 2}, EncoderConfig) == [
        "--num_filters 8,16, not 8",
        "--latent_dim 6, not 2",
    ]
