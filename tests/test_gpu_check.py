"""The command that checks a GPU, without one: its dry run, and what becomes of stages that fail or hang."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_check  # noqa: E402
from gpu import rates  # noqa: E402
from gpu.record import require  # noqa: E402
from gpu.runner import Runner, Stage  # noqa: E402
from gpu.settings import Settings  # noqa: E402
from gpu.timing import median_ms  # noqa: E402
from gpu.trace import busy_time, profile_of  # noqa: E402

NAMES = [stage.name for stage in gpu_check.STAGES]
# Parts of a stage, and a figure in each
PARTS = {
    "correctness": {
        "unet_none": "relative_error",
        "unet_bf16": "relative_error",
        "noise": "start_bits_equal",
        "chain_none": "equal_pixels",
    },
    "training_script": {
        "resumed": "weights",
        "not_finite": "unchanged",
        "validated": "weights",
        "use_fp16": "loss",
        "microbatch": "weights",
    },
    "processes": {
        "two_processes_gloo": "gradient_error",
        "ddp": "no_sync_gradient_error",
        "fully_shard": "gradient_error",
    },
    "ceilings": {"products": "bf16", "copy": "gb_per_second"},
    "sampling": {
        "published": "masks_per_second",
        "eager": "profile",
        "compiled": "times_eager",
        "chains": "equal_seeds_equal_bits",
        "batch_size_auto": "answer",
    },
    "training": {"published": "ms", "eager": "profile", "compiled": "tflops"},
    "end_to_end": {
        "eager": "share_of_loop_alone",
        "batch_size_auto": "masks_at_a_time",
        "compiled": "masks_per_second",
    },
    "scaling": {"rate": "efficiency"},
}


def numbers(value):
    """Every number of a nested value."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (int, float)) else []


def read_lines(folder):
    return {line["stage"]: line for line in map(json.loads, (folder / "stages.jsonl").read_text().splitlines())}


@pytest.fixture
def settings(tmp_path):
    folders = [tmp_path / name for name in ("out", "work")]
    for folder in folders:
        folder.mkdir()
    return Settings(*map(str, folders), dry_run=True)


# -- the real stages --------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_dry_run(tmp_path):
    """Every stage does its work on the CPU, and its line has its figures."""
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), f"--out={out}", "--dry_run", "--seconds=1200"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (out / "output.txt").read_text()[-3000:]
    lines = read_lines(out)
    assert list(lines) == [*NAMES[: NAMES.index("ceilings")], "compilation", *NAMES[NAMES.index("ceilings") :]]
    assert all(line["status"] == "ok" and not line["errors"] for line in lines.values())
    for stage, parts in PARTS.items():
        for part, figure in parts.items():
            assert figure in lines[stage]["figures"][part], (stage, part)
    found = numbers([line["figures"] for line in lines.values()])
    assert (
        len(found) > 200
        and all(map(math.isfinite, found))
        and "nan" not in (out / "stages.jsonl").read_text().split('"')
    )
    assert lines["correctness"]["figures"]["unet_none"]["relative_error"] < 1e-5
    assert lines["training_script"]["figures"]["resumed"]["weights"]["equal_bits"]
    summary = json.loads((out / "gpu_check.json").read_text())
    assert summary["dry_run"] and summary["torch"] and list(summary["stages"]) == list(lines)
    assert len(os.listdir(out)) <= 8


