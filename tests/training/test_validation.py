"""Validation during training: scores, logs and checkpoints; training itself is not affected."""

import os

import numpy as np
import pytest
import torch
from helpers import LEAST, as_arguments, call_script
from small_runs import rows_of

from guided_diffusion import script_util
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.dist_util import Processes
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import metrics
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling import draw
from guided_diffusion.sampling.config import SampleConfig
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.training.validation import ValidationConfig, Validator

EVAL = {"eval_cases": 3, "eval_ensemble": 2, "eval_steps": 3, "eval_interval": 2, "log_interval": 3}


def scores_of(folder):
    """{step: row} of progress.csv."""
    return {int(row["step"]): row for row in rows_of(folder)}


def test_training_does_not_notice_validation(train):
    without, with_ = train("without", log_interval=3), train("with", **EVAL)
    for kind in ("weights", "optimizer"):
        a, b = (getattr(t.state, "segmenter" if kind == "weights" else kind).state_dict() for t in (without, with_))
        a, b = (s if kind == "weights" else {k: v["exp_avg"] for k, v in s["state"].items()} for s in (a, b))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            without.state.ema.weights["0.9999"].values(), with_.state.ema.weights["0.9999"].values(), strict=True
        )
    )
    assert with_.state.segmenter.training


def test_scores_are_those_of_the_averaged_weights(train, cases, tmp_path):
    """The logged metrics, recomputed from the best checkpoint with the sampling script."""
    train("run", **EVAL)
    rows = scores_of(tmp_path / "run")
    assert set(rows) == {2, 3, 4, 6}  # validations are logged where nothing else is due
    assert rows[3]["ged_2"] == "" and all(rows[step]["ged_2"] and rows[step]["dice_2"] for step in (2, 4, 6))

    best = load_checkpoint(str(tmp_path / "run" / "bestmodel.pt"))
    least = min((2, 4, 6), key=lambda step: float(rows[step]["ged_2"]))
    assert best.best["step"] == best.step == least
    assert best.best["score"] == pytest.approx(float(rows[least]["ged_2"]), rel=1e-5)

    sampler = SamplerConfig(steps=3)
    segmenter = script_util.load_segmenter(str(tmp_path / "run" / "bestmodel.pt"), {}).segmenter.spaced(sampler)
    dataset = LIDCDataset(cases, 8, 1)
    config = SampleConfig(num_ensemble=2, batch_size=4, seed=3)
    scores = []
    for case, samples in draw.draw_ensembles(segmenter, dataset, [0, 2, 5], config, sampler):
        masks, raters = binarise(samples), case.raters.numpy() > 0.5
        scores.append((metrics.squared_ged(masks, raters).total, metrics.mean_mask_dice(masks, raters)))
    ged, dice = np.mean(scores, axis=0)
    assert ged == pytest.approx(best.best["score"], abs=1e-6)
    assert dice == pytest.approx(float(rows[least]["dice_2"]), abs=1e-5)


def test_a_resumed_run_remembers_its_best(train, tmp_path):
    straight = train("straight", **EVAL)
    train("parts", **EVAL, iterations=3)
    resumed = train("parts", **EVAL)
    at_three = load_checkpoint(str(tmp_path / "parts" / "savedmodel000003.pt")).best
    candidates = [at_three, straight.state.best]
    assert resumed.state.best in candidates and resumed.state.best["score"] <= min(c["score"] for c in candidates)
    other = train("parts", **{**EVAL, "eval_ensemble": 3}, iterations=8)  # scores of another kind do not compare
    assert other.state.best["settings"]["ensemble"] == 3
    assert "ged_3" in scores_of(tmp_path / "parts")[8]
    train("parts", iterations=9)  # a run may resume without validation


def test_a_run_that_ended_without_a_validation_makes_up_for_it(train, tmp_path):
    """As if a signal arrived during the last validation."""
    train("run")
    train("run", **EVAL)
    train("whole", **EVAL)
    made_up = scores_of(tmp_path / "run")[6]
    assert made_up["ged_2"] == scores_of(tmp_path / "whole")[6]["ged_2"] and made_up["loss"] == ""
    for name in ("bestmodel.pt", "savedmodel.pt"):  # and remembers it
        assert load_checkpoint(str(tmp_path / "run" / name)).best["step"] == 6
    lines = (tmp_path / "run" / "progress.csv").read_text()
    assert train("run", **EVAL).log.scores == {} and (tmp_path / "run" / "progress.csv").read_text() == lines


def test_scores_on_the_same_cases_compare_however_their_folder_is_typed(cases, tmp_path):
    names = (str(cases), f"{cases}/.", os.path.relpath(cases))
    datasets = [LIDCDataset(name, 16, 1, cache_dir=str(tmp_path)) for name in names]
    first, *others = [
        Validator(dataset, ValidationConfig(), SamplerConfig(), Processes({}), 0, 4).settings for dataset in datasets
    ]
    assert others == [first, first]


def test_a_worse_score_is_not_kept(train, tmp_path):
    trainer = train("run", **EVAL)
    kept = (tmp_path / "run" / "bestmodel.pt").read_bytes()
    trainer.validator.score = lambda segmenter, give_up: {"ged_2": 9.0, "dice_2": 0.0}
    trainer.validate()
    assert (tmp_path / "run" / "bestmodel.pt").read_bytes() == kept and trainer.log.scores["ged_2"] == 9
    trainer.validator.score = lambda segmenter, give_up: {"ged_2": -1.0, "dice_2": 0.0}
    trainer.validate()
    assert load_checkpoint(str(tmp_path / "run" / "bestmodel.pt")).best["score"] == -1


def test_the_script_validates_and_two_processes_share_the_cases(ranks, cases, tmp_path):
    flags = [
        f"--data_dir={cases}",
        f"--eval_data_dir={cases}",
        "--iterations=1",
        *as_arguments({**LEAST, **EVAL, "eval_interval": 1}),
    ]
    done = call_script("segmentation_train", *flags, f"--log_dir={tmp_path / 'one'}", "--batch_size=4")
    assert done.returncode == 0 and "best: step 1, ged_2" in done.stdout, done.stderr
    done = ranks.run_script(tmp_path, "segmentation_train", *flags, f"--log_dir={tmp_path / 'two'}", "--batch_size=2")
    assert done.returncode == 0, done.stderr
    one, two = (scores_of(tmp_path / name)[1] for name in ("one", "two"))
    for name in ("ged_2", "dice_2"):
        assert float(one[name]) == pytest.approx(
            float(two[name]), abs=0.02
        )  # weights differ by rounding, masks by a pixel


def test_a_network_that_gives_nan_is_never_the_best(train, tmp_path):
    trainer = train("run", **EVAL)
    with torch.no_grad():
        for weights in trainer.state.ema.weights.values():
            weights["model.out.2.bias"].fill_(float("nan"))
    trainer.state.best = None
    trainer.validate()
    assert all(score != score for score in trainer.log.scores.values()) and trainer.state.best is None


def test_a_validation_that_is_given_up_has_no_scores(train):
    trainer = train("run", **EVAL)
    asked = []
    assert trainer.validator.score(trainer.state.segmenter, give_up=lambda: asked.append(1) or len(asked) > 1) == {}
    assert len(asked) == 2 and trainer.state.segmenter.training
