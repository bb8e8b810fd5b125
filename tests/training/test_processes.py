"""Several processes: the same results as one process, for every launcher; lost processes are restarted."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from helpers import LEAST, ROOT, as_arguments, assert_refused, call_script, nonzero
from ranks import finish, script_main
from sgd_training import PlainDescent
from sgd_training import main as sgd_main

from guided_diffusion.dist_util import Processes, refuse_shared_cards, whole
from guided_diffusion.errors import ConfigError
from guided_diffusion.script_util import create_model_and_diffusion

STEPS = 8
FLAGS = as_arguments({**LEAST, "iterations": STEPS, "log_interval": 1, "lr": 0.02, "kl_weight": 0.1})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A bare U-Net without zeros, to start from."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "savedmodel000000.pt"
    torch.save(nonzero(create_model_and_diffusion(**LEAST)[0]).state_dict(), path)
    return path


def result_of(done, out):
    """(last checkpoint, losses of all steps, text) of a run that ended."""
    assert done.returncode == 0, done.stderr
    with open(out / "progress.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return torch.load(out / "savedmodel.pt", weights_only=True), losses, done.stdout


@pytest.fixture(scope="module")
def alone(cases, weights, tmp_path_factory):
    """One process on batches of 4, some steps of SGD."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", PlainDescent)
        done = call_script(
            "segmentation_train",
            *FLAGS,
            f"--data_dir={cases}",
            f"--log_dir={out}",
            "--batch_size=4",
            f"--resume_checkpoint={weights}",
        )
    return result_of(done, out)


def assert_same_run(a, b):
    """Equal up to the rounding of some float32 steps, which differs between batches of 2 and of 4."""
    assert a[0]["samples"] == b[0]["samples"] == 4 * STEPS and len(a[1]) == STEPS
    assert a[1] == pytest.approx(b[1], rel=1e-4, abs=1e-4)
    assert max(a[1]) - min(a[1]) > 0.1  # it does learn
    for key in ("weights", "ema"):
        left, right = (state[key] if key == "weights" else state[key]["0.9999"] for state in (a[0], b[0]))
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4)


@pytest.mark.multi_process
@pytest.mark.parametrize("more", [[], ["--microbatch=1"], ["--shard"], ["--shard", "--microbatch=1"]], ids=" ".join)
def test_two_processes_on_half_the_batch_equal_one_on_the_whole(ranks, cases, weights, alone, tmp_path, more):
    done = ranks.run(
        tmp_path,
        sgd_main,
        *FLAGS,
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        "--batch_size=2",
        f"--resume_checkpoint={weights}",
        *more,
    )
    two = result_of(done, tmp_path)
    assert "2 x cpu" in two[2]
    assert_same_run(alone, two)


