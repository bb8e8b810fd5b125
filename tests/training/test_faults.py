"""A short fault campaign against training, and untrusted files against the readers."""

import sys
import zlib

import numpy as np
import pytest
import torch
from helpers import LEAST, ROOT, read_image, read_label, segmenter_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.checkpoints.format import FORMAT, VERSION
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.dist_util import Processes
from guided_diffusion.errors import CheckpointError, DataError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_log import open_logger
from guided_diffusion.training.start import check_start, find_start

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults  # noqa: E402

bounded = settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@pytest.mark.multi_process
@pytest.mark.nightly
def test_every_fault_is_survived():
    rows = faults.run_campaign(faults.FaultsConfig(kills=4, seed=1))
    assert [row["fault"] for row in rows] == list(faults.FAULTS)
    assert not [failure for row in rows for failure in row["failures"]]


def test_a_restart_must_have_happened_and_lose_no_more_than_since_the_last_save():
    fresh, again = "starting a new run: 6 cases, ...\n", "continuing run/savedmodel000010.pt at step 10: 6 cases, ...\n"
    faults.check_restart(fresh + "saved\n" + again, 10 + faults.SAVE_INTERVAL)
    faults.check_restart(fresh + fresh, faults.SAVE_INTERVAL)
    for log, logged in (
        (fresh, 4),
        (fresh + again, 11 + faults.SAVE_INTERVAL),
        (fresh + fresh, 1 + faults.SAVE_INTERVAL),
    ):
        with pytest.raises(faults.Survival):
            faults.check_restart(log, logged)


# -- untrusted files --------------------------------------------------------------------------------------------------


def disturbed(data, content):
    """`content` with some bytes changed, cut off or inserted."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        what = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del content[place : place + data.draw(st.integers(1, 64))]
        else:
            content[place:place] = data.draw(st.binary(max_size=16))
    return bytes(content)


def picture_files(folder):
    """One file of each kind, by ending."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / "b.png")
    np.save(folder / "a.npy", pixels.astype(np.float32))
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(pixels.astype(np.int16), np.eye(4)), folder / "a.nii.gz")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return picture_files(tmp_path_factory.mktemp("pictures"))


@pytest.mark.filterwarnings("ignore")
@bounded
@given(data=st.data())
def test_readers_of_pictures_give_an_image_or_name_the_file(pictures, tmp_path, data):
    name = data.draw(st.sampled_from(sorted(pictures)))
    path = tmp_path / name
    path.write_bytes(disturbed(data, pictures[name]))
    for read in (read_image, lambda file: read_label(file, merge_labels=True)):
        try:
            array = read(str(path))
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert array.ndim == 2 and np.isfinite(array).all()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "savedmodel.pt"
    torch.save(
        {
            "format": FORMAT,
            "version": VERSION,
            "step": 1,
            "flags": {"a": [1]},
            "weights": {"model.time_embed.0.weight": torch.arange(4.0)},
            "ema": {},
        },
        path,
    )
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@bounded
@given(data=st.data())
def test_the_reader_of_checkpoints_gives_one_or_names_the_file(stored, tmp_path, data):
    path = tmp_path / "fuzzed.pt"
    path.write_bytes(disturbed(data, stored))
    try:
        for to_sample in (False, True):
            checkpoint = load_checkpoint(str(path), to_sample)
            assert isinstance(checkpoint.step, int) and isinstance(checkpoint.flags, dict)
            for weights in (checkpoint.weights, *checkpoint.ema.values()):
                assert all(isinstance(value.sum().item(), int | float) for value in weights.values())
    except CheckpointError as error:
        assert str(path) in str(error)


MINUTE = {**LEAST, "batch_size": 2, "schedule_sampler": "loss-second-moment", "use_fp16": True}


def trainer_of(dataset, folder, iterations):
    """A Trainer of a tiny model, started from `folder` as in the script."""
    given = {**MINUTE, "iterations": iterations, "data_dir": "cases", "log_dir": str(folder)}
    configs = configs_from_flags(given, TrainConfig, *MODEL_CONFIGS)
    flags, config = configs.flags(), configs[TrainConfig]
    start = find_start(configs, flags)
    segmenter, processes = segmenter_of(flags), Processes({})
    check_start(segmenter, start)
    logger = open_logger(segmenter, config, processes, start)
    return Trainer(segmenter, dataset, config, processes, flags, start, logger=logger)


