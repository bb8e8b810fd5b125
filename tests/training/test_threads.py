"""The number of threads: how it is chosen and stored; choosing it does not affect the run."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, as_arguments, call_script, nonzero, segmenter_of

from guided_diffusion.checkpoints.format import Checkpoint, RunInfo
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.system import threads
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.start import what_changed
from guided_diffusion.training.thread_choice import blank_step

SHORT = {**TINY, "batch_size": 4, "dropout": 0.1, "save_interval": 2, "lr": 1e-3}


@pytest.fixture(autouse=True)
def number_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock, and a step that takes `seconds` by the number of threads; the k-th one is `noise[k]` slower."""

    def __init__(self, seconds, noise=()):
        self.seconds, self.noise, self.now, self.steps = seconds, list(noise), 0.0, []

    def clock(self):
        return self.now

    def step(self):
        self.steps.append(torch.get_num_threads())
        self.now += self.seconds[self.steps[-1]] + (self.noise.pop(0) if self.noise else 0)

    def time(self):
        return threads.time_threads(self.step, list(self.seconds), self.clock)


@pytest.mark.parametrize(
    "seconds, chosen",
    [
        ({1: 1.0, 2: 0.6, 4: 0.4}, 4),
        ({1: 1.0, 2: 0.95, 4: 0.91}, 1),
        ({1: 1.0, 2: 0.95, 4: 0.85}, 4),
        ({1: 1.0, 2: 0.6, 4: 0.55}, 2),
        ({1: 0.2, 2: 5.0}, 1),
        ({2: 0.5, 1: 1.0}, 2),
        ({3: 1.0}, 3),
    ],
)
def test_the_fewest_threads_of_which_no_more_are_clearly_faster(seconds, chosen):
    assert threads.choose_threads(seconds) == chosen


def test_numbers_take_turns_and_one_slow_step_does_not_count():
    machine = Machine({1: 0.2, 2: 0.1}, noise=[3.0, 0, 0, 0, 0.5])  # the warm-up, and a step with 2 threads
    assert machine.time() == pytest.approx({1: 0.2, 2: 0.1})
    assert machine.steps == [1] + [1, 2] * threads.ROUNDS


def test_timing_ends_early_where_steps_are_slow_but_every_number_has_its_turn():
    machine = Machine({1: 30.0, 2: 20.0, 4: 15.0})
    assert machine.time() == {1: 30.0, 2: 20.0, 4: 15.0} and machine.steps == [1, 1, 2, 4]


