"""What a benchmark of training measures, and what it leaves behind where it cannot go on."""

import json
import sys

import pytest
import torch
from helpers import ROOT

from guided_diffusion.lidcloader import LIDCDataset

sys.path.insert(0, str(ROOT / "benchmarks"))
import training  # noqa: E402

ROW = {"name": "a", **dict.fromkeys(("images_per_second", "seconds_per_image", "tflops", "share_of_matrix_products", "peak_memory_gb", "times_plain"), 1.0)}
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
    assert json.loads(out.read_text())["not_scaled"] == "--scaling False" and "not timed: --scaling False" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.serial
def test_the_memory_of_each_loop_is_its_own(cases, tmp_path):
    """Neither has in it what this process, or the other loop, holds."""
    held = torch.ones(2**28)
    config = training.BenchmarkConfig(batch_size=1, image_size=16, num_channels=32)
    peaks = training.memory_of_loops(config, CPU, LIDCDataset(cases, 16, 4), str(tmp_path / "log"))
    assert list(peaks) == ["plain loop", "this project"] and all(0.1 < peak < held.nbytes / 1e9 for peak in peaks.values()), peaks
