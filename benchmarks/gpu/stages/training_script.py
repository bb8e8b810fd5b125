"""Training with scripts/segmentation_train.py: repeated, resumed, with a bad step, validated, in other precisions."""

import contextlib
import math
import os
from unittest import mock

import torch
from running import run as run_process

from guided_diffusion.checkpoints.format import BEST
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.logger import read_rows
from guided_diffusion.train_util import Trainer

from ..compare import difference, equal_bits, relative_error
from ..networks import phantoms
from ..record import require
from ..scripts import call_script
from ..timing import is_cuda

SIZE, CASES = 32, 16  # size and number of the preset's images
PARTS = ("weights", "ema", "optimizer")
# Largest relative differences of the weights from those of the first run: for the same computation, for another order
# of summation, and for other precisions
SAME, REORDERED, ROUNDED = 1e-2, 0.1, 0.5


class Runs:
    """Training runs with the same flags and cases, each in its own folder."""

    def __init__(self, settings):
        self.settings, self.steps = settings, settings.sizes.script_steps
        self.cases = phantoms(settings, "script_cases", CASES, SIZE)

    def arguments(self, name, steps, more):
        batch = {"batch_size": 2} if self.settings.dry_run else {}
        flags = {
            "preset": "demo",
            "data_dir": self.cases,
            "log_dir": self.settings.folder("runs", name),
            "cache_dir": self.settings.folder("cache"),
            "iterations": steps or self.steps,
            "log_interval": max(1, self.steps // 6),
            **batch,
            **more,
        }
        return [f"--{flag}={value}" for flag, value in flags.items()]

    def train(self, name, steps=None, run=call_script, **more):
        """The final checkpoint's content after a run of `steps` steps, by default all; `more` are flags."""
        run("segmentation_train", *self.arguments(name, steps, more))
        return load_checkpoint(self.settings.folder("runs", name, "savedmodel.pt")).content()

    def loss(self, name):
        """The loss in the last line of a run's log."""
        return float(read_rows(self.settings.folder("runs", name, "progress.csv"))[-1]["loss"])


def compare(add, state, reference, limit):
    """Add the difference of a run's final weights from the reference; CheckFailed: it is beyond the limit."""
    report = {part: difference(state[part], reference[part]) for part in PARTS}
    add(**report, steps=state["step"], limit=limit)
    error = report["weights"]["relative"]
    require(state["step"] == reference["step"], f"the run ended after step {state['step']}, not {reference['step']}")
    require(error < limit, f"relative difference {error:.2e}, beyond {limit}")


@contextlib.contextmanager
def watched(nan_at, report):
    """Context in which training has a NaN loss after `nan_at` steps, and the first average is recomputed in float64.

    report  receives "unchanged", {part: bool} for the bad step, and "average", {name: tensor}
    """
    original = Trainer.step

    def step(trainer, batch):
        done, forward = trainer.state.steps_done, trainer.state.segmenter.forward
        live = trainer.state.segmenter.state_dict()
        if not done:
            report["average"] = {name: value.detach().double().clone() for name, value in live.items()}
        if done != nan_at:
            original(trainer, batch)
            rate = min(next(iter(trainer.state.ema.rates.values())), (1 + done) / (10 + done))
            for name, average in report["average"].items():
                average += (live[name].double() - average) * (1 - rate)
            return
        before = snapshot(trainer)
        trainer.state.segmenter.forward = lambda *arguments: {
            name: values * math.nan for name, values in forward(*arguments).items()
        }
        original(trainer, batch)
        trainer.state.segmenter.forward = forward
        report["unchanged"] = {part: equal_bits(before[part], now) for part, now in snapshot(trainer).items()}

    with mock.patch.object(Trainer, "step", step):
        yield


def snapshot(trainer):
    """Copies of {"weights", "ema", "optimizer"}."""
    state = {
        "weights": trainer.state.segmenter.state_dict(),
        "ema": trainer.state.ema.weights,
        "optimizer": trainer.state.optimizer.state_dict()["state"],
    }
    return copied(state)


def copied(state):
    """A nested state with its tensors copied to the CPU."""
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return state.detach().cpu().clone() if isinstance(state, torch.Tensor) else state


def not_finite(add, runs):
    """A step with a NaN loss changes nothing, and the averages follow their definition."""
    report = {}
    with watched(runs.steps // 2, report):
        state = runs.train("nan")
    average = next(iter(state["ema"].values()))
    error = max(
        relative_error(average[name], report["average"][name]) for name in average if average[name].is_floating_point()
    )
    add(unchanged=report["unchanged"], bad_steps=state["bad_steps"][0], largest_relative_error_of_an_average=error)
    require(
        all(report["unchanged"].values()) and state["bad_steps"][0] == 1,
        "a step with a non-finite loss changed the state",
    )
    require(error < 1e-5, f"an average is off by {error:.2e}")


def resumed(add, runs, reference):
    """Train half of the steps, and resume in a separate process."""
    runs.train("resumed", runs.steps // 2)
    compare(add, runs.train("resumed", run=run_process), reference, SAME)


def run(record, settings):
    runs = Runs(settings)
    with record.part("straight") as add:
        reference = runs.train("straight")
        add(loss=runs.loss("straight"), steps=reference["step"], device=settings.device)
    with record.part("repeated") as add:
        compare(add, runs.train("repeated"), reference, SAME)
    with record.part("resumed") as add:
        resumed(add, runs, reference)
    with record.part("not_finite") as add:
        not_finite(add, runs)
    with record.part("validated") as add:
        few = {
            "eval_data_dir": runs.cases,
            "eval_interval": max(1, runs.steps // 2),
            "eval_cases": 2,
            "eval_ensemble": 2,
            "eval_steps": 2,
        }
        compare(add, runs.train("validated", **few), reference, SAME)
        add(scored=os.path.exists(settings.folder("runs", "validated", BEST)))
    others = {"use_fp16": {"use_fp16": True}, "microbatch": {"microbatch": 1 if settings.dry_run else 4}}
    if is_cuda(settings.device):
        others |= {"bf16": {"amp": "bf16"}, "tf32": {"amp": "tf32"}}
    for name, flags in others.items():
        with record.part(name) as add:
            state = runs.train(name, **flags)
            add(loss=runs.loss(name), loss_of_reference=runs.loss("straight"))
            compare(add, state, reference, REORDERED if name == "microbatch" else ROUNDED)
