"""New patients by one command, folders of several splits, and validation cases among the training cases."""

import glob
import os
import shutil

import pytest
from drawings import DISCS, GREY, put, put_case, white
from helpers import LEAST, TINY, as_arguments, assert_refused, call_script

from guided_diffusion.data.files.read import read_file

SMALL = GREY[10:42, 20:52]  # the disc's upper left


@pytest.fixture(scope="module")
def model(trained):
    return trained / "savedmodel.pt"


def draw(model, source, out, *more):
    words = ["-i", source, "-o", out, "--model_path", model, "--num_ensemble=2", "--timestep_respacing=2"]
    return call_script("segmentation_sample", *words, *more)


def drawn(out):
    """The names of the cases with masks, sheet and samples."""
    names = sorted(path.name.removesuffix("_samples.npz") for path in out.glob("*_samples.npz"))
    for name in names:
        masks = [path for k in range(2) for path in out.glob(f"{glob.escape(name)}_output{k}.*")]
        assert len(masks) == 2 and (out / f"{name}_sheet.png").exists(), name
    return names


@pytest.mark.parametrize("name", ["scan.png", "Röntgen 1.jpg", "a, b.tif", "scan.nii.gz"])
def test_one_picture(model, tmp_path, name):
    put(tmp_path / "in" / name, SMALL)
    done = draw(model, tmp_path / "in" / name, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert drawn(tmp_path / "out") == [name.split(".")[0]]
    stem, ending = name.split(".", 1)
    mask = tmp_path / "out" / f"{stem}_output0.{ending if ending == 'nii.gz' else 'png'}"
    assert read_file(str(mask)).planes.shape == (1, *SMALL.shape[:2])


def test_a_folder_of_everything(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("Müller 1.png", "p 1/s1.png", "p 1/s2.jpg"):
        put(source / name, SMALL)
    put_case(source / "labelled", [white(DISCS[0])[10:42, 20:52]], SMALL)
    put_case(source / "unlabelled", (), SMALL)
    put(source / "notes.txt", b"text")
    done = draw(model, source, out)
    assert done.returncode == 0, done.stderr
    assert drawn(out) == ["Müller 1", "labelled", "p 1-s1", "p 1-s2", "unlabelled"]
    assert "passed over 1 file: 1 .txt, e.g. notes.txt" in done.stdout
    again = draw(model, source, out, "--evaluate")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: all 5 cases are drawn" in again.stdout
    assert "4 of 5 cases have no labels and are not scored" in again.stdout and "1 of 1 cases" in again.stdout


def test_masks_beside_the_pictures_are_not_drawn_for(model, tmp_path):
    put(tmp_path / "a.png", SMALL)
    for out in (tmp_path, tmp_path, tmp_path / "masks", tmp_path / "more"):
        assert draw(model, tmp_path, out).returncode == 0
        assert drawn(out) == ["a"]


def test_scores_need_labels(model, tmp_path):
    put(tmp_path / "in" / "a.png", SMALL)
    for source, words in ((tmp_path / "in", "none of the cases has labels"), (tmp_path / "in" / "a.png", "is a file")):
        assert_refused(draw(model, source, tmp_path / "out", "--evaluate"), "--evaluate", words)
    assert not (tmp_path / "out").exists()


def test_a_long_name_does_not_fail_after_drawing(model, tmp_path):
    names = ["x" * 240, "ü" * 122, "y" * 200]
    for name in names:
        put(tmp_path / "in" / f"{name}.png", SMALL)
    deep = tmp_path / "in" / ("a" * 120) / ("b" * 120) / ("c" * 120)
    put_case(deep, [white(DISCS[0])[10:42, 20:52]], SMALL)
    done = draw(model, tmp_path / "in", tmp_path / "out", "--movie", "--consensus=mean", "--evaluate")
    assert done.returncode == 0, done.stderr
    assert len(drawn(tmp_path / "out")) == 4 and "shortened 3 names" in done.stdout
    assert len(list((tmp_path / "out").glob("*_movie.gif"))) == 4 and (tmp_path / "out" / "metrics.csv").exists()
    assert "nothing to do" in draw(model, tmp_path / "in", tmp_path / "out", "--movie", "--consensus=mean").stdout


def test_a_name_that_is_no_text(model, tmp_path):
    put(tmp_path / "in" / "x.png", SMALL)
    os.rename(tmp_path / "in" / "x.png", os.fsencode(tmp_path / "in") + b"/M\xfcller.png")
    done = draw(model, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (name,) = drawn(tmp_path / "out")
    assert name.startswith("M_ller-") and name in done.stdout


def test_names_that_the_file_system_refuses_are_refused_before_drawing(model, tmp_path, monkeypatch):
    from guided_diffusion.sampling import names

    put(tmp_path / "in" / "why?.png", SMALL)
    monkeypatch.setattr(names, "_refusal", lambda folder, name: "its name cannot be that of a file here")
    assert_refused(draw(model, tmp_path / "in", tmp_path / "out"), "why?", "--out_dir")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_to_is_refused_before_drawing(model, tmp_path, monkeypatch):
    from guided_diffusion.commands import sample

    put(tmp_path / "in" / "a.png", SMALL)
    put(tmp_path / "file", b"")
    monkeypatch.setattr(sample, "draw_left", None)
    assert_refused(draw(model, tmp_path / "in", tmp_path / "file" / "out"), "--out_dir", "cannot be written to")
    run = ["--data_dir", tmp_path / "in", "--out", tmp_path / "file" / "out"]
    assert_refused(call_script("pack_data", *run), "--out ", "cannot be written to")


# -- splits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits(tmp_path_factory, cases):
    folder = tmp_path_factory.mktemp("splits")
    for k, split in enumerate(("training", "validation", "testing")):
        for name in (f"phantom000{2 * k}", f"phantom000{2 * k + 1}"):
            shutil.copytree(cases / name, folder / split / name)
    return folder


def words_of(command, folder, out, model):
    """The arguments with which a command reads the cases of a folder."""
    return {
        "segmentation_train": ["--data_dir", folder, "--log_dir", out, "--iterations=1", *as_arguments(TINY)],
        "segmentation_sample": ["-i", folder, "-o", out, "--model_path", model, "--timestep_respacing=2"],
        "segmentation_evaluate": ["--data_dir", folder, "--samples", out.parent],
        "compare": ["--data_dir", folder, "--out_dir", out, "--budget_images=4", "--methods=unet,ssn"],
        "check_data": [folder],
        "pack_data": ["--data_dir", folder, "--out", out],
    }[command]


@pytest.mark.parametrize("command", ["segmentation_train", "segmentation_sample", "segmentation_evaluate", "compare"])
def test_a_folder_of_several_splits_is_refused(splits, model, tmp_path, command):
    done = call_script(command, *words_of(command, splits, tmp_path / "out", model))
    assert_refused(done, str(splits), "name one of them", str(splits / "testing"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--eval_data_dir", "--test_dir"])
def test_other_folders_of_a_command_are_one_split_too(splits, cases, model, tmp_path, flag):
    command = "segmentation_train" if flag == "--eval_data_dir" else "compare"
    done = call_script(command, *words_of(command, cases, tmp_path / "out", model), flag, splits)
    assert_refused(done, str(splits), "name one of them")
    assert not list(tmp_path.glob("out/*.pt"))


@pytest.mark.parametrize("command", ["check_data", "pack_data"])
def test_what_is_for_whole_sets_takes_all_splits(splits, model, tmp_path, command):
    done = call_script(command, *words_of(command, splits, tmp_path / "out", model))
    assert done.returncode == 0, done.stdout + done.stderr
    if command == "pack_data":
        assert sorted(os.listdir(tmp_path / "out")) == ["testing.pack", "training.pack", "validation.pack"]


# -- training ---------------------------------------------------------------------------------------------------------


def train(folder, out, *more):
    flags = ["--data_dir", folder, "--log_dir", out, "--iterations=1", "--batch_size=2", *as_arguments(LEAST)]
    return call_script("segmentation_train", *flags, *more)


def test_validation_cases_are_not_inside_the_training_cases(splits, tmp_path, monkeypatch):
    from guided_diffusion.commands import train as command

    (tmp_path / "link").symlink_to(splits / "training")
    monkeypatch.setattr(command, "LIDCDataset", None)  # nothing is read
    inside = splits / "training" / "phantom0000"
    for outer in (splits / "training", tmp_path / "link", f"{splits}/testing/../training/"):
        for a, b in ((outer, inside), (inside, outer)):
            done = train(a, tmp_path / "out", "--eval_data_dir", b)
            assert_refused(done, f"--data_dir {a}", f"--eval_data_dir {b}", "is inside", "side by side")
    assert not (tmp_path / "out").exists()


def test_equal_folders_and_folders_side_by_side_are_accepted(splits, tmp_path):
    for k, folder in enumerate(("training", "validation")):
        few = ["--eval_interval=1", "--eval_steps=1", "--eval_ensemble=1", "--eval_cases=1"]
        done = train(splits / "training", tmp_path / str(k), "--eval_data_dir", splits / folder, *few)
        assert done.returncode == 0, done.stderr


def test_a_link_to_a_training_case_is_no_validation_case(splits, tmp_path):
    for name in ("phantom0002", "phantom0003"):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / name).symlink_to(splits / "validation" / name)
    (tmp_path / "val" / "more").symlink_to(splits / "training" / "phantom0001")
    done = train(splits / "training", tmp_path / "out", "--eval_data_dir", tmp_path / "val")
    assert_refused(done, "1 of the 3 cases of --eval_data_dir", "phantom0001")


def test_cases_without_labels_are_skipped_in_both_sets(splits, tmp_path):
    for split in ("training", "validation"):
        shutil.copytree(splits / split, tmp_path / split)
        put_case(tmp_path / split / "new", (), SMALL)
        put_case(tmp_path / split / "newer", (), SMALL)
    few = ["--eval_data_dir", tmp_path / "validation", "--eval_interval=1", "--eval_steps=1", "--eval_ensemble=1"]
    done = train(tmp_path / "training", tmp_path / "out", *few)
    assert_refused(done, "2 cases (new, newer): no label", "--skip_unlabelled True")
    done = train(tmp_path / "training", tmp_path / "out", *few, "--skip_unlabelled")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    for start in ("", "validation cases: "):
        assert f"\n{start}skipped 2 of 4 cases" in log, log
    new = draw(tmp_path / "out" / "savedmodel.pt", tmp_path / "training", tmp_path / "masks")
    assert new.returncode == 0 and len(drawn(tmp_path / "masks")) == 4, new.stderr


def test_cases_without_labels_are_skipped_in_scoring(splits, model, tmp_path):
    shutil.copytree(splits / "testing", tmp_path / "set")
    put_case(tmp_path / "set" / "new", (), SMALL)
    assert draw(model, tmp_path / "set", tmp_path / "out").returncode == 0
    score = ["--data_dir", tmp_path / "set", "--samples", tmp_path / "out"]
    named = call_script("segmentation_evaluate", *score)
    assert named.returncode == 0 and "no label" in named.stdout and "2 of 3 cases" in named.stdout
    skipped = call_script("segmentation_evaluate", *score, "--skip_unlabelled")
    assert skipped.returncode == 0 and "no label;" not in skipped.stdout and "2 of 2 cases" in skipped.stdout
    assert "skipped 1 of 3 cases" in skipped.stdout