@pytest.fixture(scope="module")
def run_so_far(cases, tmp_path_factory):
    """(dataset, folder, its checkpoint) of a run after one step."""
    dataset, folder = LIDCDataset(cases, 8, 1), tmp_path_factory.mktemp("run")
    trainer_of(dataset, folder, 1).run()
    return dataset, folder, load_checkpoint(str(folder / "savedmodel.pt")).content()


odd_numbers = st.sampled_from(
    [
        -1,
        0,
        3,
        2**70,
        0.5,
        float("nan"),
        float("inf"),
        True,
        None,
        "a",
        "",
        b"x",
        (1, 2),
        [],
        [1, [2]],
        {},
        {"a": 1},
        {1: 2},
    ]
)
odd_tensors = st.builds(
    lambda shape, dtype, change: change(torch.ones(shape, dtype=dtype)),
    st.sampled_from([(), (1,), (3,), (2, 3), (40, 10), (0,)]),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16]),
    st.sampled_from(
        [
            lambda x: x,
            lambda x: x.to_sparse(),
            lambda x: x.to("meta"),
            lambda x: x * float("nan") if x.is_floating_point() else x,
        ]
    ),
)


def with_odd_parts(data, content):
    """A copy of nested dicts and lists with an entry at any depth removed, added, or replaced by an odd value."""
    changed = dict(content) if isinstance(content, dict) else list(content)
    keys = list(changed) if isinstance(content, dict) else range(len(changed))
    key = data.draw(st.sampled_from(keys)) if keys else None
    inner = key is not None and isinstance(changed[key], (dict, list))
    what = data.draw(
        st.sampled_from(["deeper", "deeper", "replace", "remove", "add"] if inner else ["replace", "remove", "add"])
    )
    if what == "deeper":
        changed[key] = with_odd_parts(data, changed[key])
    elif what == "replace" and key is not None:
        changed[key] = data.draw(st.one_of(odd_numbers, odd_tensors))
    elif what == "remove" and key is not None:
        del changed[key]
    elif isinstance(changed, dict):
        changed[data.draw(st.sampled_from(["odd", 0, 10**6]))] = data.draw(odd_numbers)
    return changed


@pytest.mark.filterwarnings("ignore")
@settings(bounded, max_examples=100)
@given(data=st.data())
def test_a_run_resumes_from_a_checkpoint_or_refuses_it_by_name(run_so_far, tmp_path, data):
    """Load the file into weights, averages, optimizer, samplers and counters, and make the next step."""
    dataset, _, content = run_so_far
    for _ in range(data.draw(st.integers(1, 2))):
        content = with_odd_parts(data, content)
    path = tmp_path / "savedmodel000001.pt"
    torch.save(content, path)
    try:
        trainer = trainer_of(dataset, tmp_path, 2)
    except CheckpointError as error:
        assert str(tmp_path) in str(error)
    else:
        next(iter(trainer.sampler))
        trainer.state.schedule_sampler.sample(torch.rand(2))
        trainer.state.scaler.scale(torch.ones(()))
        for p in trainer.state.trained:  # a step but for the network, which is slow
            p.grad = torch.zeros_like(p)
        trainer._optimize(["a", "b"], {"loss": torch.ones(2)})
        trainer.state.checkpoint(trainer.info).content()
        trainer.log.close()


def test_a_picture_of_billions_of_pixels_is_refused_by_name_without_reading_it(tmp_path):
    """60,000 x 60,000 pixels in a file of a few kilobytes, and one that is cut off."""
    case = tmp_path / "a"
    case.mkdir()
    Image.fromarray(np.zeros((60_000, 8), dtype=bool)).save(case / "label0_.png")
    content = bytearray((case / "label0_.png").read_bytes())
    content[16:20] = (60_000).to_bytes(4, "big")  # the width, and with it the header's checksum
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (case / "image.png").write_bytes(content)
    with pytest.raises(DataError, match="image.png.*3600000000 pixels"):
        LIDCDataset(tmp_path)
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    whole.save(case / "image.png")
    (case / "image.png").write_bytes((case / "image.png").read_bytes()[:900])
    with pytest.raises(DataError, match="image.png.*truncated"):
        LIDCDataset(tmp_path)


@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**62, 4)])
def test_an_array_that_claims_to_be_huge_is_refused_by_name(tmp_path, shape):
    path = tmp_path / "image.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with pytest.raises(DataError, match="image.npy"):
        read_image(str(path))
