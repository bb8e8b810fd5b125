"""Sampling: choice of the sampler, precision, compilation, memory, interruptions, and the Python API."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, as_arguments, assert_refused, call_script, read_image, wait_for, write_checkpoint

from guided_diffusion import predict, script_util
from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.presets import FAST
from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.cimd import AmbiguousSegmenter
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling import draw as ensemble
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import SampleConfig
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.sampling.writer_pool import CaseWriter
from guided_diffusion.system import device as compute
from guided_diffusion.system import folders, storage

ONE_LEVEL = {"image_size": 8, "channel_mult": "1", "attention_resolutions": "8"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "savedmodel.pt")


def sample(cases, model, out, *more):
    return call_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={model}",
        f"--out_dir={out}",
        "--num_ensemble=2",
        *more,
    )


def stored_samples(out, name="phantom0000"):
    return store.read_case(str(out / f"{name}_samples.npz"))


# -- the choice of the sampler ----------------------------------------------------------------------------------------


def choose(given, preset, stored, diffusion_steps):
    flags = configs_from_flags({**preset, **given}, SampleConfig, SamplerConfig)
    flags.given, flags.preset = given, preset
    given_to_model = {name: value for name, value in given.items() if name == "timestep_respacing"}
    model = configs_from_flags({"diffusion_steps": diffusion_steps, **given_to_model}, *MODEL_CONFIGS)
    return script_util.choose_sampler(flags, model, stored)


@pytest.mark.parametrize(
    "given, preset, stored, expected",
    [
        ({}, {}, {}, {}),
        ({}, {}, {"sampler": "ddim", "steps": 10}, {"sampler": "ddim", "steps": 10}),
        ({"steps": 50}, {}, {"sampler": "ddim", "steps": 10, "eta": 0.5}, {"sampler": "ddim", "steps": 50, "eta": 0.5}),
        ({"sampler": "dpm++"}, {}, {"sampler": "ddim", "steps": 10, "eta": 0.5}, {"sampler": "dpm++", "steps": 10}),
        ({"use_ddim": True}, {}, {}, {"sampler": "ddim"}),
        ({"use_ddim": False}, {}, {"sampler": "ddim", "steps": 10}, {"sampler": "ddpm", "steps": 10}),
        ({"use_ddim": False, "sampler": "dpm++"}, {}, {}, {"sampler": "dpm++"}),
        ({"use_ddim": None}, {"steps": 7}, {"steps": 10}, {"steps": 7}),
        ({"timestep_respacing": "20"}, {"steps": 7}, {"sampler": "ddim"}, {"sampler": "ddim", "steps": None}),
        ({"fast": True}, {"steps": 50}, {"sampler": "ddim", "steps": 10}, FAST),
        ({"fast": True, "clip_denoised": False}, {}, {}, {**FAST, "clip_denoised": False}),
        ({"fast": True}, {}, {"sampler": "ddim", "clip_denoised": False}, {**FAST, "clip_denoised": False}),
        ({"fast": False, "clip_denoised": False}, {}, {}, {"clip_denoised": False}),
        ({"fast": True, "tta": "mirror"}, {}, {"tta": "flip"}, {**FAST, "tta": "mirror"}),
        ({"fast": True}, {}, {"steps": 70, "tta": "flip"}, {**FAST, "tta": "flip"}),
    ],
)
def test_what_is_given_comes_before_the_preset_and_that_before_the_checkpoint(given, preset, stored, expected):
    assert choose(given, preset, stored, 1000) == SamplerConfig(**expected)


DDIM = {"sampler": "ddim", "eta": 0.5, "spacing": "quadratic"}


@pytest.mark.parametrize(
    "preset, stored, diffusion, kept",
    [
        ({}, {}, {"diffusion_steps": 7}, True),
        ({}, {}, {"diffusion_steps": 20}, True),
        ({}, {}, {"diffusion_steps": 21}, False),
        ({}, {**DDIM, "steps": 1}, {}, True),
        ({}, {**DDIM, "steps": 20}, {}, True),
        ({}, {**DDIM, "steps": 21}, {}, False),
        ({"steps": 7}, {"sampler": "ddim"}, {}, True),
        ({"steps": 7}, {"sampler": "ddim", "steps": 50}, {}, True),
        ({"steps": 50}, {"sampler": "ddim", "steps": 7}, {}, False),
        ({}, {}, {"timestep_respacing": "ddim10"}, True),
        ({}, {}, {"timestep_respacing": "10,10"}, True),
        ({}, {}, {"timestep_respacing": "10,11"}, False),
        ({}, {"steps": 7}, {"timestep_respacing": "250"}, True),
        ({}, {"steps": 50}, {"timestep_respacing": "10"}, False),
    ],
)
def test_fast_never_takes_more_calls_than_the_sampler_of_the_checkpoint(preset, stored, diffusion, kept):
    model = configs_from_flags(diffusion, *MODEL_CONFIGS)

    def chosen(**given):
        flags = configs_from_flags({**preset, **given}, SampleConfig, SamplerConfig)
        flags.given, flags.preset = given, preset
        return script_util.choose_sampler(flags, model, stored)

    own, fast = chosen(), chosen(fast=True)
    assert fast == (own if kept else SamplerConfig(**FAST))
    assert chosen(fast=True, tta="flip") == replace(fast, tta="flip")
    calls = [script_util.calls_of(asdict(sampler), model[DiffusionConfig]) for sampler in (fast, own)]
    assert calls == sorted(calls) and calls[0] <= FAST["steps"]


def test_a_checkpoint_of_few_steps_is_sampled_with_its_own_sampler_by_fast_too(cases, tmp_path):
    model = write_checkpoint(tmp_path / "savedmodel.pt", sampler="ddim", steps=4)
    assert sample(cases, model, tmp_path / "own", "--num_samples=1").returncode == 0
    done = sample(cases, model, tmp_path / "own", "--num_samples=1", "--fast")
    assert done.returncode == 0 and "nothing to do" in done.stdout  # its settings are the same
    assert stored_samples(tmp_path / "own")[1]["steps"] == 4


def test_a_checkpoint_carries_its_own_sampler(cases, tmp_path):
    model = write_checkpoint(tmp_path / "savedmodel.pt", sampler="ddim", steps=4)
    assert sample(cases, model, tmp_path / "a", "--num_samples=1").returncode == 0
    made_by = stored_samples(tmp_path / "a")[1]
    assert made_by["sampler"] == "ddim" and made_by["steps"] == 4
    assert (
        sample(cases, model, tmp_path / "b", "--num_samples=1", "--sampler=dpm++", "--eta=1", "--steps=5").returncode
        == 0
    )
    made_by = stored_samples(tmp_path / "b")[1]
    assert made_by["sampler"] == "dpm++" and made_by["steps"] == 5 and made_by["eta"] == 1


def test_masks_are_drawn_with_the_symmetries_that_a_flag_or_the_checkpoint_names(cases, model, tmp_path):
    flags = ("--num_samples=1", "--num_ensemble=2", "--steps=4")
    assert sample(cases, model, tmp_path / "plain", *flags).returncode == 0
    assert sample(cases, model, tmp_path / "mirrored", *flags, "--tta=mirror").returncode == 0
    (plain, made_plain), (mirrored, made_mirrored) = (
        stored_samples(tmp_path / "plain"),
        stored_samples(tmp_path / "mirrored"),
    )
    assert (made_plain["tta"], made_mirrored["tta"]) == ("none", "mirror") and np.abs(plain - mirrored).max() > 1e-3
    own = write_checkpoint(tmp_path / "savedmodel.pt", tta="flip", steps=4)
    assert sample(cases, own, tmp_path / "own", "--num_samples=1").returncode == 0
    assert stored_samples(tmp_path / "own")[1]["tta"] == "flip"
    assert_refused(
        sample(cases, model, tmp_path / "plain", *flags, "--tta=mirror"), "--tta none, not mirror", "--overwrite"
    )
    assert_refused(
        sample(cases, model, tmp_path / "new", *flags, "--tta=mirror+deform"),
        "--tta mirror+deform",
        "mirror, flip, rotate",
    )


def test_the_papers_command_names_fast_and_what_it_saves(cases, tmp_path):
    model = write_checkpoint(tmp_path / "savedmodel.pt", diffusion_steps=100)
    done = sample(cases, model, tmp_path / "all", "--num_samples=1")
    assert "100 network calls per mask; --fast needs 20, 5 times fewer" in done.stdout
    assert stored_samples(tmp_path / "all")[1]["steps"] == 100
    done = sample(cases, model, tmp_path / "fast", "--num_samples=1", "--fast")
    assert "--fast" not in done.stdout and stored_samples(tmp_path / "fast")[1]["steps"] == 20


# -- one mask, one noise ----------------------------------------------------------------------------------------------


def test_precision_is_part_of_what_a_sample_is(cases, model, tmp_path, processor):
    processor()
    assert sample(cases, model, tmp_path, "--num_samples=1", "--steps=4").returncode == 0
    plain = stored_samples(tmp_path)[0]
    assert_refused(
        sample(cases, model, tmp_path, "--num_samples=1", "--steps=4", "--amp=bf16"),
        "--amp none, not bf16",
        "--overwrite",
    )
    assert sample(cases, model, tmp_path, "--num_samples=1", "--steps=4", "--amp=bf16", "--overwrite").returncode == 0
    half = stored_samples(tmp_path)[0]
    assert 0 < np.abs(plain - half).mean() < 0.1  # 8 bits of mantissa, through four steps of a network without sense


def test_given_flags_equal_to_defaults_are_not_different(cases, model, tmp_path):
    assert sample(cases, model, tmp_path, "--steps=4").returncode == 0
    done = sample(
        cases, model, tmp_path, "--steps=4", "--merge_labels=False", "--dropout=0.0", "--mask_low=0", "--eta=0"
    )
    assert done.returncode == 0 and "nothing to do: all 6 cases are drawn" in done.stdout


def test_samples_from_before_a_flag_were_drawn_with_its_default(cases, model, tmp_path):
    assert sample(cases, model, tmp_path, "--steps=2", "--num_samples=1").returncode == 0
    path = tmp_path / "phantom0000_samples.npz"
    with np.load(path) as file:
        content = {name: file[name] for name in file.files if name != "tta"}
    np.savez(path, **content)
    again = sample(cases, model, tmp_path, "--steps=2", "--num_samples=1")
    assert "nothing to do: all 1 cases are drawn" in again.stdout
    assert_refused(sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--tta=flip"), "--tta none, not flip")


def test_a_movie_goes_with_its_samples(cases, model, tmp_path):
    movie = tmp_path / "phantom0000_movie.gif"
    assert sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--movie").returncode == 0 and movie.exists()
    assert (
        sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--threshold=0.3").returncode == 0
        and movie.exists()
    )
    assert (
        sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--seed=1", "--overwrite").returncode == 0
        and not movie.exists()
    )


def test_compiling_needs_a_compiler(cases, model, tmp_path, monkeypatch):
    monkeypatch.setattr(compute.shutil, "which", lambda name: None)
    assert_refused(sample(cases, model, tmp_path, "--compile"), "--compile", "g++")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.usefixtures("unchecked")
def test_compiled_samples_are_the_same(cases, tmp_path):
    """Also in the last batch, which is filled up to the size that was compiled."""
    model = write_checkpoint(tmp_path / "savedmodel.pt", **ONE_LEVEL)
    sample(cases, model, tmp_path / "eager", "--num_samples=3", "--steps=4", "--batch_size=4")
    done = sample(cases, model, tmp_path / "compiled", "--num_samples=3", "--steps=4", "--batch_size=4", "--compile")
    assert done.returncode == 0, done.stderr
    for name in ("phantom0000", "phantom0002"):
        np.testing.assert_allclose(
            stored_samples(tmp_path / "eager", name)[0], stored_samples(tmp_path / "compiled", name)[0], atol=1e-4
        )


def test_a_filled_up_batch_gives_the_same_masks(cases, model):
    segmenter = script_util.load_segmenter(str(model), {}).segmenter.spaced(SamplerConfig(steps=3))
    dataset, config = LIDCDataset(cases, 16, 1), SampleConfig(num_ensemble=3, batch_size=4)
    counts = []
    even, plain = (
        list(
            ensemble.draw_ensembles(
                segmenter, dataset, [0, 2], config, SamplerConfig(steps=3), counts.append, even=even
            )
        )
        for even in (True, False)
    )
    assert counts == [4, 2, 4, 2]
    for (case, a), (other, b) in zip(even, plain, strict=True):
        assert case.id == other.id
        np.testing.assert_allclose(a, b, atol=1e-5)


# -- memory and cores -------------------------------------------------------------------------------------------------


def test_auto_batch_size(cases, model, tmp_path, monkeypatch):
    done = sample(cases, model, tmp_path / "a", "--num_samples=1", "--steps=2", "--batch_size=auto")
    assert done.returncode == 0 and "batch size 2" in done.stdout, done.stderr  # no more than there are to draw

    segmenter = script_util.load_segmenter(str(model), {}).segmenter
    monkeypatch.setattr(compute, "reset_peak_memory", lambda device: None)
    for peaks, free, expected in [
        ([1000, 1200], 1000, 3 + 6),  # 100 each; (1000 + 0.8 * 1000 - 1200) / 100 more
        ([1000, 1200], 0, 1),
        ([1000, 1000], 0, 40),  # no growth to be seen
        ([1000, 1200], 1e9, 40),
    ]:
        monkeypatch.setitem(compute.MOST_IN_FLIGHT, "cpu", 40)
        monkeypatch.setattr(compute, "peak_memory", lambda device, left=list(peaks): left.pop(0))
        monkeypatch.setattr(compute, "free_memory", lambda device: free)
        assert compute.fitting_batch_size(segmenter.one_call, (1, 16, 16), "cpu", most=100) == expected
    assert compute.fitting_batch_size(segmenter.one_call, (1, 16, 16), "cpu", most=2) == 2


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux can reset the peak memory of a process"
)
def test_peak_memory_is_what_was_held():
    compute.reset_peak_memory("cpu")
    before = compute.peak_memory("cpu")
    block = np.ones(2**25)  # 256 MiB
    assert 0.9 * block.nbytes < compute.peak_memory("cpu") - before < 1.3 * block.nbytes
    del block
    compute.reset_peak_memory("cpu")
    assert compute.peak_memory("cpu") - before < 2**27
    assert 2**27 < compute.free_memory("cpu") < 2**50


@pytest.mark.parametrize(
    "fits, expected", [(3, "batch size 8"), (1, "batch size 1"), (0, "a single mask does not fit")]
)
def test_auto_takes_less_where_its_trial_does_not_fit(cases, model, tmp_path, monkeypatch, fits, expected):
    """The GPU's memory holds this number of masks."""
    one_call = AmbiguousSegmenter.one_call

    def limited(self, image, config):
        if len(image) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return one_call(self, image, config)

    monkeypatch.setattr(AmbiguousSegmenter, "one_call", limited)
    monkeypatch.setattr(compute, "free_memory", lambda device: 2**40)
    done = sample(cases, model, tmp_path / "a", "--num_samples=3", "--num_ensemble=3", "--steps=2", "--batch_size=auto")
    if fits:
        assert done.returncode == 0 and expected in done.stdout, done.stderr
    else:
        assert_refused(done, "out of memory", expected, "--amp bf16")


