"""Short training runs with equal flags and cases, for fault injection; checks that their final states are equal."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

import torch

from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.prepare.phantoms import phantom

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "scripts" / "segmentation_train.py"
STEPS, SAVE_INTERVAL = 40, 2
FLAGS = (
    "--image_size=16 --image_channels=1 --num_channels=32 --num_res_blocks=1 --channel_mult=1,1 "
    "--attention_resolutions=8 --num_heads=2 --diffusion_steps=40 --noise_schedule=cosine --num_filters=4,8 "
    "--learn_sigma=True --dropout=0.1 --batch_size=4 "
    f"--iterations={STEPS} --save_interval={SAVE_INTERVAL} --log_interval=1"
).split()


class Survival(AssertionError):
    """A run did not survive a fault."""


class Campaign:
    """Runs in folders below `work`, all with the same flags and cases."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.data = self.work / "data"
        phantom.write_set(self.data, num_cases=6, seed=5, size=16, num_raters=3)
        self.environment = {"OMP_NUM_THREADS": "1", **os.environ, "XDG_CACHE_HOME": str(self.work / "cache")}
        self.count = 0
        started = time.monotonic()
        self.expected = self.finish(self.folder())
        self.seconds = time.monotonic() - started

    def folder(self):
        self.count += 1
        return self.work / f"run{self.count}"

    def start(self, folder, *more, launcher=(), **options):
        command = [
            sys.executable,
            *launcher,
            str(SCRIPT),
            f"--data_dir={self.data}",
            f"--log_dir={folder}",
            *FLAGS,
            *more,
        ]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    def finish(self, folder, *more):
        """Run the command to its end; returns the final checkpoint."""
        run = self.start(folder, *more)
        text, _ = run.communicate()
        if run.returncode:
            raise Survival(f"the rerun command failed with status {run.returncode}: {text[-500:]}")
        return torch.load(folder / "savedmodel.pt", weights_only=True)

    def survives(self, folder, *more):
        """Check that no saved step is lost, and that the final state equals that of an undisturbed run."""
        logged = self.logged(folder)
        newest = CheckpointFolder(str(folder)).newest()
        lost = logged - (newest.checkpoint.step if newest else 0)
        if lost > SAVE_INTERVAL:
            raise Survival(f"lost {lost} steps, with a checkpoint every {SAVE_INTERVAL} steps")
        self.same(self.finish(folder, *more))

    def same(self, state):
        for key in ("weights", "ema", "optimizer", "samples"):
            if not equal(state[key], self.expected[key]):
                raise Survival(f"the final {key} differ from those of the undisturbed run")

    @staticmethod
    def logged(folder):
        """The last logged step of a run."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int((folder / "progress.csv").read_text().splitlines()[-1].split(",")[0])
        return 0

    def wait(self, condition, run):
        while not condition():
            if run.poll() is not None:
                raise Survival(f"the run ended before the fault: {run.communicate()[0][-500:]}")
            time.sleep(0.005)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
