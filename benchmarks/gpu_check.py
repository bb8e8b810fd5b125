"""Checks correctness and measures speed on a GPU, within seven minutes.

    python benchmarks/gpu_check.py --out results/gpu_check
    python benchmarks/gpu_check.py --out results/dry_run --dry_run

Each stage runs in a separate process with a time limit, so that a failure does not affect later stages. Files in --out:
stages.jsonl, one line per finished stage; gpu_check.json, all stages in one file; output.txt, their console output. A
line has the stage's status (ok, failed, timeout, skipped or interrupted), its results, even if it was stopped, and the
errors of its parts. Stages are skipped if too little of --seconds is left.

Compilation starts immediately, in the background. Stages that do not measure time run first: versions, correctness,
training with the script, and processes. Once compilation has finished, the timed stages run alone on the machine:
ceilings, sampling, training, the sampling script, and, if several GPUs are visible, training on all of them. Inductor's
autotuning runs while other stages use the GPU.

The network is that of the paper's README at 128x128, with random weights. With --dry_run, all stages run at small sizes
on the CPU without compilation. Exit status: 1 if a stage failed, 2 if there is no GPU.
"""

import contextlib
import importlib
import os
import signal
import sys
import tempfile
from dataclasses import replace
from typing import Annotated

import torch
from gpu.runner import Child, Runner, Stage
from gpu.settings import DRY, Settings

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.system.storage import refuse_remote

STAGES = (
    Stage("versions", 40),
    Stage("correctness", 90, least=15),
    Stage("training_script", 100, least=20),
    Stage("processes", 80, least=15),
    Stage("ceilings", 50, least=10, timed=True),
    Stage("sampling", 120, least=20, timed=True),
    Stage("training", 100, least=20, timed=True),
    Stage("end_to_end", 80, least=20, timed=True),
    Stage("scaling", 120, least=30, timed=True),
)
COMPILED = ("sample_many", "sample_one", "train")  # jobs of gpu.stages.compilation
# Modules that many stages import; imported once here. On a machine with a GPU they may initialise CUDA
SLOW = ("torch._dynamo", "torch.distributed.fsdp")
JOIN_BY = 0.53  # share of --seconds after which compilation is stopped


@config()
class GpuCheckConfig:
    out: Annotated[str, Flag("folder of the results, new or empty")] = "results/gpu_check"
    dry_run: Annotated[bool, Flag("run all stages at small sizes on the CPU, without compilation")] = False
    stages: Annotated[tuple[str, ...], Flag("stages to run, e.g. versions,ceilings; default: all")] = ()
    seconds: Annotated[int, Flag("time limit for all stages together")] = 400  # seven minutes including start-up
    cache: Annotated[str, Flag("folder to keep compiled kernels in for the next run; default: do not keep them")] = ""


def check(config):
    """The stages to run. ConfigError: a flag is invalid."""
    refuse_remote("out", config.out)
    if os.path.isdir(config.out) and os.listdir(config.out):
        raise ConfigError(f"--out {config.out} is not empty: use a new folder")
    names = [stage.name for stage in STAGES]
    if unknown := [name for name in config.stages if name not in names]:
        raise ConfigError(f"--stages {unknown[0]} is unknown: choose from {', '.join(names)}")
    if config.seconds < 1:
        raise ConfigError(f"--seconds {config.seconds}: must be at least 1")
    return [stage for stage in STAGES if not config.stages or stage.name in config.stages]


def visible_gpus(settings):
    """The number of visible GPUs, queried in a child process: CUDA must not be initialised here, before forking."""

    def ask(record, settings):
        record.add(gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0)

    child = Child("gpus", ask, settings, settings.folder("gpus.json"))
    child.wait(60)
    child.stop()
    return child.line("ok")["figures"].get("gpus", 0)


def set_environment(config, work):
    """Set the environment of all processes: common caches and, in a dry run, no GPU and one thread."""
    cache = os.path.abspath(config.cache) if config.cache else work
    os.environ |= {
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "inductor"),
        "TRITON_CACHE_DIR": os.path.join(cache, "triton"),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
        "XDG_CACHE_HOME": os.path.join(work, "user_cache"),
    }
    if config.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
        for name in SLOW:
            importlib.import_module(name)


def compilation_jobs(settings, stages):
    """{name: function} to run in the background: concurrently, or in a dry run one after another."""

    def job(*names):
        return lambda record, settings: importlib.import_module("gpu.stages.compilation").run(record, settings, names)

    if not any(stage.timed for stage in stages):
        return {}
    return {"all": job(*COMPILED)} if settings.dry_run else {name: job(name) for name in COMPILED}


def stop(number, frame):
    """Signal handler: end the run and keep the results so far."""
    sys.exit(128 + number)


def run(config, stages, work):
    """Run the stages; returns the exit status."""
    set_environment(config, work)
    settings = Settings(config.out, work, config.dry_run, **({"sizes": DRY} if config.dry_run else {}))
    settings = replace(settings, gpus=0 if config.dry_run else visible_gpus(settings))
    if not config.dry_run and not settings.gpus:
        raise ConfigError("no GPU is visible to PyTorch: use a machine with a GPU, or --dry_run")
    if settings.gpus == 1:
        stages = [stage for stage in stages if stage.name != "scaling"]
    if config.dry_run:  # which may run beside other programs
        stages = [replace(stage, seconds=config.seconds) for stage in stages]
    os.makedirs(config.out, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    runner = Runner(settings, config.seconds, compilation_jobs(settings, stages), JOIN_BY * config.seconds)
    return 0 if runner.run(stages) else 1


def main():
    with command_line.one_line_errors("benchmarks/gpu_check.py"):
        config = command_line.parse_command_line((GpuCheckConfig,), __doc__)[GpuCheckConfig]
        stages = check(config)
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            status = run(config, stages, work)
    sys.exit(status)


if __name__ == "__main__":
    main()