@pytest.mark.multi_process
def test_mpiexec_starts_a_run_too(cases, weights, alone, tmp_path):
    mpiexec = shutil.which(
        "mpiexec", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    )
    if not mpiexec:
        pytest.skip("no mpiexec: pip install mpi4py mpich")
    command = [
        mpiexec,
        "-n",
        "2",
        sys.executable,
        str(ROOT / "tests" / "sgd_training.py"),
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        *FLAGS,
    ]
    done = subprocess.run(
        [*command, "--batch_size=2", f"--resume_checkpoint={weights}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    two = result_of(done, tmp_path)
    assert "2 x cpu" in two[2]
    assert_same_run(alone, two)


def test_sharded_and_whole_runs_continue_each_other_bit_for_bit(ranks, cases, tmp_path):
    """With --shard the checkpoint has whole tensors; validation on an odd number of cases does not change training."""
    flags = [
        f"--data_dir={cases}",
        "--batch_size=2",
        "--dropout=0.1",
        "--ema_rate=0.9",
        "--shard",
        f"--eval_data_dir={cases}",
        "--eval_cases=3",
        "--eval_ensemble=3",
        "--eval_steps=2",
        *as_arguments(LEAST),
    ]

    def run(name, iterations, eval_interval):
        done = ranks.run_script(
            tmp_path,
            "segmentation_train",
            *flags,
            f"--log_dir={tmp_path / name}",
            f"--iterations={iterations}",
            f"--eval_interval={eval_interval}",
        )
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / name / "savedmodel.pt", weights_only=True), done.stdout

    straight, output = run("straight", 4, 1)
    assert output.count("ged_3") >= 3
    run("parts", 2, 100)
    resumed, output = run("parts", 4, 100)
    assert "continuing" in output
    assert all(torch.equal(straight["weights"][name], resumed["weights"][name]) for name in straight["weights"])
    assert all(
        torch.equal(a, b) for a, b in zip(straight["ema"]["0.9"].values(), resumed["ema"]["0.9"].values(), strict=True)
    )
    for a, b in zip(straight["optimizer"]["state"].values(), resumed["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a) and type(a["exp_avg"]) is torch.Tensor


def test_a_sharded_shared_encoder_learns_the_same(ranks, cases, tmp_path):
    """The denoiser's first convolution is called twice in a step: for the images and for the masks."""
    network = {**LEAST, "architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1", "lr": 0.01}
    logged = []
    for shard in (False, True):
        done = ranks.run_script(
            tmp_path,
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path / str(shard)}",
            f"--shard={shard}",
            "--batch_size=4",
            "--raters_per_image=2",
            "--iterations=6",
            "--log_interval=1",
            *as_arguments(network),
        )
        assert done.returncode == 0 and "UserWarning" not in done.stderr, done.stderr
        with open(tmp_path / str(shard) / "progress.csv", newline="") as file:
            logged.append([(float(row["loss"]), float(row["grad_norm"])) for row in csv.DictReader(file)])
    assert len(set(logged[0])) == 6
    torch.testing.assert_close(*map(torch.tensor, logged), rtol=1e-3, atol=0)


def test_another_number_of_processes_resumes_and_reports_the_difference(ranks, cases, tmp_path):
    flags = [f"--data_dir={cases}", f"--log_dir={tmp_path}", "--batch_size=2", *as_arguments(LEAST)]
    done = ranks.run_script(tmp_path, "segmentation_train", *flags, "--iterations=2")
    assert done.returncode == 0, done.stderr
    done = call_script("segmentation_train", *flags, "--iterations=4")
    assert "the run had 2 processes and now has 1: a step now has 2 masks" in done.stdout
    assert "not be bit-identical" in done.stdout
    assert torch.load(tmp_path / "savedmodel.pt", weights_only=True)["samples"] == 2 * 4 + 2 * 2


def test_resumed_is_straight_bit_for_bit_with_the_history_of_timesteps(ranks, cases, tmp_path):
    def train(name, iterations):
        done = ranks.run_script(
            tmp_path,
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path / name}",
            f"--iterations={iterations}",
            "--batch_size=2",
            "--schedule_sampler=loss-second-moment",
            *as_arguments({**LEAST, "diffusion_steps": 2}),
        )
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / name / "savedmodel.pt", weights_only=True)

    straight = train("straight", 6)
    train("parts", 3)
    resumed = train("parts", 6)
    for key in ("weights", "schedule_sampler"):
        assert all(torch.equal(a, b) for a, b in zip(straight[key].values(), resumed[key].values(), strict=True))


# segmentation_train.py of which the second process is killed once, in the middle of the interval between two saves
KILLED = """
import os, signal, sys
from guided_diffusion.train_util import Trainer
from ranks import script_main

after_step = Trainer.after_step

def look(self, bar):
    if (self.state.steps_done, os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (7, "1", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return after_step(self, bar)

Trainer.after_step = look
script_main("segmentation_train", *sys.argv[1:])
"""


