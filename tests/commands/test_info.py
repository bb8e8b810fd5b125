"""What info.py says of files: the command that it prints, typed again, makes the same; damaged files are one line."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, as_arguments, assert_refused, call_main, call_script

from guided_diffusion import __version__
from guided_diffusion.checkpoints.files import fingerprint
from guided_diffusion.commands import sample as sample_command
from guided_diffusion.commands import train as train_command
from guided_diffusion.commands.info import main
from guided_diffusion.commands.origin.stored import RULES
from guided_diffusion.data.case_reader import READING_RULES
from guided_diffusion.data.stores.packed import PackedCases
from guided_diffusion.flags.command_line import parse_command_line
from guided_diffusion.flags.fields import flag_fields
from guided_diffusion.methods.registry import METHODS, PRESETS
from guided_diffusion.sampling import store
from guided_diffusion.script_util import open_channels, settle_channels
from guided_diffusion.visualize.connection import VisdomConfig

FORMER = ROOT / "tests" / "fixtures" / "version_0_1"
PLACES = ("data_dir", "eval_data_dir", "resume_checkpoint", "log_dir", "cache_dir", *flag_fields(VisdomConfig))


def info(path):
    """{title: text} of what is printed; the lines of a title without one are joined."""
    done = call_main(main, path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows, title = {}, ""
    width = next(k for k in range(4, 80) if all(line[k : k + 2] == "  " for line in done.stdout.splitlines()))
    for line in done.stdout.splitlines():
        title = line[:width].strip() or title
        rows[title] = f"{rows[title]}\n{line[width + 2 :]}" if title in rows else line[width + 2 :]
    return rows


def words_of(rows, program, **places):
    """The arguments of the command among the rows, with paths in place of the words in capitals."""
    first, *words = shlex.split(rows["command"])
    assert first == program
    return [str(places.get(word, word)) for word in words]


# -- checkpoints ------------------------------------------------------------------------------------------------------


def parse_training(words):
    return parse_command_line(train_command.CONFIGS, None, words, PRESETS)


def write_checkpoint(path, flags, **parts):
    weights = {"model.out.2.weight": torch.zeros(1)}
    content = {"format": "ambiguous-segmentation-diffusion", "version": 1, "step": 7, "ema": {}, "weights": weights}
    torch.save({**content, "flags": flags, "reading": READING_RULES, **parts}, path)
    return path


GIVEN = {
    **{preset: ["--preset", preset] for preset in PRESETS},
    "defaults": [],
    "own": as_arguments({**TINY, "lr": 0.1 + 0.2, "ema_rate": "0.9,0.99", "attention_resolutions": "", "keep": "all"}),
    "quoted": ["--structure", "left lung's $(id)", "--intensity_range", "-1000,400", "--augment", "flip+rotate"],
    "validated": ["--eval_data_dir", "/home/someone/cases", "--eval_steps", "7", "--tensorboard"],
    "resumed": ["--resume_checkpoint", "/home/someone/a.pt", "--mask_low", "-0.5"],
    "shown": ["--visdom", "--visdom_server", "http://host", "--log_dir", "/home/someone/run", "--cache_dir", "/x"],
    "sampler": ["--sampler", "dpm++", "--steps", "5", "--spacing", "logsnr", "--eta", "0.25", "--tta", "mirror+flip"],
    "respaced": ["--timestep_respacing", "ddim50", "--prediction", "v", "--num_head_channels", "32"],
    "baseline": ["--method", "mc-dropout", "--dropout", "0.2", "--skip_unlabelled"],
}


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_the_command_of_a_checkpoint_has_its_flags_and_no_paths(given, planes, tmp_path):
    configs = parse_training([*given, "--data_dir", "/home/someone/cases of mine"])
    configs = settle_channels(configs, planes) if "image_channels" in open_channels(configs) else configs
    flags = train_command.flags_to_store(configs)
    rows = info(write_checkpoint(tmp_path / "m.pt", flags))
    assert "home" not in rows["command"] and "\n" not in rows["command"] and "other flags" not in rows
    again = parse_training(words_of(rows, "cimd-train", DATA_DIR="/home/someone/cases of mine"))
    train_command.check_flags(again)
    expected = {name: value for name, value in flags.items() if name not in PLACES}
    if "encoders" not in METHODS[expected["method"]].parts:
        del expected["encoder_channels"]  # without effect
    assert {name: again.flags().get(name) for name in expected} == expected
    assert bool(again.values["eval_data_dir"]) == bool(configs.values["eval_data_dir"])
    assert bool(again.values["resume_checkpoint"]) == bool(configs.values["resume_checkpoint"])


def test_a_checkpoint_says_what_made_it_and_its_command_makes_it_again(trained, cases, tmp_path):
    path = trained / "savedmodel.pt"
    rows, stored = info(path), torch.load(path, weights_only=True)
    assert rows["kind"] == "checkpoint, format version 1"
    assert rows["written by"] == f"version {__version__}, torch {torch.__version__}"
    assert rows["progress"] == "step 4, 8 masks drawn from the cases"
    assert rows["cases"] == f"hash {stored['data']}" and rows["hash"].startswith(f"{fingerprint(str(path))},")
    assert rows["model"].startswith("cimd, ") and rows["model"].endswith("--image_size 16 --image_channels 1")
    assert rows["sampler"] == "ddpm, 40 network calls per mask" and rows["best score"] == "no validation"
    assert rows["averages"].endswith("0.9999")
    assert rows["reading rules"].startswith(f"version {READING_RULES} (the present ones): ")
    assert rows["paths"].startswith(f"--data_dir {stored['flags']['data_dir']} --log_dir ")
    words = words_of(rows, "cimd-train", DATA_DIR=cases)
    done = call_script("segmentation_train", *words, f"--log_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    again = torch.load(tmp_path / "savedmodel.pt", weights_only=True)
    assert again["data"] == stored["data"] and again["weights"].keys() == stored["weights"].keys()
    assert all(torch.equal(tensor, stored["weights"][name]) for name, tensor in again["weights"].items())


def test_a_validated_checkpoint_has_its_best_score(tmp_path):
    best = {"settings": {"ensemble": 4}, "step": 5, "score": 0.25}
    rows = info(write_checkpoint(tmp_path / "m.pt", {"method": "ssn"}, best=best, samples=70, processes=2, reading=1))
    assert rows["best score"] == "GED_4 0.25 in the validation of step 5"
    assert rows["progress"] == "step 7, 70 masks drawn from the cases, 2 processes"
    assert rows["sampler"] == "none, one network call per mask" and rows["written by"] == "not stored"
    assert rows["reading rules"].startswith(f"version 1 (this program has version {READING_RULES}): ")


def test_flags_of_other_versions_are_named_beside_the_command(tmp_path):
    flags = {"method": "ssn", "mc_samples": 5, "weight_norm": 2e-6, "lr": 0.5, "novel": [1, 2], "batch_size": "many"}
    rows = info(write_checkpoint(tmp_path / "m.pt", flags, reading=READING_RULES + 1))
    assert rows["command"] == "cimd-train --data_dir DATA_DIR --method ssn --lr 0.5"
    assert rows["other flags"] == "--mc_samples 5 --novel 1,2 --batch_size many (not of this version)"
    assert "later version" in rows["reading rules"]
    assert info(write_checkpoint(tmp_path / "m.pt", {"method": "novel"}))["model"].startswith("novel, ")
    rows = info(write_checkpoint(tmp_path / "m.pt", {"lr": 10**400, "timestep_respacing": "all", "eta": [0.5]}))
    assert "--lr 1000" in rows["other flags"] and "--eta 0.5" in rows["other flags"]
    assert rows["sampler"].startswith("not usable: --timestep_respacing all")


@pytest.mark.parametrize(
    "classes, words",
    [
        (["disc", "cup"], "disc, cup, of which a pixel has at most one"),
        ("disc=1+2,cup=2", "disc, cup, regions, which may overlap"),
        (["disc=file", "cup=file"], "disc, cup, regions, which may overlap"),
        (["cup"], None),
        ([], None),
        ([3], None),
    ],
)
def test_checkpoints_and_samples_name_several_classes(classes, words, tmp_path):
    assert info(write_checkpoint(tmp_path / "m.pt", {"classes": classes})).get("classes") == words
    flags = json.dumps({"method": "mc-dropout", "image_size": 8, "classes": classes})
    np.savez(tmp_path / "x_samples.npz", samples=np.zeros((3, 8, 8)), flags=flags, sampler="none", seed=2)
    assert info(tmp_path / "x_samples.npz").get("classes") == words


def test_a_command_that_this_version_refuses_is_said_to_be(tmp_path):
    flags = parse_training(["--preset=tuned", "--data_dir=x", "--raters_per_image=1"]).flags()  # only from a preset
    rows = info(write_checkpoint(tmp_path / "m.pt", {**flags, "image_channels": 1}))
    assert "\nthis version refuses the command: --stable_target True needs" in rows["command"]


def test_control_characters_are_not_printed(tmp_path):
    flags = {"structure": "a\x1b[31m\nb", "novel": "\x1b[2J", "log_dir": "x\ny"}
    done = call_main(main, write_checkpoint(tmp_path / "m.pt", flags, written_by={"version": "\x1b[1m9"}))
    assert done.returncode == 0 and "\x1b" not in done.stdout and "version \\x1b[1m9" in done.stdout
    assert len(done.stdout.splitlines()) == len(info(write_checkpoint(tmp_path / "m.pt", {"novel": 1})))


def test_bare_weights_are_described_by_what_they_are(tmp_path):
    weights = {"time_embed.0.weight": torch.zeros(8, 4), "input_blocks.0.0.weight": torch.zeros(4, 5, 3, 3)}
    torch.save(weights, tmp_path / "savedmodel000300.pt")
    torch.save(weights, tmp_path / "emasavedmodel_0.9999_000300.pt")
    rows = info(tmp_path / "savedmodel000300.pt")
    assert rows["kind"].startswith("bare weights") and rows["written by"] == "not stored"
    assert rows["model"] == "U-Net, 0.000212 million weights, 5 planes of image and mask, 4 channels"
    assert rows["progress"].startswith("step 300,") and rows["averages"].endswith("0.9999")
    assert rows["hash"].startswith(fingerprint(str(tmp_path / "savedmodel000300.pt")))


# -- samples ----------------------------------------------------------------------------------------------------------


def draw(*words):
    done = call_script("segmentation_sample", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


DRAWN = {
    "defaults": [],
    "fast": ["--fast"],
    "steps": ["--steps=3", "--seed=5", "--num_ensemble=3", "--weights=raw"],
    "sampler": [
        "--sampler=dpm++",
        "--steps=4",
        "--spacing=logsnr",
        "--eta=0.5",
        "--tta=mirror",
        "--clip_denoised=False",
    ],
    "published flags": ["--use_ddim", "--timestep_respacing=ddim10"],
    "respaced": ["--timestep_respacing=3,4"],
    "post-processing": ["--steps=2", "--threshold=0.4", "--largest_component", "--consensus=majority"],
    "data": ["--steps=2", "--merge_labels", "--amp=bf16"],
}


@pytest.mark.parametrize("given", DRAWN.values(), ids=DRAWN)
def test_the_command_of_samples_draws_them_again(given, trained, cases, tmp_path, processor):
    processor()
    flags = [f"--data_dir={cases}", f"--model_path={trained / 'savedmodel.pt'}", f"--out_dir={tmp_path}"]
    draw(*flags, "--num_samples=1", *given)
    path = tmp_path / "phantom0000_samples.npz"
    rows, (samples, made_by) = info(path), store.read_case(str(path))
    words = words_of(rows, "cimd-sample", DATA_DIR=cases, CHECKPOINT=trained / "savedmodel.pt")
    assert "other flags" not in rows and "also stored" not in rows
    assert "nothing to do" in draw(*words, f"--out_dir={tmp_path}", "--num_samples=1")  # as the settings are the same
    assert rows["checkpoint"] == info(trained / "savedmodel.pt")["hash"].split(",")[0].join(["hash ", ""])
    assert rows["image"] == f"hash {made_by['image']}" and rows["case"] == "phantom0000"
    low, high = float(samples.min()), float(samples.max())
    assert rows["samples"] == f"{len(samples)} of 16x16 pixels, float32, from {low:.3g} to {high:.3g}"
    assert rows["written by"] == f"version {__version__}, torch {torch.__version__}"
    assert rows["reading rules"] == info(trained / "savedmodel.pt")["reading rules"]


def test_samples_do_not_depend_on_the_sampler_of_the_checkpoint(trained, cases, tmp_path):
    """The command has all settings of the chain, which a checkpoint may have others for."""
    stored = torch.load(trained / "savedmodel.pt", weights_only=True)
    own = {"sampler": "ddim", "steps": 5, "spacing": "quadratic", "eta": 0.5, "tta": "flip", "clip_denoised": False}
    torch.save({**stored, "flags": {**stored["flags"], **own}}, tmp_path / "m.pt")
    chain = ["--sampler=ddim", "--steps=3", "--spacing=linear", "--eta=0", "--tta=none", "--clip_denoised=True"]
    flags = [f"--data_dir={cases}", f"--model_path={tmp_path / 'm.pt'}", f"--out_dir={tmp_path}", "--num_samples=1"]
    draw(*flags, *chain)
    rows = info(tmp_path / "phantom0000_samples.npz")
    words = words_of(rows, "cimd-sample", DATA_DIR=cases, CHECKPOINT=tmp_path / "m.pt")
    assert "nothing to do" in draw(*words, f"--out_dir={tmp_path}", "--num_samples=1")


def test_the_model_flags_of_samples_complete_the_command_for_bare_weights(trained, cases, tmp_path):
    stored = torch.load(trained / "savedmodel.pt", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in stored["weights"].items() if "model." in name}
    torch.save(weights, tmp_path / "theirs.pt")
    where = [
        f"--model_path={tmp_path / 'theirs.pt'}",
        f"--data_dir={cases}",
        f"--out_dir={tmp_path}",
        "--num_samples=1",
    ]
    draw(*where, "--steps=2", *as_arguments(TINY))
    rows = info(tmp_path / "phantom0000_samples.npz")
    words = words_of(rows, "cimd-sample", DATA_DIR=cases, CHECKPOINT=tmp_path / "theirs.pt")
    model = shlex.split(rows["model flags"].removesuffix(" (only weights of the published code need them)"))
    assert "nothing to do" in draw(*words, *model, f"--out_dir={tmp_path}", "--num_samples=1")


def test_samples_of_a_method_without_a_chain_have_no_flags_of_one(tmp_path):
    made_by = {"sampler": "none", "steps": 1, "seed": 2, "num_ensemble": 3, "weights": "ema", "amp": "none"}
    flags = json.dumps({"method": "mc-dropout", "dropout": 0.25, "image_size": 8, "encoder_channels": 3})
    np.savez(tmp_path / "x_samples.npz", samples=np.zeros((3, 8, 8)), flags=flags, novel=4.5, **made_by)
    rows = info(tmp_path / "x_samples.npz")
    expected = "cimd-sample --data_dir DATA_DIR --model_path CHECKPOINT --num_ensemble 3 --seed 2"
    parsed, known = (
        parse_command_line(sample_command.CONFIGS, None, shlex.split(text)[1:]).given
        for text in (rows["command"], expected)
    )
    assert parsed == known and rows["case"] == "x" and rows["also stored"] == "novel=4.5"
    assert rows["model flags"].startswith("--method mc-dropout --dropout 0.25 --image_size 8 (")
    assert rows["checkpoint"] == rows["image"] == "hash not stored"


def test_samples_of_another_program_are_described_by_what_they_are(tmp_path):
    np.savez(tmp_path / "theirs.npz", samples=np.eye(4, dtype=bool)[None], model="other\x1b", seed=3)
    rows = info(tmp_path / "theirs.npz")
    assert rows["kind"] == "samples of a case, of another program" and rows["stored"] == "model=other\\x1b seed=3"
    assert rows["samples"] == "1 of 4x4 pixels, bool, from 0 to 1" and "command" not in rows
    np.savez(tmp_path / "bare.npz", samples=np.zeros((2, 4, 6)))
    rows = info(tmp_path / "bare.npz")
    assert rows["stored"] == "nothing besides the samples" and rows["samples"].startswith("2 of 6x4 pixels, float64")


# -- packed files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[], ["--image_size=8"], ["--intensity_range=-10,300", "--pad", "--merge_labels"]])
def test_the_command_of_a_packed_file_packs_it_again(given, cases, tmp_path):
    assert call_script("pack_data", f"--data_dir={cases}", f"--out={tmp_path / 'a'}", *given).returncode == 0
    (path,) = (tmp_path / "a").iterdir()
    rows, pack = info(path), PackedCases(str(path))
    words = words_of(rows, "cimd-pack-data", DATA_DIR=cases, OUT_DIR=tmp_path / "b")
    assert call_script("pack_data", *words).returncode == 0
    assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()
    assert rows["written by"] == f"version {__version__}" and rows["cases"] == "6"
    side = pack.entries[0].width
    assert rows["sizes"] == f"{side}x{side} in 6" and rows["raters"] == "3 in 6" and rows["image channels"] == "1"
    assert rows["hash"].startswith(pack.header["fingerprint"]) and rows["kind"] == "packed cases, format AMBISEG2"


def test_a_file_of_the_cache_is_named_as_one(trained, cases):
    folder = os.path.join(os.environ["XDG_CACHE_HOME"], "ambiguous-segmentation")
    data = torch.load(trained / "savedmodel.pt", weights_only=True)["data"]
    rows = info(os.path.join(folder, f"{data}-{READING_RULES}.pack"))
    assert rows["kind"].startswith("decoded cases of the cache") and rows["hash"].startswith(data)
    assert rows["command"].startswith("not stored") and rows["written by"] == f"version {__version__}"


def test_a_packed_file_of_the_first_version_is_described():
    rows = info(FORMER / "cases.pack")
    assert rows["written by"] == "not stored" and rows["cases"] == "3" and rows["hash"].startswith("e08f2f8d9541c86a")
    assert rows["command"].endswith("--image_size is not stored") and rows["reading rules"].startswith("version 1 ")


# -- folders of cases -------------------------------------------------------------------------------------------------


def test_a_folder_of_cases_is_counted_and_its_hash_is_that_of_its_packed_file(cases, tmp_path):
    folder = shutil.copytree(cases, tmp_path / "cases")
    rows = info(folder)
    assert rows["kind"] == "folder of cases" and rows["faults"] == "none"
    for line in (
        "6 of 6 cases can be read",
        "sizes: 16x16 in 6 cases",
        "raters: 3 in 6 cases",
        "image channels: 1 in 6",
    ):
        assert line in rows["contents"]
    assert call_script("pack_data", f"--data_dir={folder}", f"--out={tmp_path / 'packed'}").returncode == 0
    assert rows["hash"].split(",")[0] == info(tmp_path / "packed" / "cases.pack")["hash"].split()[0]

    (folder / "phantom0001" / "label0_.png").write_bytes(b"no picture")
    labels = {"background": 0, "lesion": 1}
    stated = {"name": "Lungs", "labels": labels, "raters": ["Ann", "Bob", "Cem"], "intensity_range": [0, 200]}
    (folder / "dataset.json").write_text(json.dumps(stated))
    rows = info(folder)
    assert rows["faults"] == "1, which check_data.py lists" and "5 of 6 cases can be read" in rows["contents"]
    assert rows["dataset.json"] == "name: Lungs\nlabels: 1 lesion\nraters: Ann, Bob, Cem\nintensity range: 0,200"


def test_a_folder_with_splits_is_described_by_split(cases, tmp_path):
    for split in ("training", "testing"):
        shutil.copytree(cases, tmp_path / split)
    rows = info(tmp_path)
    assert "12 of 12 cases can be read: testing 6, training 6" in rows["contents"] and "hash" not in rows


def test_modalities_are_named_by_their_files(modalities, tmp_path):
    folder = shutil.copytree(modalities, tmp_path / "cases")
    (first, *_) = sorted(folder.glob("*/image*"))
    rows = info(folder)
    names = rows["modalities"].removesuffix(" in 4 cases").split(", ")
    assert len(names) == 3 and "image channels: 3 in 4 cases" in rows["contents"] and "hash" in rows
    first.unlink()
    rows = info(folder)
    assert rows["modalities"].splitlines() == [f"{', '.join(names)} in 3 cases", f"{', '.join(names[1:])} in 1 cases"]
    assert rows["faults"].startswith("1,") and "hash" not in rows


def test_a_dataset_file_without_cases_is_read(tmp_path):
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "FLAIR"}, "licence": "CC BY 4.0"}')
    rows = info(tmp_path)
    assert rows["dataset.json"] == "channels: T1, FLAIR\nlicence: CC BY 4.0" and "no cases found" in rows["cases"]
    (tmp_path / "dataset.json").write_text("{")
    assert "not valid JSON" in info(tmp_path)["dataset.json"]


# -- everything else --------------------------------------------------------------------------------------------------


def cut(path, source, size):
    path.write_bytes(source.read_bytes()[:size])


def flip(path, source, place):
    content = bytearray(source.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


PACK, SAMPLES = FORMER / "cases.pack", FORMER / "samples" / "phantom0000_samples.npz"
PICTURE = FORMER / "cases" / "phantom0000" / "label0_.png"
REFUSED = {
    "missing": (lambda path: None, "a.pt", "no such file or folder"),
    "link": (lambda path: path.symlink_to("nowhere"), "a.pt", "no such file or folder"),
    "pipe": (lambda path: os.mkfifo(path), "a.pt", "not a regular file"),
    "text": (lambda path: path.write_text("hello"), "a.txt", "text file"),
    "picture": (lambda path: shutil.copy(PICTURE, path), "a.png", "ID_samples.npz"),
    "empty checkpoint": (lambda path: path.touch(), "a.pt", "empty"),
    "empty samples": (lambda path: path.touch(), "a.npz", "damaged"),
    "empty packed file": (lambda path: path.touch(), "a.pack", "pack them again"),
    "cut checkpoint": (lambda path: write_checkpoint(path, {}) and cut(path, path, 600), "a.pt", "truncated"),
    "cut samples": (lambda path: cut(path, SAMPLES, 900), "a.npz", "damaged"),
    "cut packed file": (lambda path: cut(path, PACK, 900), "a.pack", "truncated"),
    "changed samples": (lambda path: flip(path, SAMPLES, 200), "a.npz", "damaged"),
    "changed packed file": (lambda path: flip(path, PACK, 200), "a.pack", "damaged"),
    "other arrays": (lambda path: np.savez(path, x=np.zeros(3)), "a.npz", "not a file of samples"),
    "other flags": (lambda path: np.savez(path, samples=np.zeros((1, 2, 2)), flags="?"), "a.npz", "rename that entry"),
    "other weights": (lambda path: torch.save({"fc.bias": torch.zeros(1)}, path), "a.pt", "another network"),
    "empty folder": (lambda path: path.mkdir(), "a", "no cases found"),
    "folder of pictures": (lambda path: path.mkdir() or shutil.copy(PICTURE, path / "a.png"), "a", "1 .png"),
    "folder of a run": (lambda path: path.mkdir() or write_checkpoint(path / "b.pt", {}), "a", "a/b.pt"),
    "folder of samples": (lambda path: path.mkdir() or shutil.copy(SAMPLES, path), "a", "phantom0000_samples.npz"),
}  # fmt: skip


@pytest.mark.parametrize("make, name, word", REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_or_something_else_is_one_line(make, name, word, tmp_path):
    make(tmp_path / name)
    assert_refused(call_main(main, tmp_path / name), str(tmp_path / name), word)


def test_a_checkpoint_that_differs_from_its_manifest_is_damaged(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "savedmodel000004.pt"
    assert info(path)["progress"].startswith("step 4")
    flip(path, path, path.stat().st_size // 2)
    assert_refused(call_main(main, path), str(path), "damaged", "manifest.json")


def test_the_command_takes_one_file():
    assert_refused(call_main(main), "file to describe is missing")
    assert_refused(call_main(main, "a", "b"), "b: unexpected argument")
    assert_refused(call_main(main, "http://x/y.pt"), "unsupported kind of store")


def test_every_version_of_the_reading_rules_has_words():
    assert RULES.keys() == set(range(1, READING_RULES + 1))


def test_cases_and_files_without_flags_of_a_model_are_answered_without_torch(cases, tmp_path):
    np.savez(tmp_path / "theirs.npz", samples=np.zeros((2, 4, 4)))
    code = """
import sys
from guided_diffusion.commands.info import main
for path in sys.argv[1:]: main([path])
assert "torch" not in sys.modules
"""
    paths = [cases, FORMER / "cases.pack", tmp_path / "theirs.npz"]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd=ROOT, capture_output=True)
