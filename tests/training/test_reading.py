"""The version of the reading rules: a run goes on by the rules that it began with, or is refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import LEAST, as_arguments, assert_refused, call_script

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.commands import sample as sample_command
from guided_diffusion.commands import train as train_command
from guided_diffusion.data.case_reader import READING_RULES
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.script_util import load_segmenter

EVAL = {"eval_cases": 2, "eval_ensemble": 2, "eval_steps": 2}
FORMER = "hash by rules 1"  # of every set of cases in these tests
WARNING = "warning: the checkpoint was trained on cases read by version 1 of the reading rules"


class Cases(LIDCDataset):
    """Cases that rules 1 hashed to FORMER, and read in the same way."""

    departures = ()

    def former_fingerprint(self):
        """The hash by rules 1."""
        return FORMER


class ChangedCases(Cases):
    """Cases whose files are others than those of the run."""

    def former_fingerprint(self):
        """The hash by rules 1."""
        return "another hash by rules 1"


class OtherCases(Cases):
    """Cases that rules 1 read differently."""

    departures = ("images in colour are read as colour", "masks are resized by area")


@pytest.fixture
def run(cases, tmp_path, monkeypatch):
    """A function of (steps, class of the cases, **flags) that trains or resumes the run in the folder `run`."""

    def run(steps, kind=Cases, **flags):
        monkeypatch.setattr(train_command, "LIDCDataset", kind)
        given = {**LEAST, "batch_size": 2, "iterations": steps, "eval_data_dir": cases, **EVAL, **flags}
        where = {"data_dir": cases, "log_dir": tmp_path / "run"}
        return call_script("segmentation_train", *as_arguments({**where, **given}))

    return run


def newest(tmp_path):
    return load_checkpoint(tmp_path / "run" / "savedmodel.pt")


def change(tmp_path, **content):
    """Give the newest checkpoint another content; without `reading`, as before there were several rules."""
    path = (tmp_path / "run" / "savedmodel.pt").resolve()
    state = {**torch.load(path, weights_only=True), **content}
    state = {name: value for name, value in state.items() if value is not None}
    for name in (path.name, f"savedmodel{state['step']:06d}.pt"):
        torch.save(state, tmp_path / "run" / name)
    (tmp_path / "run" / "manifest.json").unlink(missing_ok=True)
    return state


def make_former(tmp_path, **flags):
    """Turn the run's newest checkpoint into one of rules 1."""
    state = torch.load(tmp_path / "run" / "savedmodel.pt", weights_only=True)
    settings = {**state["best"]["settings"], "data": FORMER}
    former = {name: value for name, value in state["flags"].items() if name not in ("grey", "structure")}
    former = {**former, "label_threshold": 0.5, **flags}
    best = {**state["best"], "settings": settings}
    return change(tmp_path, reading=None, data=FORMER, flags=former, best=best)


def test_a_run_stores_the_version_of_its_rules(run, tmp_path):
    assert run(1).returncode == 0
    assert newest(tmp_path).reading == READING_RULES and newest(tmp_path).data != FORMER
    assert run(2, OtherCases).returncode == 0  # its own rules
    assert newest(tmp_path).step == 2


def test_a_run_of_earlier_rules_goes_on_if_they_read_its_cases_in_the_same_way(run, cases, tmp_path):
    assert run(1).returncode == 0
    made_best = make_former(tmp_path)["best"]
    done = run(2)
    assert done.returncode == 0, done.stderr
    checkpoint, log = newest(tmp_path), (tmp_path / "run" / "log.txt").read_text()
    assert "continuing" in log and "have changed" not in log
    assert (checkpoint.step, checkpoint.reading, checkpoint.data) == (2, 1, FORMER)
    assert checkpoint.best["settings"] == made_best["settings"]  # its scores still compare
    moved = shutil.copytree(cases, tmp_path / "moved")
    assert run(3, data_dir=moved).returncode == 0  # known by their hash
    assert run(4, ChangedCases, data_dir=moved).returncode == 0  # other files of the same name
    assert "have changed" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_of_earlier_rules_is_refused_by_name_if_they_read_its_cases_differently(run, tmp_path):
    assert run(1).returncode == 0
    make_former(tmp_path)
    assert_refused(
        run(2, OtherCases),
        *("savedmodel000001.pt", "version 1 of the reading rules", f"version {READING_RULES}"),
        *(
            "images in colour are read as colour; masks are resized by area",
            "another --log_dir",
            "the version of this program",
        ),
    )
    assert newest(tmp_path).step == 1
    path = tmp_path / "run" / "savedmodel.pt"
    second = run(2, OtherCases, log_dir=tmp_path / "second", resume_checkpoint=path)  # another run, by the new rules
    assert second.returncode == 0, second.stderr
    assert load_checkpoint(tmp_path / "second" / "savedmodel.pt").reading == READING_RULES
    assert WARNING in (tmp_path / "second" / "log.txt").read_text()


