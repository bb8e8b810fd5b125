"""The scripts, run as users run them: the paper's commands from start to end, and one-line errors."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, as_arguments, assert_refused, call_script, run_script
from PIL import Image

from guided_diffusion.dist_util import Processes
from guided_diffusion.flags import command_line
from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.masks.postprocess import PostprocessConfig, binarise, staple
from guided_diffusion.methods.cimd import SegmenterConfig
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.training.config import TrainConfig

# The paper's README, word for word but for the notebook's leading "!"
MODEL_FLAGS = (
    "--image_size 128 --num_channels 128 --class_cond False --num_res_blocks 2 --num_heads 1 --learn_sigma True "
    "--use_scale_shift_norm False --attention_resolutions 16"
)
DIFFUSION_FLAGS = (
    "--diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False --rescale_timesteps False"
)
TRAIN_FLAGS = "--lr 1e-4 --batch_size 20"
LAUNCHER = "-m torch.distributed.launch --nproc_per_node=2"
# Its network, cut down to what two cores train in seconds: the same flags, given again
SHORT = [
    "--image_size=32",
    "--num_channels=32",
    "--channel_mult=1,1",
    "--num_filters=4,8",
    "--batch_size=2",
    "--iterations=2",
]


def sample(cases, trained, out, *more):
    return call_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={trained}/savedmodel.pt",
        f"--out_dir={out}",
        "--num_ensemble=2",
        "--timestep_respacing=4",
        *more,
    )


def samples_of(out):
    return {path.name: np.load(path)["samples"] for path in sorted(out.glob("*_samples.npz"))}


# -- the paper's commands ---------------------------------------------------------------------------------------------


@pytest.mark.multi_process
def test_the_papers_commands(tmp_path, monkeypatch):
    flags = [*MODEL_FLAGS.split(), *DIFFUSION_FLAGS.split()]
    data = ["--data_dir", str(ROOT / "data" / "training")]
    done = run_script(
        "segmentation_train",
        *data,
        *TRAIN_FLAGS.split(),
        *flags,
        *SHORT,
        cwd=tmp_path,
        launcher=LAUNCHER.split(),
        env={"CUDA_VISIBLE_DEVICES": "0,4"},
    )
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout or "2 x cuda" in done.stdout
    assert (tmp_path / "results" / "savedmodel.pt").exists()

    data = ["--data_dir", str(ROOT / "data" / "testing")]
    monkeypatch.chdir(tmp_path)
    done = call_script(
        "segmentation_sample",
        *data,
        "--model_path",
        "./results/savedmodel.pt",
        "--num_ensemble=4",
        *flags,
        *SHORT[:4],
        "--timestep_respacing=2",
        "--num_samples=2",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "samples").glob("*_output?.png"))) == 8


@pytest.mark.nightly
def test_the_papers_training_command_at_full_size(tmp_path):
    """One step of the 85.6 million parameters, with a smaller batch only; then one mask of two steps."""
    flags = [*MODEL_FLAGS.split(), *DIFFUSION_FLAGS.split()]
    data = ROOT / "data"
    done = run_script(
        "segmentation_train",
        "--data_dir",
        data / "training",
        *TRAIN_FLAGS.split(),
        *flags,
        "--batch_size=1",
        "--iterations=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "85,603,842 parameters" in done.stdout
    done = run_script(
        "segmentation_sample",
        "--data_dir",
        data / "testing",
        "--model_path",
        "./results/savedmodel.pt",
        "--num_ensemble=1",
        *flags,
        "--timestep_respacing=2",
        "--num_samples=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_readme_quotes_the_papers_commands():
    text = (ROOT / "README.md").read_text()
    for flags in (MODEL_FLAGS, DIFFUSION_FLAGS, TRAIN_FLAGS):
        assert flags in text
    assert (
        "CUDA_VISIBLE_DEVICES=0,4 python -m torch.distributed.launch --nproc_per_node=2 scripts/segmentation_train.py "
        "--data_dir ./data/training $TRAIN_FLAGS $MODEL_FLAGS $DIFFUSION_FLAGS"
    ) in text
    assert (
        "python scripts/segmentation_sample.py  --data_dir ./data/testing  --model_path ./results/savedmodel.pt "
        "--num_ensemble=4 $MODEL_FLAGS $DIFFUSION_FLAGS"
    ) in text


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_log_begins_with_command_time_versions_and_flags_at_each_start(cases, trained, tmp_path):
    log = tmp_path / "run"
    shutil.copytree(trained, log)
    flags = ["--batch_size=2", "--log_interval=2", "--iterations=4", *as_arguments(TINY)]
    done = call_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={log}", *flags)
    assert done.returncode == 0 and "nothing to do: 4 of 4 steps are done" in done.stdout, done.stderr
    lines = (log / "log.txt").read_text().splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith("started: ")]
    assert len(starts) == 2 and starts[0] == 0
    for k in starts:
        titles = [line.split(": ")[0] for line in lines[k : k + 4]]
        assert titles == ["started", "command", "versions", "flags"]
        assert f"--data_dir {cases} " in lines[k + 3] and "--batch_size 2" in lines[k + 3]
    assert "started: " not in done.stdout and "%|" not in done.stderr


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling_writes_masks_samples_and_a_sheet_for_every_case(cases, trained, tmp_path):
    done = sample(cases, trained, tmp_path, "--median_blur=3", "--threshold=0.4")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 6 * (2 + 2) and not any(name.startswith(".") for name in names)
    for path in cases.glob("phantom*"):
        case = path.name
        with np.load(tmp_path / f"{case}_samples.npz") as file:
            assert file["samples"].shape == (2, 16, 16) and file["samples"].dtype == np.float32
            stored = {key: file[key].item() for key in file.files if file[key].ndim == 0}
        assert stored["seed"] == 0 and stored["sampler"] == "ddpm" and stored["steps"] == 4
        assert len(stored["checkpoint"]) == 16
        for k in range(2):
            mask = Image.open(tmp_path / f"{case}_output{k}.png")
            assert mask.size == (16, 16) and set(np.unique(np.asarray(mask))) <= {0, 255}
        assert {f"{case}_sheet.png", f"{case}_output0.png", f"{case}_output1.png"} <= names


def test_a_mask_depends_on_seed_case_and_number_alone(cases, trained, tmp_path):
    sample(cases, trained, tmp_path / "a", "--batch_size=5", "--num_ensemble=3")
    sample(cases, trained, tmp_path / "b", "--batch_size=2", "--num_samples=2")
    sample(cases, trained, tmp_path / "c", "--seed=1", "--num_samples=2")
    a, b, c = (samples_of(tmp_path / name) for name in "abc")
    assert len(a) == 6 and len(b) == 2
    for name in b:
        np.testing.assert_allclose(a[name][:2], b[name], atol=1e-5)
        assert not np.allclose(b[name], c[name])


def test_sampling_again_continues_and_never_mixes(cases, trained, tmp_path):
    sample(cases, trained, tmp_path)
    done = sample(cases, trained, tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == f"nothing to do: all 6 cases are drawn, in {tmp_path}"
    (tmp_path / "phantom0002_samples.npz").unlink()
    done = sample(cases, trained, tmp_path)
    assert done.returncode == 0 and "1 of 6 cases to draw" in done.stdout
    assert "%|" not in done.stderr  # no progress bar, as stderr is not a terminal
    assert_refused(sample(cases, trained, tmp_path, "--seed=5"), "--seed 0, not 5:", "--overwrite")
    assert_refused(
        sample(cases, trained, tmp_path, "--timestep_respacing=ddim4"),
        "--timestep_respacing 4, not ddim4:",
        "--overwrite",
    )
    others = tmp_path / "others"
    phantom.write_set(others, num_cases=6, seed=6, size=16, num_raters=3)
    assert_refused(sample(others, trained, tmp_path), "image", "--overwrite")  # other images of the same names
    assert_refused(
        call_script("segmentation_evaluate", f"--data_dir={others}", f"--samples={tmp_path}"),
        "a different image",
        "check --data_dir",
    )
    ranged = call_script(
        "segmentation_evaluate", f"--data_dir={others}", f"--samples={tmp_path}", "--intensity_range=0,0.5"
    )
    assert_refused(ranged, "a different image", "check --data_dir or --intensity_range")
    (tmp_path / "cases.pack").touch()
    assert_refused(
        sample(tmp_path / "cases.pack", trained, tmp_path, "--evaluate"), "--evaluate", "segmentation_evaluate.py"
    )
    done = sample(cases, trained, tmp_path, "--num_ensemble=1", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*_output*.png"))) == 6  # none is left of the larger ensemble


def test_samples_are_postprocessed_again_without_sampling(cases, trained, tmp_path):
    sample(cases, trained, tmp_path, "--num_samples=2")
    before = samples_of(tmp_path)
    done = sample(cases, trained, tmp_path, "--num_samples=2", "--threshold=0.2", "--fill_holes", "--consensus=staple")
    assert done.returncode == 0 and "masks of 2 cases written again from their samples" in done.stdout, done.stderr
    assert "to draw" not in done.stdout and "nothing to do" not in done.stdout
    for name, samples in samples_of(tmp_path).items():
        np.testing.assert_array_equal(samples, before[name])
        case = name.removesuffix("_samples.npz")
        masks = binarise(samples, PostprocessConfig(threshold=0.2, fill_holes=True))
        for k, mask in enumerate(masks):
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{case}_output{k}.png")) > 0, mask)
        consensus = np.asarray(Image.open(tmp_path / f"{case}_consensus.png")) > 0
        np.testing.assert_array_equal(consensus, staple(masks).probability > 0.5)

    (tmp_path / "phantom0001_samples.npz").write_bytes(b"cut off")
    done = sample(cases, trained, tmp_path, "--num_samples=2", "--consensus=mean")
    assert done.returncode == 0 and "1 of 2 cases to draw" in done.stdout, done.stderr  # a damaged file is drawn again
    again = samples_of(tmp_path)["phantom0001_samples.npz"]
    np.testing.assert_allclose(again, before["phantom0001_samples.npz"], atol=1e-5)
    masks = binarise(again)
    mean = np.asarray(Image.open(tmp_path / "phantom0001_consensus.png"))
    np.testing.assert_array_equal(mean, np.round(masks.mean(0).astype(np.float32) * 255))


def test_sampling_scores_in_the_same_run_and_two_processes_share_the_cases(ranks, cases, trained, tmp_path):
    done = sample(cases, trained, tmp_path / "one", "--evaluate")
    assert done.returncode == 0 and "6 of 6 cases" in done.stdout, done.stderr
    done = call_script(
        "segmentation_evaluate",
        f"--data_dir={cases}",
        f"--samples={tmp_path / 'one'}",
        f"--out_dir={tmp_path / 'apart'}",
    )
    assert done.returncode == 0, done.stderr
    together, apart = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "apart"))
    assert together == apart

    done = ranks.run_script(
        tmp_path,
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={trained}/savedmodel.pt",
        "--num_ensemble=2",
        f"--out_dir={tmp_path / 'two'}",
        "--timestep_respacing=4",
        "--evaluate",
    )
    assert done.returncode == 0 and done.stdout.count("6 of 6 cases") == 1, done.stderr
    one, two = samples_of(tmp_path / "one"), samples_of(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 6
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)
    figures = json.loads((tmp_path / "two" / "metrics.json").read_text())["figures"]
    assert figures["ged_2"]["mean"] == pytest.approx(together["figures"]["ged_2"]["mean"], abs=1e-3)


def test_raw_and_averaged_weights_and_ddim_and_unclipped(cases, trained, tmp_path):
    results = []
    for name, more in {
        "ema": [],
        "raw": ["--weights=raw"],
        "ddim": ["--use_ddim", "True"],
        "noisy": ["--use_ddim", "--eta=1"],
        "unclipped": ["--clip_denoised=False"],
    }.items():
        done = sample(cases, trained, tmp_path / name, "--num_samples=1", *more)
        assert done.returncode == 0, done.stderr
        results.append(samples_of(tmp_path / name)["phantom0000_samples.npz"])
    for i, a in enumerate(results):
        assert all(not np.allclose(a, b) for b in results[i + 1 :])


def test_images_without_labels_can_be_segmented(cases, trained, tmp_path):
    folder = tmp_path / "data" / "x"
    folder.mkdir(parents=True)
    (folder / "image_x.png").write_bytes((cases / "phantom0000" / "image_phantom0000.png").read_bytes())
    done = sample(tmp_path / "data", trained, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "x_sheet.png").exists()


def test_evaluation_reads_images_as_the_samples_were_made(tmp_path):
    """The intensity range is stored in the checkpoint and in the samples, and need not be given again."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        np.save(tmp_path / "data" / name / "image.npy", rng.normal(size=(16, 16)))
        np.save(tmp_path / "data" / name / "label0_.npy", rng.random((16, 16)) > 0.5)
    data = f"--data_dir={tmp_path / 'data'}"
    done = call_script(
        "segmentation_train",
        data,
        f"--log_dir={tmp_path}",
        "--iterations=1",
        "--intensity_range",
        "-1,1",
        *as_arguments(TINY),
    )
    assert done.returncode == 0, done.stderr
    done = sample(tmp_path / "data", tmp_path, tmp_path / "out", "--merge_labels")
    assert done.returncode == 0, done.stderr
    done = call_script("segmentation_evaluate", data, f"--samples={tmp_path / 'out'}")
    assert done.returncode == 0 and "2 of 2 cases" in done.stdout, done.stderr