def test_a_killed_process_comes_back_under_torchrun_and_the_result_is_the_same(ranks, cases, tmp_path):
    flags = [
        f"--data_dir={cases}",
        "--iterations=10",
        "--save_interval=2",
        "--log_interval=1",
        "--batch_size=2",
        *as_arguments(LEAST),
    ]
    straight = ranks.run_script(tmp_path, "segmentation_train", *flags, f"--log_dir={tmp_path / 'straight'}")
    assert straight.returncode == 0, straight.stderr

    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts=2",
        "--nproc_per_node=2",
        str(program),
    ]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.run(
        [*command, *flags, f"--log_dir={tmp_path / 'killed'}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "continuing" in run.stdout
    a, b = (torch.load(tmp_path / name / "savedmodel.pt", weights_only=True) for name in ("straight", "killed"))
    assert a["step"] == b["step"] == 10 and all(
        torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"]
    )


def test_a_signal_to_one_process_ends_all_at_the_same_step(ranks, cases, tmp_path):
    flags = [
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        "--iterations=0",
        "--log_interval=1",
        "--batch_size=2",
        *as_arguments(LEAST),
    ]
    progress, end = tmp_path / "progress.csv", time.monotonic() + 120
    with ranks.start(tmp_path, script_main, "segmentation_train", *flags) as processes:
        while not (progress.exists() and progress.read_text().count("\n") > 3):
            assert time.monotonic() < end and all(process.exitcode is None for process in processes)
            time.sleep(0.02)
        os.kill(processes[1].pid, signal.SIGTERM)
        done = finish(processes, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stopped after step" in done.stdout and (tmp_path / "savedmodel.pt").exists()


# -- one process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Call it with gpus=N to simulate a machine where a process sees N GPUs; they are not used."""

    def set_up(gpus):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    return set_up


def environment(rank, world_size, local_rank, **more):
    """What torchrun sets, as strings."""
    names = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": local_rank,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }
    return {name: str(value) for name, value in {**names, **more}.items()}


def together(function, count):
    """Call function(rank) for all ranks concurrently; returns a list of their results or exceptions."""

    def call(rank):
        try:
            return function(rank)
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


@pytest.mark.parametrize(
    "gpus, local_rank, index", [(0, 3, None), (4, 0, 0), (4, 3, 3), (1, 0, 0), (1, 1, 0), (1, 7, 0)]
)
def test_a_process_takes_the_gpu_of_its_local_rank_or_the_only_one_it_sees(machine, gpus, local_rank, index):
    machine(gpus)
    assert Processes(environment(local_rank, 8, local_rank)).device == torch.device(
        "cpu" if index is None else f"cuda:{index}"
    )


@pytest.mark.parametrize(
    "gpus, environ",
    [
        (2, environment(2, 3, 2)),  # neither its own nor the only one
        (1, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}),  # nowhere to meet, so that cards could be compared
        (1, environment(0, 1, 1)),
    ],
)
def test_a_process_without_a_gpu_is_refused(machine, gpus, environ):
    machine(gpus)
    with pytest.raises(ConfigError, match=f"no GPU for local rank .: {gpus} visible; .*--nproc_per_node={gpus}"):
        Processes(environ)


def test_processes_with_cards_of_their_own_are_not_refused():
    cards = [["a", "GPU-1"], ["a", "GPU-2"], ["b", "GPU-1"]]  # the last is another machine
    store = dist.HashStore()
    assert together(lambda rank: refuse_shared_cards(store, rank, 3, cards[rank]), 3) == [None] * 3


def test_two_processes_on_one_card_are_refused_by_all_with_their_ranks_and_the_remedy():
    cards = [["a", "GPU-1"], ["b", "GPU-3"], ["b", "GPU-4"], ["b", "GPU-3"]]
    store = dist.HashStore()
    errors = together(lambda rank: refuse_shared_cards(store, rank, 4, cards[rank]), 4)
    assert {str(error) for error in errors} == {
        "ranks 1 and 3 share one GPU of b: start one process per GPU (--nproc_per_node=2)"
    }


def test_the_first_process_keeps_the_store_until_all_have_read_it():
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(refuse_shared_cards, store, 0, 2, ["a", "GPU-1"])
        store.set("card1", '["a", "GPU-2"]')  # has published its card, and not read the other's
        store.wait(["compared0"], timedelta(seconds=60))
        assert not first.done()
        store.set("compared1", "yes")
        assert first.result(timeout=60) is None


@pytest.fixture
def run_of(machine, monkeypatch):
    """Call it with (cards, attempt) for the Processes of a run that see a GPU each, of these UUIDs.

    In all attempts they meet at one store.
    """
    machine(gpus=1)
    store = dist.HashStore()
    monkeypatch.setattr(
        dist, "rendezvous", lambda address, rank, world_size, timeout: iter([(store, rank, world_size)])
    )

    def set_up(cards, attempt=0, **more):
        environs = [
            environment(rank, len(cards), rank, TORCHELASTIC_RESTART_COUNT=attempt) for rank in range(len(cards))
        ]
        run = [Processes(environ, **more) for environ in environs]
        for processes, card in zip(run, cards, strict=True):
            processes.card = lambda card=card: ["host", card]
        return run

    return set_up


@pytest.fixture
def groups(monkeypatch):
    """The arguments of process groups, which are not actually created."""
    made = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **given: made.append({"backend": backend, **given}))
    return made


def test_cards_are_compared_before_nccl_starts_on_the_card_of_each_process(run_of, groups):
    run = run_of(["GPU-1", "GPU-2"])
    assert together(lambda rank: run[rank].start(), 2) == run
    assert sorted(group["rank"] for group in groups) == [0, 1]
    for group in groups:
        assert group["backend"] == "nccl" and group["device_id"] == torch.device("cuda:0") and group["world_size"] == 2
        assert group["timeout"] >= timedelta(hours=1)  # a checkpoint is uploaded meanwhile
        assert (
            group["store"].get("compared0") == b"yes"
        )  # keys of the cards and of NCCL share the prefix of the attempt


def test_two_processes_on_one_card_never_reach_nccl(run_of, groups):
    run = run_of(["GPU-1", "GPU-1"])
    errors = together(lambda rank: run[rank].start(), 2)
    refusal = "ranks 0 and 1 share one GPU of host: start one process per GPU (--nproc_per_node=1)"
    assert [str(error) for error in errors] == [refusal] * 2
    assert not groups


def test_an_attempt_does_not_read_the_cards_of_the_one_before(run_of, groups):
    for attempt, cards in enumerate((["GPU-1", "GPU-2"], ["GPU-2", "GPU-1"], ["GPU-1", "GPU-1"])):
        run = run_of(cards, attempt)
        assert not run[0].meet().check(["card0"])
        found = together(lambda rank: run[rank].check_cards(), 2)
        assert found == [None, None] if attempt < 2 else all(isinstance(error, ConfigError) for error in found)


def test_gloo_gets_no_card(run_of, groups):
    run = run_of(["GPU-1", "GPU-2"], backend="gloo", timeout=timedelta(days=7))
    together(lambda rank: (run[rank].check_cards(), run[rank].start()), 2)  # compared twice, as in sampling
    assert [(group["backend"], group["device_id"], group["timeout"]) for group in groups] == [
        ("gloo", None, timedelta(days=7))
    ] * 2


def test_a_run_that_cannot_meet_is_refused():
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        Processes({"RANK": "0", "WORLD_SIZE": "2"}).start()


class Shard(torch.Tensor):
    """A tensor that counts how often it is gathered, like a DTensor."""

    made_whole = 0

    def full_tensor(self):
        Shard.made_whole += 1
        return torch.Tensor(self)


def test_a_process_that_keeps_nothing_still_joins_in_gathering_shards():
    shards = [torch.ones(2).as_subclass(Shard) for _ in range(2)]
    state = {"a": shards[0], "b": [shards[1], {"c": torch.zeros(1), "step": 3}]}
    assert whole(state, keep=False) == {"a": None, "b": [None, {"c": None, "step": 3}]} and Shard.made_whole == 2
    kept = whole(state)
    assert torch.equal(kept["a"], torch.ones(2)) and kept["b"][1]["step"] == 3 and Shard.made_whole == 4


def test_mpi_without_a_library_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match="pip install mpi4py mpich"):
        Processes({"PMI_SIZE": "2"})
    assert Processes({"PMI_SIZE": "1"}).world_size == 1
    assert Processes({"PMI_SIZE": "2", "RANK": "1", "WORLD_SIZE": "3"}).rank == 1  # torchrun's word comes first


@pytest.mark.multi_process
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--batch_size=4"], ["6 cases", "a step needs 8 (2 processes of --batch_size 4)", "--batch_size 3"]),
        (["--log_dir=/proc/nowhere"], ["/proc/nowhere"]),
        (["--use_fp16", "--shard"], ["--shard", "--use_fp16"]),
    ],
)
def test_refusals_come_before_the_processes_meet(cases, tmp_path, monkeypatch, flags, words):
    """A process that is refused fails on its own and does not wait for the other."""
    monkeypatch.setattr(Processes, "start", lambda self: pytest.fail("it waits for the other"))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    done = call_script(
        "segmentation_train",
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        "--batch_size=1",
        *as_arguments(LEAST),
        *flags,
    )
    assert_refused(done, *words)