@pytest.mark.parametrize("kind", [Cases, OtherCases])
def test_a_checkpoint_of_earlier_rules_is_sampled_from(run, cases, tmp_path, monkeypatch, kind):
    assert run(1).returncode == 0
    make_former(tmp_path)
    monkeypatch.setattr(sample_command, "LIDCDataset", kind)
    where = [f"--data_dir={cases}", f"--out_dir={tmp_path}", f"--model_path={tmp_path / 'run' / 'savedmodel.pt'}"]
    done = call_script("segmentation_sample", *where, "--steps=2", "--num_ensemble=1", "--num_samples=1")
    assert done.returncode == 0, done.stderr
    assert (WARNING in done.stdout + done.stderr) == (kind is OtherCases)
    with np.load(tmp_path / "phantom0000_samples.npz") as file:
        assert file["reading"].item() == READING_RULES


def test_a_checkpoint_of_later_rules_is_refused(run, cases, tmp_path):
    assert run(1).returncode == 0
    later = READING_RULES + 1
    change(tmp_path, reading=later)
    words = (f"version {later} of the reading rules", f"version {READING_RULES}", "use the version of this program")
    assert_refused(run(2), "savedmodel000001.pt", *words)
    path = tmp_path / "run" / "savedmodel.pt"
    assert_refused(run(2, log_dir=tmp_path / "second", resume_checkpoint=path), "savedmodel.pt", *words)
    where = [f"--data_dir={cases}", f"--out_dir={tmp_path}", f"--model_path={path}"]
    assert_refused(call_script("segmentation_sample", *where), "savedmodel.pt", *words)


# -- values that have another word ------------------------------------------------------------------------------------


def test_the_former_default_of_the_threshold_reads_as_todays_in_a_checkpoint(run, tmp_path):
    assert run(1).returncode == 0
    stored = make_former(tmp_path)["flags"]
    assert newest(tmp_path).flags["label_threshold"] is None
    assert load_segmenter(str(tmp_path / "run" / "savedmodel.pt"), {}).configs.flags()["label_threshold"] is None
    assert run(2).returncode == 0
    change(tmp_path, reading=READING_RULES, flags={**stored, "grey": False, "structure": ""})
    assert newest(tmp_path).flags["label_threshold"] == 0.5
    assert_refused(run(3), "--label_threshold 0.5, not auto")
    change(tmp_path, reading=None, flags=stored)
    assert_refused(run(3, label_threshold=0.25), "--label_threshold auto, not 0.25")


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sampled(cases, trained, tmp_path):
    """A function that draws a mask for the first case, and the path of its file."""

    def sample(*more):
        where = [f"--data_dir={cases}", f"--out_dir={tmp_path}", f"--model_path={trained / 'savedmodel.pt'}"]
        return call_script("segmentation_sample", *where, "--steps=2", "--num_ensemble=2", "--num_samples=1", *more)

    assert sample().returncode == 0
    return sample, tmp_path / "phantom0000_samples.npz"


def rewrite(path, **content):
    """Give a file of samples another content; None: without this entry."""
    with np.load(path) as file:
        content = {**{name: file[name] for name in file.files}, **content}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})


def test_samples_of_earlier_rules_are_complete_if_the_image_is_the_same(sampled, cases, tmp_path):
    sample, path = sampled
    with np.load(path) as file:
        flags = {**json.loads(file["flags"].item()), "label_threshold": 0.5}
    flags = {name: value for name, value in flags.items() if name not in ("grey", "structure", "encoder_channels")}
    rewrite(path, reading=None, flags=json.dumps(flags))
    assert "nothing to do: all 1 cases are drawn" in sample().stdout
    scored = call_script("segmentation_evaluate", f"--data_dir={cases}", f"--samples={tmp_path}")
    assert scored.returncode == 0 and "reading" not in scored.stdout
    assert "reading" not in (tmp_path / "metrics.json").read_text()


def test_where_the_image_is_another_the_rules_are_named_if_they_differ(sampled, cases, tmp_path):
    sample, path = sampled
    rewrite(path, image="0" * 16)
    refused = sample()
    assert_refused(refused, "--image 0000000000000000, not", "--overwrite")
    evaluate = ("segmentation_evaluate", f"--data_dir={cases}", f"--samples={tmp_path}")
    assert "reading" not in refused.stderr and "reading rules" not in call_script(*evaluate).stderr
    rewrite(path, reading=None)
    assert_refused(sample(), "--image 0000000000000000, not", f"--reading 1, not {READING_RULES}", "--overwrite")
    scored = call_script(*evaluate)
    assert (
        "a different image" in scored.stderr and f"reading rules 1, this program has {READING_RULES}" in scored.stderr
    )