# -- interruptions ----------------------------------------------------------------------------------------------------


def test_a_killed_run_leaves_complete_cases_and_resumes(cases, model, tmp_path):
    flags = [
        f"--data_dir={cases}",
        f"--model_path={model}",
        f"--out_dir={tmp_path / 'out'}",
        "--num_ensemble=8",
        "--batch_size=4",
        "--steps=20",
    ]
    command = [sys.executable, str(ROOT / "scripts" / "segmentation_sample.py"), *flags]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = lambda: (
        [name for name in os.listdir(tmp_path / "out") if name.endswith("_sheet.png")]
        if (tmp_path / "out").exists()
        else []
    )
    wait_for(lambda: len(finished()) >= 2 or running.poll() is not None, seconds=120)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "the run ended before it could be killed"

    whole = list((tmp_path / "out").glob("*_samples.npz"))
    assert 1 <= len(whole) < 6
    for path in whole:
        assert store.read_case(str(path))[0].shape == (8, 16, 16)
    done = call_script("segmentation_sample", *flags)
    assert done.returncode == 0, done.stderr
    assert f"{6 - len(whole)} of 6 cases to draw" in done.stdout
    assert len(list((tmp_path / "out").glob("*_output*.png"))) == 6 * 8


def assert_disk_full(done, name):
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # below the progress bar
    assert name in last and ("File too large" in last or "No space left" in last), last