def test_evaluation_of_samples(cases, trained, tmp_path):
    sample(cases, trained, tmp_path)
    done = call_script("segmentation_evaluate", f"--data_dir={cases}", f"--samples={tmp_path}")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["cases"] == 6 and "ged_2" in summary["figures"] and "6 of 6 cases" in done.stdout
    assert (tmp_path / "report.html").exists()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    "argv, preset",
    [
        (["--prediction=v"], {"mask_low": -1.0}),
        (["--predict_xstart=False"], {"mask_low": -1.0, "predict_xstart": True}),
        (["--lr=1"], {"mask_low": -1.0, "predict_xstart": True}),
    ],
)
def test_a_flag_replaces_an_equivalent_flag_of_the_preset(argv, preset):
    classes = (DiffusionConfig, SegmenterConfig, TrainConfig)
    rest = command_line.parse_command_line(classes, "", ["--preset=demo", "--data_dir=cases", *argv], PRESETS).preset
    assert {name: rest[name] for name in ("mask_low", "predict_xstart") if name in rest} == preset


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--batchsize=3"], ["--batchsize is not a flag", "--batch_size?"]),
        (["--class_cond=True"], ["--class_cond", "no class labels"]),
        (["--use_kl=True", "--rescale_learned_sigmas=True"], ["--use_kl", "--rescale_learned_sigmas"]),
        (["--use_kl=True", "--stable_target=True"], ["--use_kl", "--stable_target"]),
        (["--stable_target=True"], ["--stable_target", "--raters_per_image"]),
        (["--learn_sigma=False", "--rescale_learned_sigmas=True"], ["--rescale_learned_sigmas", "--learn_sigma"]),
        (["--diffusion_steps=20", "--noise_schedule=linear"], ["--diffusion_steps", "alpha_bar reaches 0"]),
        (["--noise_schedule=sine"], ["--noise_schedule sine", "linear, cosine"]),
        (["--image_size=18", "--channel_mult=1,1,1"], ["--image_size 18", "halved"]),
        (["--batch_size=0"], ["--batch_size 0"]),
        (["--microbatch=0"], ["--microbatch 0"]),
        (["--lr=fast"], ["--lr fast", "a number"]),
        (["--lr_anneal_steps=5", "--iterations=9"], ["--iterations 9", "--lr_anneal_steps"]),
        (["--schedule_sampler=loss"], ["--schedule_sampler loss"]),
        (["--ema_rate=2"], ["--ema_rate"]),
        (["--ema_halflife=100"], ["--ema_halflife 100", "no longer supported", "--ema_rate"]),
        (["--patch_size=4"], ["--patch_size", "--architecture unet"]),
        (["--guess_weight=1"], ["--guess_weight", "--architecture unet"]),
        (["--data_dir=/nowhere"], ["/nowhere", "no such folder"]),
        (["--seed=99999999999999999999999"], ["--seed", "below 9223372036854775808"]),
        (["--resume_checkpoint=/nowhere/savedmodel.pt"], ["/nowhere/savedmodel.pt", "no such checkpoint"]),
        (
            ["--image_channels=3", "--data_dir={modalities}"],
            ["2 modalities", "--image_channels 3", "add --image_channels 2"],
        ),
        (["--preset=huge"], ["huge"]),
        (["folder"], ["folder: unexpected argument"]),
        (["--intensity_range", "5,-1000"], ["--intensity_range 5,-1000", "LO < HI"]),
        (["--intensity_range", "-1000,400", "--lr", "-1"], ["--lr -1:"]),
        (["--log_dir=gs://bucket/run", "--tensorboard"], ["--log_dir gs://bucket/run", "--tensorboard"]),
        (["--log_dir=s3://bucket/run"], ["--log_dir s3://bucket/run", "use a local folder, gs:// or az://"]),
        (["--resume_checkpoint=s3://bucket/m.pt"], ["s3://bucket/m.pt", "use a local folder, gs:// or az://"]),
        (["--data_dir=gs://bucket/cases"], ["gs://bucket/cases", "no such folder"]),
        (["--batch_size=7"], ["6 cases", "a step needs 7 (--batch_size)", "--batch_size 6"]),
        (["--use_fp16", "--amp=bf16"], ["--use_fp16", "--amp bf16", "contradict"]),
        (["--shard", "--data_dir={modalities}"], ["--shard", "several processes"]),  # before a case is read
        (["--keep=0"], ["--keep 0", "or all"]),
        (["--augment=flip+spin"], ["--augment flip+spin", "mirror, flip, rotate"]),
        (["--max_bad_steps=0"], ["--max_bad_steps 0"]),
        (["--kl_weight=nan"], ["--kl_weight nan"]),
        (["--steps=50"], ["--steps 50", "--diffusion_steps", "--iterations"]),
        (["--eta=0.5"], ["--eta 0.5", "--sampler"]),
        *(
            ([f"--{name}=5"], [f"--{name} 5", "--eval_data_dir"])
            for name in ("eval_interval", "eval_cases", "eval_ensemble", "eval_steps")
        ),
        (["--eval_data_dir={modalities}", "--eval_steps=0"], ["--eval_steps 0"]),
        (["--eval_data_dir=/nowhere"], ["/nowhere", "no such folder"]),
    ],
)
def test_bad_training_flags(cases, tmp_path, flags, words):
    case = tmp_path / "modalities" / "a"
    case.mkdir(parents=True)
    for name in ("image_t1.png", "image_t2.png", "label0_.png"):
        (case / name).write_bytes((cases / "phantom0000" / "label0_.png").read_bytes())
    flags = [flag.replace("{modalities}", str(tmp_path / "modalities")) for flag in flags]
    done = call_script(
        "segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path / 'log'}", *as_arguments(TINY), *flags
    )
    assert_refused(done, *words)
    assert not (tmp_path / "log").exists()  # nothing half-written