def test_without_a_gpu_one_line_says_so(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), f"--out={tmp_path / 'out'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--dry_run" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_itself_asks_for_no_gpu():
    """A process that has asked for one could not be forked to use it; neither may the stages that fork ask before."""
    code = """
import sys, torch
def refuse(*a, **k): raise AssertionError("it asked for a GPU")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"): setattr(torch.cuda, name, refuse)
sys.path.insert(0, sys.argv[1])
import gpu_check
assert "gpu.stages" not in sys.modules
import gpu.stages.processes, gpu.stages.scaling  # which fork processes too
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "benchmarks")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- stages that do not end well --------------------------------------------------------------------------------------


def good(record, settings):
    record.add(answer=42)


def with_a_bad_part(record, settings):
    with record.part("bad") as add:
        add(before=1)
        require(False, "it is not so")
    with record.part("next") as add:
        add(after=2, infinite=math.inf)


def crashing(record, settings):
    record.add(before=1)
    os.kill(os.getpid(), signal.SIGSEGV)


def hanging(record, settings):
    with record.part("first") as add:
        add(measured=7)
        child = subprocess.Popen(["sleep", "600"])
        record.add(child=child.pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stage_that_fails_stops_no_other(settings, tmp_path):
    stages = [
        Stage("broken", 60, run=lambda record, settings: 1 / 0),
        Stage("partly", 60, run=with_a_bad_part),
        Stage("crash", 60, run=crashing),
        Stage("absent", 60),
        Stage("last", 60, run=good),
    ]
    assert not Runner(settings, 600).run(stages)
    lines = read_lines(tmp_path / "out")
    assert [line["status"] for line in lines.values()] == ["failed", "failed", "failed", "failed", "ok"]
    assert any("ZeroDivisionError" in text for text in lines["broken"]["stderr"])
    assert lines["partly"]["figures"]["bad"]["before"] == 1 and lines["partly"]["figures"]["next"]["after"] == 2
    assert (
        "it is not so" in lines["partly"]["errors"]["bad"] and lines["partly"]["figures"]["next"]["infinite"] == "inf"
    )
    assert lines["crash"]["figures"] == {"before": 1} and lines["crash"]["errors"] == {"process": "ended by SIGSEGV"}
    assert any("gpu.stages.absent" in text for text in lines["absent"]["stderr"])
    assert lines["last"]["figures"] == {"answer": 42}
    assert sorted(os.listdir(tmp_path / "out")) == ["gpu_check.json", "output.txt", "stages.jsonl"]


def test_a_stage_that_hangs_is_ended_with_its_processes_and_keeps_its_figures(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu.runner.GRACE", 0.1)
    assert not Runner(settings, 600).run([Stage("hang", 3, run=hanging), Stage("last", 60, run=good)])
    lines = read_lines(tmp_path / "out")
    assert lines["hang"]["status"] == "timeout" and lines["hang"]["figures"]["first"] == {"measured": 7}
    assert lines["last"]["status"] == "ok"
    assert not alive(lines["hang"]["figures"]["child"])


def test_stages_are_skipped_near_the_end(settings, tmp_path):
    assert not Runner(settings, 50).run(
        [Stage("large", 100, least=49, run=good), Stage("small", 100, least=1, run=good)]
    )
    assert [line["status"] for line in read_lines(tmp_path / "out").values()] == ["skipped", "ok"]


def test_timed_stages_wait_for_the_compilation_and_know_what_is_compiled(settings, tmp_path):
    def compiling(record, settings):
        with record.part("a") as add:
            add(done=True)
        open(settings.folder("ended"), "w").close()

    def failing(record, settings):
        with record.part("b"):
            raise RuntimeError("no compiler")

    def timed(record, settings):
        record.add(compiled=list(settings.compiled), waited=os.path.exists(settings.folder("ended")))

    runner = Runner(settings, 600, {"a": compiling, "b": failing}, join_by=500)
    assert not runner.run([Stage("first", 60, run=good), Stage("timed", 60, timed=True, run=timed)])
    lines = read_lines(tmp_path / "out")
    assert list(lines) == ["first", "compilation", "timed"]
    assert lines["timed"]["figures"] == {"compiled": ["a"], "waited": True}
    assert lines["compilation"]["status"] == "failed" and "no compiler" in lines["compilation"]["errors"]["b"]


def test_a_compilation_that_takes_too_long_is_ended(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu.runner.GRACE", 0.1)
    Runner(settings, 600, {"a": hanging}, join_by=2).run([Stage("timed", 60, timed=True, run=good)])
    lines = read_lines(tmp_path / "out")
    assert lines["compilation"]["errors"] == {"compile_a": "timeout"} and lines["timed"]["status"] == "ok"


# -- how it measures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "card, bf16, memory",
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 3350),
        ("NVIDIA H100 PCIe", 756.0, 2000),
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA A100-SXM4-80GB", 312.0, 2039),
        ("NVIDIA A100 80GB PCIe", 312.0, 1935),
        ("NVIDIA A100-PCIE-40GB", 312.0, 1555),
        ("NVIDIA L40S", 362.0, 864),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
        ("NVIDIA Unknown", None, None),
        (None, None, None),
    ],
)
def test_nominal_rates_by_the_cards_name(card, bf16, memory):
    assert (rates.nominal(card)["bf16"], rates.nominal(card)["memory"]) == (bf16, memory)


def test_shares_are_of_what_was_measured(tmp_path):
    lines = [
        {"stage": "versions", "figures": {"card": "NVIDIA H200"}},
        {"stage": "ceilings", "figures": {"products": {"bf16": {"tflops": 800.0}}}},
    ]
    (tmp_path / "stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = rates.compute_rate(4e12, 10.0, "bf16", str(tmp_path))
    assert report == {
        "tflops": pytest.approx(400),
        "share_of_product": pytest.approx(0.5),
        "share_of_nominal": pytest.approx(400 / 989.4),
    }
    assert rates.compute_rate(4e12, 10.0, "tf32", str(tmp_path))["share_of_product"] is None


def test_busy_time_counts_what_overlaps_once():
    assert busy_time([("a", 0, 10), ("b", 2, 4), ("c", 8, 12), ("d", 20, 21)]) == 13


def test_times_and_profile_are_of_what_was_called():
    import torch

    calls = []
    assert median_ms(lambda k: calls.append(k), "cpu", 4, [(1,), (2,)], warm_ups=1) >= 0
    assert calls == [1, 1, 2, 1, 2]
    a = torch.randn(64, 64)
    report = profile_of(lambda: [a @ a for _ in range(4)], "cpu", 2)
    count = {row["name"]: row["count"] for row in report["top"]}
    assert count["aten::matmul"] == 2 and report["busy_ms"] > 0 and 0 <= report["idle_share"] < 1
