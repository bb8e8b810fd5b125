"""What a benchmark of training measures, and what it leaves behind if it cannot continue."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

from guided_diffusion.lidcloader import LIDCDataset

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_tuned  # noqa: E402
import growth  # noqa: E402
import sampling  # noqa: E402
import training  # noqa: E402

ROW = {
    "name": "a",
    **dict.fromkeys(
        (
            "images_per_second",
            "seconds_per_image",
            "tflops",
            "share_of_matrix_products",
            "peak_memory_gb",
            "times_plain",
        ),
        1.0,
    ),
}
CPU = torch.device("cpu")


@pytest.fixture
def out(tmp_path, monkeypatch):
    """The file for the figures of a main() that measures nothing."""
    figures = {"gflop_per_image": 1.0, "matrix_product_tflops": 1.0, "rows": [ROW]}
    monkeypatch.setattr(training, "time_loops", lambda *arguments: figures)
    monkeypatch.setattr(training, "time_loader", lambda folder: 7.0)
    monkeypatch.setattr(sys, "argv", ["training.py", f"--out={tmp_path / 'out.json'}", "--image_size=16"])
    return tmp_path / "out.json"


def test_figures_are_written_before_two_processes_are_timed(out, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no second process")

    monkeypatch.setattr(training, "time_processes", fail)
    with pytest.raises(RuntimeError, match="no second process"):
        training.main()
    assert json.loads(out.read_text())["loader_cases_per_second"] == 7.0


def test_two_processes_are_timed_only_where_each_has_its_gpu(out, monkeypatch, capsys):
    for gpus in (1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        reason = training.why_not_scaled(training.BenchmarkConfig(), torch.device("cuda", 0))
        assert (reason is None) == (gpus == 2)
    assert training.why_not_scaled(training.BenchmarkConfig(), CPU) is None
    sys.argv.append("--scaling=False")
    training.main()
    assert (
        json.loads(out.read_text())["not_scaled"] == "--scaling False"
        and "not timed: --scaling False" in capsys.readouterr().out
    )


@pytest.mark.nightly
@pytest.mark.serial
def test_the_memory_of_each_loop_is_its_own(cases, tmp_path):
    """Neither has in it what this process, or the other loop, holds.

    Each loop is built, and timed, in a process of its own.
    """
    held = torch.ones(2**28)
    config = training.BenchmarkConfig(batch_size=1, image_size=16, num_channels=32, rounds=2, steps=1)
    rows = training.time_loops(config, CPU, LIDCDataset(cases, 16, 4), str(tmp_path / "log"))["rows"]
    assert [row["name"] for row in rows] == ["plain loop", "this project"] and not training.BUILT
    assert all(0.1 < row["peak_memory_gb"] < held.nbytes / 1e9 for row in rows), rows
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in rows)


@pytest.mark.nightly
def test_a_dry_run_of_the_training_of_tuned(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_tuned.py"),
        "--dry_run",
        f"--work={tmp_path / 'work'}",
        f"--out={tmp_path / 'out.json'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["steps"] == 2 and result["masks"] == 8 and result["steps_per_second"] > 0
    assert {"ged_2", "ged_4"} <= result["figures"].keys() and 0 <= result["figures"]["ged_4"]["mean"] <= 2


def test_the_training_of_tuned_refuses_a_machine_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_tuned.py", f"--work={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        gpu_tuned.main()
    assert end.value.code == 2 and "--dry_run" in capsys.readouterr().err


def test_a_chain_is_timed_whole_on_a_gpu(monkeypatch):
    """There its 20 calls hide the noise that is drawn before the first one; on a CPU two of them do."""
    seen = []
    monkeypatch.setattr(sys, "argv", ["sampling.py"])

    def note(config, device):
        seen.append((device, config.calls))
        raise SystemExit

    monkeypatch.setattr(sampling, "measure", note)
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        with pytest.raises(SystemExit):
            sampling.main()
    assert seen == [("cuda", 20), ("cpu", 2)]


def test_the_exponent_of_growth_is_that_of_what_is_added_to_the_start():
    assert growth.exponent([(1, 5.0, 1), (10, 5 + 2 * 10**1.5, 1), (100, 5 + 2 * 100**1.5, 1)]) == pytest.approx(1.5)
    assert growth.exponent([(1, 5.0), (2, 6.0)]) is None and growth.exponent([(1, 5.0), (2, 3.0), (4, 2.0)]) is None