@pytest.mark.parametrize("later", [False, True])
def test_a_full_disk_is_reported(cases, model, tmp_path, monkeypatch, later):
    """A limit on the size of files stands for it; `later`: there was room when the folder was tried."""
    if later:
        monkeypatch.setattr(folders, "check_writable", lambda *args: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        done = sample(cases, model, tmp_path, "--steps=2", "--num_samples=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if later:
        assert_disk_full(done, "phantom0000_samples.npz")
    else:
        assert_refused(done, f"--out_dir {tmp_path}: cannot be written to")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["output1", "sheet"])
def test_samples_survive_whatever_happens_to_their_pictures(cases, model, tmp_path, monkeypatch, name):
    write = storage.write_bytes

    def full(path, content, sync=True):
        if name in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, content, sync)

    flags = ["--steps=2", "--num_samples=1"]
    for more in ([], ["--threshold=0.3"]):  # drawn, and finished in another way
        with monkeypatch.context() as broken:
            broken.setattr(storage, "write_bytes", full)
            assert_disk_full(sample(cases, model, tmp_path, *flags, *more), name)
        done = sample(cases, model, tmp_path, *flags, *more)
        assert done.returncode == 0 and "written again from their samples" in done.stdout, done.stderr
        samples, made_by = stored_samples(tmp_path)
        assert made_by["threshold"] == (0.3 if more else 0.5)
        geometry = store.geometry_of(made_by)
        for k, sample_ in enumerate(samples):
            np.testing.assert_array_equal(
                read_image(str(tmp_path / f"phantom0000_output{k}.png")) > 0,
                geometry.bring_back(sample_) > made_by["threshold"],
            )
        assert (tmp_path / "phantom0000_sheet.png").exists()


