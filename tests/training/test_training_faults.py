"""Training under faults and interruptions: signals, NaN, no memory, blob stores."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch
from blob_store import BlobStore
from helpers import LEAST, ROOT, as_arguments, assert_refused, call_script, segmenter_of
from small_runs import learnt, rows_of, same

from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.errors import TrainingError
from guided_diffusion.system.signals import Signals
from guided_diffusion.system.storage import FolderLock
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.step_status import StepReports


@pytest.fixture
def after_step(monkeypatch):
    """Call it with {step: function of the trainer} to have the function called when that many steps are done."""

    def set_up(actions):
        after_step = Trainer.after_step

        def looking(self, bar):
            actions.get(self.state.steps_done, lambda trainer: None)(self)
            return after_step(self, bar)

        monkeypatch.setattr(Trainer, "after_step", looking)

    return set_up


@pytest.fixture
def nan_at(monkeypatch):
    """Call it with numbers of steps done: after each of them the loss term `vb` is not finite in the next step."""

    def set_up(steps):
        step = Trainer.step

        def stepping(self, batch):
            forward = self.state.segmenter.forward

            def poisoned(*arguments):
                terms = forward(*arguments)
                return {**terms, "vb": terms["vb"] * float("nan"), "loss": terms["loss"] * float("nan")}

            self.state.segmenter.forward = poisoned if self.state.steps_done in steps else forward
            step(self, batch)
            self.state.segmenter.forward = forward

        monkeypatch.setattr(Trainer, "step", stepping)

    return set_up


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_save_and_the_same_command_resumes(train, tmp_path, after_step, number):
    straight = learnt(train("straight"))
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)]
    with pytest.MonkeyPatch.context() as patch:
        after_step = Trainer.after_step
        patch.setattr(
            Trainer,
            "after_step",
            lambda self, bar: self.state.steps_done == 2 and os.kill(os.getpid(), number) or after_step(self, bar),
        )
        stopped = train("stopped")
    assert stopped.state.steps_done == 3  # the signal came after the second step had posted its report
    assert f"{number.name}: stopped after step 3" in (tmp_path / "stopped" / "log.txt").read_text()
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)]
    assert same(straight, learnt(train("stopped")))


def test_usr1_saves_and_continues(train, tmp_path, after_step):
    after_step({1: lambda trainer: os.kill(os.getpid(), signal.SIGUSR1)})
    trainer = train("run", save_interval=100)
    assert trainer.state.steps_done == 6
    assert sorted(path.name for path in (tmp_path / "run").glob("savedmodel0*")) == [
        "savedmodel000002.pt",
        "savedmodel000006.pt",
    ]


# One native call of minutes, during which Python runs no handler. The clock is the test's: it is read twice for the
# first signal to stop and once for each that follows, and reports when it was read.
NATIVE = """
import hashlib, types
from guided_diffusion.system import signals

readings = iter([5.0, 5.0, 5.9, 6.1])

def monotonic():
    print("read", flush=True)
    return next(readings)

