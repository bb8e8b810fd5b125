"""Sampling on several machines into a shared folder: they need no connection, and one may be lost."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, call_script, wait_for, write_checkpoint

from guided_diffusion.sampling import store

NODES, LOST = 4, 2


@pytest.mark.multi_process
def test_four_machines_share_the_cases_and_a_lost_one_is_started_again(tmp_path):
    """The masks are those of one process, bit for bit, and the cases of the others are not drawn again."""
    model = write_checkpoint(tmp_path / "savedmodel.pt")
    data, alone, shared = tmp_path / "cases", tmp_path / "alone", tmp_path / "shared"
    for k in range(8):
        shutil.copytree(ROOT / "data" / "testing" / f"phantom{k:04}", data / f"phantom{k:04}")
    flags = [f"--data_dir={data}", f"--model_path={model}", "--num_ensemble=2", "--batch_size=2", "--steps=20"]

    def start(rank):
        environ = {"RANK": rank, "WORLD_SIZE": NODES, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "OMP_NUM_THREADS": 1}
        return subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "segmentation_sample.py", *flags, f"--out_dir={shared}"],
            env={**os.environ, **{name: str(value) for name, value in environ.items()}},
            stdout=subprocess.DEVNULL,
        )

    nodes = [start(rank) for rank in range(NODES)]
    wait_for(lambda: (shared / f"phantom{LOST:04}_samples.npz").exists(), seconds=120)
    nodes[LOST].kill()
    assert [node.wait(timeout=120) == 0 for node in nodes] == [rank != LOST for rank in range(NODES)]
    others = [shared / f"phantom{k:04}_samples.npz" for k in range(8) if k % NODES != LOST]
    done = {path.name: path.stat().st_mtime_ns for path in others}

    assert start(LOST).wait(timeout=120) == 0
    assert call_script("segmentation_sample", *flags, f"--out_dir={alone}").returncode == 0
    for k in range(8):
        path = shared / f"phantom{k:04}_samples.npz"
        (samples, _), (expected, _) = store.read_case(str(path)), store.read_case(str(alone / path.name))
        np.testing.assert_array_equal(samples, expected)
        assert done.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