def test_an_interrupt_ends_with_a_line_and_whole_cases(cases, model, tmp_path, monkeypatch):
    draw = ensemble.draw_ensembles

    def interrupted(*args, **more):
        for number, drawn in enumerate(draw(*args, **more)):
            if number == 3:
                raise KeyboardInterrupt
            yield drawn

    monkeypatch.setattr("guided_diffusion.commands.sample.draw_ensembles", interrupted)
    done = sample(cases, model, tmp_path, "--steps=2")
    assert done.returncode == 130 and done.stderr.endswith(": interrupted; rerun the command to resume\n")
    monkeypatch.undo()
    assert "3 of 6 cases to draw" in sample(cases, model, tmp_path, "--steps=2").stdout


def test_a_smaller_ensemble_leaves_none_of_a_larger_one(cases, model, tmp_path):
    sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--num_ensemble=4", "--consensus=mean")
    (tmp_path / "phantom0000_output10.png").write_bytes(b"not of this ensemble: there is a gap before it")
    assert sample(cases, model, tmp_path, "--steps=2", "--num_samples=1", "--overwrite").returncode == 0
    assert sorted(path.name for path in tmp_path.glob("*_output*")) == [
        f"phantom0000_output{k}.png" for k in (0, 1, 10)
    ]
    assert not list(tmp_path.glob("*_consensus.png"))