signals.time = types.SimpleNamespace(monotonic=monotonic)
with signals.Signals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("number, echo", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_at_once_also_in_native_code_but_not_the_echo_of_the_first(number, echo):
    run = subprocess.Popen([sys.executable, "-c", NATIVE], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def wait_for(*lines):
        assert [run.stdout.readline().strip() for _ in lines] == list(lines)

    try:
        wait_for("ready")
        run.send_signal(signal.SIGUSR1)  # which is none to stop, and so reads no clock
        run.send_signal(echo)
        wait_for("read", "read")
        run.send_signal(echo)  # within a second
        wait_for("read")
        run.send_signal(number)
        wait_for("read")
        assert run.wait(timeout=60) == 128 + number
    finally:
        run.kill()
        run.communicate()


def test_signals_leave_everything_as_it_was():
    numbers, threads = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD), threading.active_count()
    own, other = socket.socketpair()
    own.setblocking(False)
    before = signal.set_wakeup_fd(own.fileno())
    try:
        handlers = [signal.getsignal(number) for number in numbers]
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.stop == "SIGTERM" and threading.active_count() == threads + 1
        assert [signal.getsignal(number) for number in numbers] == handlers and threading.active_count() == threads
    finally:
        assert signal.set_wakeup_fd(before) == own.fileno()
        own.close()
        other.close()


def test_signals_leave_other_threads_alone():
    def use():
        with Signals() as signals:
            seen.append(signals.stop)

    seen, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [None] and signal.getsignal(signal.SIGTERM) is before


def test_a_signal_during_validation_ends_it(train):
    trainer = train("run")
    trainer.signals.stop = "SIGTERM"

    class Slow:
        names = ["ged_2"]

        def score(self, segmenter, give_up):
            assert give_up()
            return {}

    trainer.validator = Slow()
    trainer.validate()
    assert trainer.log.scores == {} and trainer.state.best is None


# -- not finite -------------------------------------------------------------------------------------------------------


def test_a_bad_step_changes_nothing_and_is_counted(train, tmp_path, nan_at):
    before = learnt(train("run", iterations=2))
    nan_at({2, 3})
    after = learnt(train("run", iterations=4, log_interval=1))
    for key in ("weights", "ema"):
        assert same(before[key], after[key])
    assert same(before["optimizer"]["state"], after["optimizer"]["state"])
    assert [row["bad_steps"] for row in rows_of(tmp_path / "run")] == ["0", "1", "2"]
    assert after["step"] == 4 and after["bad_steps"] == [2, 2]
    good = train("run", iterations=6, log_interval=1)
    assert good.state.bad_steps == 2 and good.state.bad_in_a_row == 0
    assert all(row["loss"] not in ("nan", "inf") for row in rows_of(tmp_path / "run"))


def test_too_many_bad_steps_end_the_run_which_can_resume_from_before(train, tmp_path, nan_at):
    straight = learnt(train("straight", iterations=8))
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        nan_at({4, 5, 6})
        with pytest.raises(TrainingError) as error:
            train("run", iterations=8, max_bad_steps=3, save_interval=100)
        patch.setattr(Trainer, "step", step)
        message = str(error.value)
        assert message.startswith("step 7: loss term vb is not finite") and "--max_bad_steps" in message
        assert message.count("phantom") >= 1 and re.search("last good state: .*savedmodel000004.pt", message)
        assert message in (tmp_path / "run" / "log.txt").read_text()
        resumed = learnt(train("run", iterations=8, max_bad_steps=3, save_interval=100))
    for key in ("weights", "ema", "optimizer", "samples", "bad_steps"):
        assert same(straight[key], resumed[key])


def test_a_smaller_limit_ends_a_run_that_is_beyond_it_already(train, nan_at):
    nan_at({2, 3, 4})
    train("run", iterations=4)
    with pytest.raises(TrainingError):
        train("run", iterations=8, max_bad_steps=1)


def test_a_gradient_that_is_not_finite_is_bad_though_the_loss_is(train, monkeypatch):
    step = Trainer._optimize

    def poisoned(self, ids, terms):
        if self.state.steps_done == 3:
            self.state.trained[0].grad[0] = float("inf")
        step(self, ids, terms)

    monkeypatch.setattr(Trainer, "_optimize", poisoned)
    trainer = train("run")
    assert trainer.state.bad_steps == 1 and all(torch.isfinite(p).all() for p in trainer.state.trained)


def test_float16_halves_its_loss_scale_at_each_overflow_and_the_optimizer_skips_that_step(train, monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**28, enabled=enabled)
    )
    trainer = train("run", use_fp16=True, iterations=24, max_bad_steps=2, save_interval=24)
    (moved,) = {float(state["step"]) for state in trainer.state.optimizer.state.values()}
    assert 0 < moved < 22 and trainer.state.bad_steps == 0  # the scale starts too large, which is no fault of the run
    assert trainer.state.scaler.get_scale() == 2.0 ** (28 - (24 - moved))
    assert all(torch.isfinite(p).all() for p in trainer.state.trained)


def test_gradients_that_no_scale_makes_finite_are_bad(train, monkeypatch):
    step = Trainer._optimize

    def poisoned(self, ids, terms):
        self.state.trained[0].grad[0] = float("nan")
        step(self, ids, terms)

    monkeypatch.setattr(Trainer, "_optimize", poisoned)
    with pytest.raises(TrainingError, match="gradient is not finite, for 3 steps in a row"):
        train("run", use_fp16=True, iterations=40, max_bad_steps=3)


def test_bad_losses_do_not_reach_the_history_of_timesteps(train, nan_at):
    nan_at({1})
    trainer = train("run", schedule_sampler="loss-second-moment")
    assert (
        trainer.state.schedule_sampler.counts.sum() == 5 * 4
        and torch.isfinite(trainer.state.schedule_sampler.history).all()
    )


def test_reports_are_read_some_steps_late_where_the_device_runs_ahead():
    reports = StepReports(torch.device("cpu"))
    reports.lag = 2
    for step in range(1, 6):
        reports.post(step, ["a"], {"loss": torch.zeros(1)}, torch.tensor([float(step == 2), 0.0, float(step == 3)]))
        due = reports.read()
        assert [report.step for report in due] == ([step - 2] if step > 2 else [])
        assert all(
            report.bad == (report.step == 2) and report.save == (report.step == 3) and not report.stop for report in due
        )
    assert [report.step for report in reports.read(all_of_them=True)] == [4, 5]