def test_the_number_is_afterwards_as_before_even_if_a_step_fails():
    torch.set_num_threads(3)
    Machine({1: 0.1, 2: 0.1}).time()
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError):
        threads.time_threads(lambda: {}["step"], [1, 2])
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("most, numbers", [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_candidates_are_powers_of_two_and_all_cores(most, numbers):
    assert threads.candidates(most) == numbers


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    for processes, number in ((2, 3), (4, 1), (9, 1)):
        threads.share_cores(processes)
        assert torch.get_num_threads() == number
    torch.set_num_threads(5)
    threads.share_cores(1)
    assert torch.get_num_threads() == 5


# -- a step that changes nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"use_checkpoint": True},
        {"train_encoders": False},
        {"architecture": "shared-encoder", "denoiser_mult": "1,1"},
        {"method": "prob-unet"},
        {"method": "ssn"},
        {"method": "mc-dropout"},
        {"method": "implicit-ensemble"},
    ],
)
@pytest.mark.parametrize("raters", [1, 2])
def test_a_timed_step_leaves_weights_gradients_and_random_states_alone(unchecked, flags, raters):  # checks draw
    segmenter = nonzero(segmenter_of({**TINY, "dropout": 0.1, **flags})).train()
    calls = []
    segmenter.register_forward_hook(lambda module, inputs, terms: calls.append(terms["loss"]))
    weights = {name: value.clone() for name, value in segmenter.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    blank_step(segmenter, (1, 16, 16), 3, raters)
    assert calls[0].shape == (3 * raters,) and calls[0].requires_grad and segmenter.training
    assert all(torch.equal(value, weights[name]) for name, value in segmenter.state_dict().items())
    assert all(p.grad is None for p in segmenter.parameters())
    assert (
        torch.equal(torch.get_rng_state(), states[0])
        and (np.random.get_state()[1] == states[1]).all()
        and random.getstate() == states[2]
    )


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(cases, tmp_path, monkeypatch):
    """Call it with (folder name, numbers, OMP_NUM_THREADS, **flags) to run the script as with 4 cores.

    It returns (checkpoint, log).

    numbers  {threads: seconds of a step}, in place of measured ones; a step is run. None: timing fails the test

    PyTorch's number is only recorded: more threads than cores are free would make the runs slow.
    """
    recorded = []
    monkeypatch.setattr(torch, "set_num_threads", recorded.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: recorded[-1])

    def run(name, numbers=None, given="", **flags):
        def time_threads(step, candidates):
            assert numbers is not None and candidates == [1, 2, 4]
            step()
            return numbers

        monkeypatch.setenv("OMP_NUM_THREADS", given)
        monkeypatch.setattr(threads, "usable_cores", lambda: 4)
        monkeypatch.setattr(threads, "time_threads", time_threads)
        torch.set_num_threads(int(given or 3))  # what PyTorch does when it is imported; 3: a default of its own
        done = call_script(
            "segmentation_train",
            *as_arguments({**SHORT, "iterations": 2, "data_dir": cases, "log_dir": tmp_path / name, **flags}),
        )
        assert done.returncode == 0, done.stderr
        return load_checkpoint(str(tmp_path / name / "savedmodel.pt")), (tmp_path / name / "log.txt").read_text()

    return run


def test_timing_leaves_the_run_bit_for_bit_as_with_the_number_given(train):
    timed, log = train("timed", {1: 0.1, 2: 0.2, 4: 0.3})
    given, silent = train("given", given="1")
    assert timed.threads == given.threads == 1
    assert "computing with 1 thread, " in log and "2: 0.2 s" in log and "computing with" not in silent
    assert all(torch.equal(timed.weights[name], given.weights[name]) for name in timed.weights)


def test_the_number_is_stored_and_used_again(train):
    first, log = train("run", {1: 0.5, 2: 0.2, 4: 0.2})
    assert first.threads == 2 and "computing with 2 threads, " in log
    again, log = train("run", iterations=4)  # without timing
    assert again.step == 4 and again.threads == 2 and "bit-identical" not in log


def test_the_environment_takes_precedence(train):
    first, _ = train("run", {1: 0.1, 2: 0.2, 4: 0.2})
    again, log = train("run", given="2", iterations=4)
    assert first.threads == 1 and again.threads == 2
    assert "threads was 1 and is 2" in log and "not be bit-identical" in log


def test_fewer_cores_than_the_stored_number_are_reported(train, monkeypatch):
    train("run", {1: 0.9, 2: 0.5, 4: 0.2})
    monkeypatch.setattr(threads, "share_of_cores", lambda processes: 2)
    again, log = train("run", iterations=4)
    assert again.threads == 2 and "threads was 4 and is 2" in log


def test_a_run_whose_checkpoint_has_no_number_keeps_the_default(train, tmp_path):
    checkpoint, _ = train("run", given="3")
    state = checkpoint.content()
    del state["threads"]
    for name in ("savedmodel.pt", "savedmodel000002.pt"):
        torch.save(state, tmp_path / "run" / name)
    (tmp_path / "run" / "manifest.json").unlink()
    again, log = train("run", iterations=4)
    assert again.step == 4 and again.threads == 3 and "bit-identical" not in log


def test_a_run_from_the_checkpoint_of_another_is_timed(train, tmp_path):
    train("first", {1: 0.1, 2: 0.2, 4: 0.2})
    second, _ = train(
        "second", {1: 0.9, 2: 0.2, 4: 0.2}, resume_checkpoint=tmp_path / "first" / "savedmodel.pt", iterations=4
    )
    assert second.threads == 2


def test_another_number_of_threads_is_reported_only_for_equal_processes_on_a_cpu():
    def changes(stored, processes, threads):
        return what_changed(stored, RunInfo({}, processes, threads, data=None, seed=0, reading=2), TrainConfig())

    stored = Checkpoint(step=1, weights={}, processes=2, threads=4)
    assert changes(stored, 2, 4) == changes(stored, 2, None) == []
    assert "threads was 4 and is 3" in changes(stored, 2, 3)[0]
    assert "threads" not in changes(stored, 1, 3)[0]
    assert changes(replace(stored, processes=1, threads=None), 1, 3) == []