def test_samples_of_another_program_are_not_overwritten(cases, model, tmp_path):
    np.savez(tmp_path / "phantom0003_samples.npz", samples=np.zeros((2, 16, 16)), names=np.array(["a", "b"]))
    assert_refused(
        sample(cases, model, tmp_path, "--steps=2"),
        "phantom0003_samples.npz",
        "not written by this program",
        "--overwrite",
    )


def test_an_error_while_writing_is_raised_and_the_others_are_written():
    written = []

    def write(case, samples):
        if case == 1:
            raise OSError("no space")
        written.append(case)

    with pytest.raises(OSError, match="no space"), CaseWriter(write) as writer:
        for case in range(3):
            writer(case, None)
    assert 0 in written
    with pytest.raises(KeyError), CaseWriter(write) as writer:  # the first error is reported
        writer(1, None)
        raise KeyError


# -- several processes ------------------------------------------------------------------------------------------------


def test_notes_are_printed_once(ranks, cases, tmp_path):
    model = write_checkpoint(tmp_path / "savedmodel.pt", **ONE_LEVEL)
    done = ranks.run_script(
        tmp_path,
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={model}",
        f"--out_dir={tmp_path / 'out'}",
        "--num_ensemble=1",
        "--steps=2",
        "--evaluate",
        "--num_samples=3",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cases are resized to 8x8") == 1
    assert done.stdout.count("cases to draw") == 1
    assert "3 of 3 cases" in done.stdout and json.loads((tmp_path / "out" / "metrics.json").read_text())["faults"] == []


# -- from Python ------------------------------------------------------------------------------------------------------


def test_python_api_gives_the_masks_of_the_script(cases, model, tmp_path):
    assert sample(cases, model, tmp_path, "--steps=4", "--sampler=ddim", "--eta=0.5", "--threshold=0.4").returncode == 0
    image = read_image(str(cases / "phantom0000" / "image_phantom0000.png"))
    drawn = predict.load(str(model), device="cpu").sample(
        image, num_ensemble=2, steps=4, sampler="ddim", eta=0.5, threshold=0.4, name="phantom0000", batch_size=1
    )
    samples = stored_samples(tmp_path)[0]
    np.testing.assert_allclose(drawn.samples, samples, atol=1e-5)
    assert drawn.masks.dtype == bool and (drawn.masks == (drawn.samples > 0.4)).all()
    np.testing.assert_allclose(drawn.mean, drawn.masks.mean(0), atol=1e-6)
    np.testing.assert_allclose(drawn.variance, drawn.mean * (1 - drawn.mean), atol=1e-6)
    p = np.clip(drawn.mean.astype(np.float64), 1e-12, 1 - 1e-12)
    np.testing.assert_allclose(drawn.entropy, -p * np.log2(p) - (1 - p) * np.log2(1 - p), atol=1e-6)
    assert (drawn.consensus() == (drawn.mean > 0.5)).all() and drawn.consensus("staple").dtype == bool


def test_python_api_takes_tensors_and_defaults_and_refuses_the_rest(model):
    predictor = predict.load(str(model), device="cpu")
    image = torch.rand(16, 16)
    one = predictor.sample(image, num_ensemble=3, steps=2)
    assert one.samples.shape == (3, 16, 16)
    np.testing.assert_array_equal(one.samples, predictor.sample(image[None].numpy(), num_ensemble=3, steps=2).samples)
    assert not np.allclose(one.samples, predictor.sample(image, num_ensemble=3, steps=2, seed=1).samples)
    assert predictor.sample(image, num_ensemble=1, fast=True).samples.shape == (1, 16, 16)
    for bad, flags, word in [
        (torch.rand(2, 16, 16), {}, r"\[H, W\]"),
        (255 * image, {}, "by 255"),
        (torch.full((16, 16), float("nan")), {}, "NaN"),
    ]:
        with pytest.raises(DataError, match=word):
            predictor.sample(bad, **flags)
    for flags, word in [
        ({"steps": 41}, "--steps 41"),
        ({"num_ensemble": 0}, "--num_ensemble 0"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"step": 3}, "step is not a flag .* --steps"),
        ({"sampler": "heun"}, "heun"),
        ({"fast": True, "steps": 3}, "contradict"),
        ({"batch_size": "auto"}, "auto"),
        ({"median_blur": 2}, "median_blur"),
    ]:
        with pytest.raises(ConfigError, match=word):
            predictor.sample(image, **flags)
    with pytest.raises(ConfigError, match="vote"):
        one.consensus("vote")
    for flags, word in [({"weights": "EMA"}, "--weights EMA"), ({"amp": "bfloat16"}, "--amp bfloat16")]:
        with pytest.raises(ConfigError, match=word):
            predict.load(str(model), device="cpu", **flags)