# -- no memory, no folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["step", "__init__"])  # of a run, or while the network is copied to the GPU
def test_no_memory_is_one_line_with_the_flags_that_help(cases, tmp_path, monkeypatch, where):
    def fail(self, *arguments, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Trainer, where, fail)
    done = call_script(
        "segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path}", "--iterations=1", *as_arguments(LEAST)
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]  # the progress bar is before it
    assert (
        "out of memory, " in line and "GiB free" in line and "--microbatch, --use_checkpoint True or --amp bf16" in line
    )


# Holds a folder as a run does whose readers of cases outlive it
HOLDER = """
import os, signal, sys
from guided_diffusion.system.storage import FolderLock
lock = FolderLock(sys.argv[1])
lock.take()
reader = os.fork()
if reader:
    print(os.getpid(), reader, flush=True)
signal.pause()
"""


def test_a_folder_that_another_run_writes_into_is_refused_until_that_ends_however_it_does(cases, tmp_path):
    run = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    holder, reader = map(int, run.stdout.readline().split())
    try:
        done = call_script(
            "segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path}", "--iterations=1", *as_arguments(LEAST)
        )
        assert_refused(done, f"{tmp_path}: in use by another run (process {holder} on ", "use another folder")
        FolderLock(str(tmp_path), enabled=False).take()
        run.kill()
        run.wait()
        os.kill(reader, 0)  # it lives on
        with FolderLock(str(tmp_path)) as lock:
            lock.take()
        done = call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path}",
            "--resume=never",
            "--iterations=1",
            *as_arguments(LEAST),
        )
        assert done.returncode == 0, done.stderr
    finally:
        os.kill(reader, signal.SIGKILL)
        run.kill()
        run.stdout.close()


def test_a_blob_store_serves_as_log_dir(train, monkeypatch):
    straight = learnt(train("straight"))
    blobs = BlobStore(monkeypatch)
    train("ignored", log_dir="gs://bucket/run", iterations=3)
    resumed = train("ignored", log_dir="gs://bucket/run")
    assert same(straight, learnt(resumed))
    names = {path.removeprefix("gs://bucket/run/") for path in blobs.objects}
    assert names == {"log.txt", "progress.csv", "manifest.json", "savedmodel000003.pt", "savedmodel000006.pt"}
    log, table = (blobs.objects[f"gs://bucket/run/{name}"].decode() for name in ("log.txt", "progress.csv"))
    assert "starting a new run" in log and "continuing gs://bucket/run/savedmodel000003.pt at step 3" in log
    assert [line.split(",")[0] for line in table.splitlines()] == ["step", "2", "3", "4", "6"]
    assert load_checkpoint("gs://bucket/run/savedmodel.pt").step == 6


# -- as on a GPU, where reports come some steps late ------------------------------------------------------------------


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setitem(StepReports.LAG, "cpu", 2)


@pytest.mark.parametrize("save_interval", [1, 2, 3])
def test_late_reports_of_a_signal_are_heeded_however_often_is_saved(train, late, save_interval):
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        patch.setattr(
            Trainer,
            "step",
            lambda self, batch: (
                self.state.steps_done == 3 and os.kill(os.getpid(), signal.SIGTERM) or step(self, batch)
            ),
        )
        stopped = train("run", iterations=30, save_interval=save_interval)
    assert 4 <= stopped.state.steps_done <= 6
    assert same(
        learnt(train("straight", iterations=12)), learnt(train("run", iterations=12, save_interval=save_interval))
    )


def test_late_reports_of_bad_steps_end_the_run_with_what_was_before(train, late, nan_at):
    straight = learnt(train("straight", iterations=10))
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        nan_at(set(range(4, 20)))
        with pytest.raises(TrainingError, match="last good state: .*savedmodel000004.pt"):
            train("run", iterations=10, max_bad_steps=3, save_interval=8)
        patch.setattr(Trainer, "step", step)
        resumed = learnt(train("run", iterations=10, max_bad_steps=3, save_interval=8))
    for key in ("weights", "ema", "optimizer", "samples"):
        assert same(straight[key], resumed[key])


def test_bad_steps_followed_by_a_good_one_do_not_stop_the_run(train, late, nan_at):
    nan_at({4, 5, 6})
    assert train("run", iterations=10, max_bad_steps=3).state.steps_done == 10


def test_encoders_that_overflow_give_a_loss_that_is_not_finite(cases, tmp_path):
    """A deviation of e^200 overflows float32: the loss is not finite, which the trainer detects; no error."""
    segmenter = segmenter_of(LEAST)
    with torch.no_grad():
        segmenter.posterior.conv_layer.bias.fill_(200)
    terms = segmenter(torch.rand(2, 1, 8, 8), torch.ones(2, 1, 8, 8), torch.tensor([0, 5]))
    assert not torch.isfinite(terms["loss"]).any()