def test_missing_hardware_is_reported_before_the_processes_connect(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "start", lambda self: pytest.fail("they met"))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for flag, words in (
        ("--tensorboard", 'pip install "ambiguous-segmentation-diffusion[tensorboard]"'),
        ("--compile", "C++ compiler"),
    ):
        done = call_script(
            "segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path / 'log'}", *as_arguments(TINY), flag
        )
        assert_refused(done, flag, words)


def test_bad_cases(cases, trained, tmp_path):
    """Each error in a folder of cases ends both scripts with one line that names the file; nothing is written."""
    whole = cases / "phantom0000"
    label, image = (whole / name for name in ("label0_.png", "image_phantom0000.png"))
    classes, small = np.zeros((16, 16), np.uint8), np.zeros((9, 9), np.uint8)
    classes[0, :3] = 1, 2, 3
    for fault, (files, words) in {
        "noimage": ({"label0_.png": label}, ["no image"]),
        "nolabel": ({"image.png": image}, ["no label"]),
        "size": ({"image.png": image, "label0_.png": small}, ["label0_.png", "9x9", "16x16"]),
        "classes": ({"image.png": image, "label0_.png": classes}, ["label0_.png", "4 levels", "--merge_labels"]),
        "empty": ({"notes.txt": label}, ["no case"]),
    }.items():
        folder = tmp_path / fault / "case"
        folder.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, np.ndarray):
                Image.fromarray(content).save(folder / name)
            else:
                (folder / name).write_bytes(content.read_bytes())
        out = tmp_path / "out"
        done = call_script(
            "segmentation_train", f"--data_dir={tmp_path / fault}", f"--log_dir={out}", *as_arguments(TINY)
        )
        assert_refused(done, str(tmp_path / fault), *words)
        if fault != "nolabel":  # not an error for a case to segment
            assert_refused(sample(tmp_path / fault, trained, out), str(tmp_path / fault), *words)
        assert not out.exists()
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(1)}, foreign)
    assert_refused(sample(cases, trained, out, f"--model_path={foreign}"), str(foreign), "weights of another network")
    assert not out.exists()