def test_python_api_takes_colours_first_or_last_and_repeats_a_plane_only_where_training_did(tmp_path):
    """[C, H, W] and [H, W, 3] of one image give the same masks; other orders of the axes are refused."""
    colours = torch.rand(3, 16, 16)
    trained_on_colour = write_checkpoint(tmp_path / "colour.pt", image_channels=3, encoder_channels=3)
    predictor = predict.load(str(trained_on_colour), device="cpu")
    first = predictor.sample(colours, num_ensemble=2, steps=2).samples
    last = predictor.sample(colours.movedim(0, -1).numpy(), num_ensemble=2, steps=2).samples
    np.testing.assert_array_equal(first, last)
    assert not np.allclose(first, predictor.sample(colours.flip(0), num_ensemble=2, steps=2).samples)
    for shape in [(16, 16), (1, 16, 16)]:
        with pytest.raises(DataError, match=r"not repeated; .* trained on 3 planes, \[3, H, W\] or \[H, W, 3\]$"):
            predictor.sample(torch.rand(shape))
    for shape in [(16, 3, 16), (16, 16, 4), (1, 3, 16, 16), (16,)]:
        with pytest.raises(DataError, match=r"has shape \[.*\]; .* takes 3 planes, \[3, H, W\] or \[H, W, 3\]"):
            predictor.sample(torch.rand(shape))

    repeats = predict.load(str(write_checkpoint(tmp_path / "grey.pt", image_channels=3)), device="cpu")
    drawn = [repeats.sample(x, num_ensemble=1, steps=2).samples for x in (colours[0], colours[:1].expand(3, -1, -1))]
    np.testing.assert_array_equal(*drawn)
    four = predict.load(str(write_checkpoint(tmp_path / "four.pt", image_channels=4)), device="cpu")
    with pytest.raises(DataError, match=r"takes one plane, \[H, W\], or 4 planes, \[4, H, W\]: .* grey=True$"):
        four.sample(torch.rand(16, 16, 3))


def test_training_stores_the_sampler(cases, tmp_path):
    done = call_script(
        "segmentation_train",
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        "--iterations=1",
        "--sampler=ddim",
        "--steps=3",
        *as_arguments(TINY),
    )
    assert done.returncode == 0, done.stderr
    stored = script_util.load_segmenter(str(tmp_path / "savedmodel.pt"), {}).sampler
    assert stored["sampler"] == "ddim" and stored["steps"] == 3
    done = call_script(
        "segmentation_train",
        f"--data_dir={cases}",
        f"--log_dir={tmp_path}",
        "--iterations=2",
        "--sampler=dpm++",
        *as_arguments(TINY),
    )
    assert done.returncode == 0, done.stderr  # it may change when a run continues
