"""Several processes: the same run as one, however they are started; lost ones come back."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, TINY, as_arguments, assert_refused, nonzero, run_script

from guided_diffusion.dist_util import Processes
from guided_diffusion.nn import ConfigError
from guided_diffusion.script_util import create_model_and_diffusion

TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]
FLAGS = as_arguments({**TINY, "iterations": 20, "log_interval": 1, "lr": 0.02, "kl_weight": 0.1})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A bare U-Net without zeros, to start from."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "savedmodel000000.pt"
    torch.save(nonzero(create_model_and_diffusion(**TINY)[0]).state_dict(), path)
    return path


def train(launcher, cases, out, *more, program=ROOT / "tests" / "sgd_training.py"):
    command = [*map(str, launcher), str(program), f"--data_dir={cases}", f"--log_dir={out}", *FLAGS, *map(str, more)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with open(out / "progress.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return torch.load(out / "savedmodel.pt", weights_only=True), losses, done.stdout


@pytest.fixture(scope="module")
def alone(cases, weights, tmp_path_factory):
    """One process on batches of 4, twenty steps of SGD."""
    return train([sys.executable], cases, tmp_path_factory.mktemp("alone"), "--batch_size=4", f"--resume_checkpoint={weights}")


def assert_same_run(a, b):
    """Alike but for the rounding of twenty float32 steps, which machines do differently for batches of 2 and of 4."""
    assert a[0]["samples"] == b[0]["samples"] == 80 and len(a[1]) == 20
    assert a[1] == pytest.approx(b[1], rel=1e-4, abs=1e-4)
    assert max(a[1]) - min(a[1]) > 0.1  # it does learn
    for key in ("weights", "ema"):
        left, right = (state[key] if key == "weights" else state[key]["0.9999"] for state in (a[0], b[0]))
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("more", [[], ["--microbatch=1"], ["--shard"], ["--shard", "--microbatch=1"]], ids=" ".join)
def test_two_processes_on_half_the_batch_equal_one_on_the_whole(cases, weights, alone, tmp_path, more):
    two = train([sys.executable, *TORCHRUN, "--nproc_per_node=2"], cases, tmp_path, "--batch_size=2", f"--resume_checkpoint={weights}", *more)
    assert "2 x cpu" in two[2]
    assert_same_run(alone, two)


def test_mpiexec_starts_a_run_too(cases, weights, alone, tmp_path):
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    if not mpiexec:
        pytest.skip("no mpiexec: pip install mpi4py mpich")
    two = train([mpiexec, "-n", 2, sys.executable], cases, tmp_path, "--batch_size=2", f"--resume_checkpoint={weights}")
    assert "2 x cpu" in two[2]
    assert_same_run(alone, two)


def test_sharded_and_whole_runs_continue_each_other_bit_for_bit(cases, tmp_path):
    """Under --shard the checkpoint has whole tensors; validation, unevenly many cases of it, changes nothing of the training."""
    def run(name, iterations, *more, launcher=(*TORCHRUN, "--nproc_per_node=2")):
        done = run_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path / name}", f"--iterations={iterations}",
                          "--batch_size=2", "--dropout=0.1", "--ema_rate=0.9", "--eval_data_dir", cases, "--eval_cases=3", "--eval_ensemble=3",
                          "--eval_steps=2", "--eval_interval=2", *as_arguments(TINY), *more, launcher=launcher)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / name / "savedmodel.pt", weights_only=True), done.stdout

    straight, told = run("straight", 6, "--shard")
    assert told.count("ged_3") >= 3
    run("parts", 3, "--shard")
    resumed, _ = run("parts", 6, "--shard")
    plain, _ = run("plain", 6, "--shard", "--eval_interval=100")
    for other in (resumed, plain):
        assert all(torch.equal(straight["weights"][name], other["weights"][name]) for name in straight["weights"])
    assert all(torch.equal(a, b) for a, b in zip(straight["ema"]["0.9"].values(), resumed["ema"]["0.9"].values()))
    for a, b in zip(straight["optimizer"]["state"].values(), resumed["optimizer"]["state"].values()):
        assert all(torch.equal(a[key], b[key]) for key in a) and type(a["exp_avg"]) is torch.Tensor


def test_another_number_of_processes_goes_on_and_says_what_is_not_the_same(cases, tmp_path):
    for processes, iterations in ((2, 2), (1, 4)):
        launcher = [*TORCHRUN, f"--nproc_per_node={processes}"] if processes > 1 else []
        done = run_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path}", f"--iterations={iterations}", "--batch_size=2",
                          *as_arguments(TINY), launcher=launcher)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "1 processes go on with a run of 2: a step has now 2 masks" in done.stdout and "not bit for bit" in done.stdout
    assert torch.load(tmp_path / "savedmodel.pt", weights_only=True)["samples"] == 2 * 4 + 2 * 2


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_killed_process_comes_back_under_torchrun_and_the_result_is_the_same(cases, tmp_path):
    def start(name, *launcher):
        return subprocess.Popen([sys.executable, *TORCHRUN, *launcher, "--nproc_per_node=2", str(ROOT / "scripts" / "segmentation_train.py"),
                                 f"--data_dir={cases}", f"--log_dir={tmp_path / name}", "--iterations=40", "--save_interval=2", "--log_interval=1",
                                 "--batch_size=2", *as_arguments(TINY)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    straight = start("straight")
    text = straight.communicate()[0]
    assert straight.returncode == 0, text
    run = start("killed", "--max-restarts=2")
    wait_for(lambda: (tmp_path / "killed" / "savedmodel000006.pt").exists())
    os.kill(children_of(run.pid)[-1], signal.SIGKILL)
    text = run.communicate()[0]
    assert run.returncode == 0, text
    assert "continuing" in text
    a, b = (torch.load(tmp_path / name / "savedmodel.pt", weights_only=True) for name in ("straight", "killed"))
    assert a["step"] == b["step"] == 40 and all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])


def test_a_signal_to_one_process_ends_all_at_the_same_step(cases, tmp_path):
    run = subprocess.Popen([sys.executable, *TORCHRUN, "--nproc_per_node=2", str(ROOT / "scripts" / "segmentation_train.py"),
                            f"--data_dir={cases}", f"--log_dir={tmp_path}", "--iterations=0", "--log_interval=1", "--batch_size=2",
                            *as_arguments(TINY)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    wait_for(lambda: (tmp_path / "progress.csv").exists() and (tmp_path / "progress.csv").read_text().count("\n") > 3)
    os.kill(children_of(run.pid)[-1], signal.SIGTERM)
    text = run.communicate(timeout=60)[0]
    assert run.returncode == 0, text
    assert "ended after step" in text and (tmp_path / "savedmodel.pt").exists()


# -- one process ------------------------------------------------------------------------------------------------------


def test_mpi_without_a_library_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match="pip install mpi4py mpich"):
        Processes({"PMI_SIZE": "2"})
    assert Processes({"PMI_SIZE": "1"}).world_size == 1
    assert Processes({"PMI_SIZE": "2", "RANK": "1", "WORLD_SIZE": "3"}).rank == 1  # torchrun's word comes first


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--batch_size=4"], ["6 cases", "fewer than the 8 of a step (2 processes of --batch_size 4)", "--batch_size 3"]),
        (["--log_dir=/proc/nowhere"], ["/proc/nowhere"]),
        (["--use_fp16", "--shard"], ["--shard", "--use_fp16"]),
    ],
)
def test_refusals_come_before_the_processes_meet(cases, tmp_path, flags, words):
    """A single one of two processes is refused by itself: it does not wait for the other."""
    done = run_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path}", "--batch_size=1", *as_arguments(TINY), *flags,
                      env={"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})  # fmt: skip
    assert_refused(done, *words)