def test_bad_sampling_flags(cases, trained, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((trained / "savedmodel.pt").read_bytes()[:5000])
    for flags, words in [
        (["--num_channels=64"], ["--num_channels 32, not 64"]),
        (["--noise_schedule=linear"], ["--noise_schedule cosine, not linear"]),
        (["--num_ensemble=0"], ["--num_ensemble 0"]),
        (["--timestep_respacing=41"], ["--timestep_respacing", "41 steps of a section of 40 timesteps"]),
        (["--eta=0.5"], ["--eta 0.5", "--sampler ddim"]),
        (["--eta=2", "--use_ddim"], ["--eta 2", "from 0 to 1"]),
        (["--sampler=heun"], ["--sampler heun", "ddpm, ddim, dpm++"]),
        (["--timestep_respacing=", "--steps=41"], ["--steps 41", "at most --diffusion_steps 40"]),
        (["--timestep_respacing=", "--steps=0"], ["--steps 0"]),
        (["--steps=3"], ["--steps", "--timestep_respacing", "contradict"]),
        (["--spacing=quadratic"], ["--spacing quadratic", "--steps"]),
        (["--use_ddim=True", "--sampler=dpm++"], ["--use_ddim", "--sampler dpm++", "contradict"]),
        (["--fast"], ["--fast", "--timestep_respacing", "contradict"]),
        (["--timestep_respacing=", "--fast", "--steps=5"], ["--fast", "--steps", "contradict"]),
        (["--amp=fp8"], ["--amp fp8", "none, tf32, bf16"]),
        (["--batch_size=many"], ["--batch_size many", "an integer"]),
        (["--median_blur=2"], ["--median_blur 2", "odd"]),
        (["--threshold=1.5"], ["--threshold 1.5"]),
        ([f"--model_path={damaged}"], [str(damaged), "truncated"]),
        (["--model_path=/nowhere.pt"], ["/nowhere.pt", "no such checkpoint"]),
        (["--data_dir=/nowhere"], ["/nowhere"]),
    ]:
        done = sample(cases, trained, tmp_path / "out", *flags)
        assert_refused(done, *words)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "script, flags",
    [
        ("segmentation_sample", ["--data_dir={0}", "--model_path={0}", "--out_dir=gs://a/b"]),
        ("segmentation_evaluate", ["--data_dir={0}", "--samples={0}", "--out_dir=gs://a/b"]),
        ("make_phantom", ["--out=gs://a/b"]),
        ("pack_data", ["--data_dir={0}", "--out=gs://a/b"]),
        ("prepare_lidc", ["--dicom={0}", "--out=gs://a/b"]),
        ("convert_data", ["folders", "--src={0}", "--out=gs://a/b"]),
        ("check_data", ["{0}", "--sheet=gs://a/b"]),
        ("segmentation_train", ["--data_dir={0}", "--visdom_log=gs://a/b"]),
    ],
)
def test_results_are_not_written_to_a_blob_store(cases, tmp_path, monkeypatch, script, flags):
    monkeypatch.chdir(tmp_path)
    words = [flag.format(cases) for flag in flags] + (
        [f"--log_dir={tmp_path}/run", *as_arguments(TINY)] if script == "segmentation_train" else []
    )
    assert_refused(call_script(script, *words), "gs://a/b", "local folder")
    assert not (tmp_path / "gs:").exists()


def test_flags_without_effect_are_accepted_with_a_warning_line(cases, trained, tmp_path):
    done = sample(cases, trained, tmp_path, "--ngpu=2", "--local_rank=0", "--local-rank=0", "--num_samples=1")
    assert done.returncode == 0 and "--ngpu 2 has no effect" in done.stderr and "local" not in done.stderr
    assert_refused(call_script("segmentation_train"), "--data_dir is missing")
    assert_refused(
        call_script("segmentation_evaluate", f"--data_dir={cases}", f"--samples={cases}"), str(cases), "no samples"
    )


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("pack_data", ["--data_dir={0}", "--out=packed", "--image_size=0"], ["--image_size 0"]),
        ("pack_data", ["--data_dir={0}", "--out=packed", "--preset=demo"], ["--preset is not a flag"]),
        ("segmentation_evaluate", ["--data_dir=packed", "--samples={0}"], ["packed: a file, not a folder of cases"]),
        ("make_phantom", ["--out=made", "--modes=tight,loose", "--probabilities=0.5,nan"], ["--probabilities 0.5,nan"]),
    ],
)
def test_what_commands_about_data_refuse(cases, tmp_path, monkeypatch, script, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed").write_text("")
    assert_refused(call_script(script, *[flag.format(cases) for flag in flags]), *words)


def test_help_lists_the_choices_of_a_flag():
    text = " ".join(call_script("segmentation_sample", "--help").stdout.split())
    assert "one of none, tf32, bf16 [none]" in text and "one of ema, raw [ema]" in text


def test_a_refusal_in_a_process_of_its_own(tmp_path):
    done = run_script("segmentation_train", "--data_dir=/nowhere", "--preset=demo", cwd=tmp_path)
    assert_refused(done, "segmentation_train.py: /nowhere: no such folder")
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_flag_with_its_default():
    done = call_script("segmentation_train", "--help")
    assert done.returncode == 0
    for text in ("--attention_resolutions", "[16,8]", "--kl_weight", "[0.001]", "--iterations", "[60000]"):
        assert text in done.stdout
