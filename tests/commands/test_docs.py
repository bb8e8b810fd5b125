"""The commands in README.md and docs/ have known flags and read files that exist; those of README.md run."""

import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest
from documents import DOCUMENTS, commands_of, program_of, python_blocks, run_python
from helpers import ROOT, call_script, load_file

from guided_diffusion.flags import command_line

TOY_MODEL = ["--image_size=32", "--num_channels=32", "--channel_mult=1,1"]
DEMO = {"results/demo/savedmodel.pt", "results/demo/samples"}  # what `make demo` writes
DOWNLOADS = ("LIDC-IDRI", "tcia-lidc-xml", "data_lidc.pickle", "QUBIQ", "REAL", "SRC")  # what a user fetches
INPUTS = ("data_dir", "eval_data_dir", "test_dir", "model_path", "resume_checkpoint", "samples", "compare", "truth")
INPUTS += ("dicom", "xml", "src", "metrics")
SHORT = {"-i": "--data_dir", "-o": "--out_dir"}


class Parsed(Exception):
    """The flags of a command are valid."""


def check_flags(path, arguments, monkeypatch):
    """Fail if the program refuses its flags; nothing of it runs."""
    parse = command_line.parse_command_line

    def parse_only(classes, *more):
        parse(classes, *more)
        raise Parsed

    monkeypatch.setattr(command_line, "parse_command_line", parse_only)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.syspath_prepend(str((ROOT / path).parent))
    if path.startswith("guided_diffusion"):
        from guided_diffusion.visualize.__main__ import main
    else:
        main = load_file(ROOT / path).main
    with pytest.raises(Parsed):
        main()


def flag_values(arguments):
    """{flag: value} of the words of a command; a flag without a value has ""."""
    values = {}
    words = [SHORT.get(word, word) for word in arguments]
    for word, after in pairwise([*words, "--"]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values[name] = value if equals or after.startswith("--") else after
    return values


def inputs_of(path, arguments):
    """The files and folders that a command reads."""
    values = flag_values(arguments)
    named = [part for name in INPUTS for part in values.get(name, "").split(",") if part]
    if path.endswith(("check_data.py", "info.py")) and arguments and not arguments[0].startswith("--"):
        named.append(arguments[0])
    return [name.removeprefix("./").rstrip("/") for name in named]


def outputs_of(path, arguments):
    """The files that a command writes, and the folders that it fills."""
    values = flag_values(arguments)
    if path.endswith("segmentation_train.py"):
        folder = values.get("log_dir", "results")
        return {f"{folder}/savedmodel.pt", *([f"{folder}/bestmodel.pt"] if values.get("eval_data_dir") else [])}
    if path.endswith("segmentation_sample.py"):
        return {values.get("out_dir", "results/samples")}
    return {values[name] for name in ("out", "out_dir", "work") if name in values}


def in_clone(name):
    return not name.startswith("results/") and (ROOT / name).exists()


def commands_of_make(*words):
    """The commands of this repository that `make` would run."""
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/installed", *words],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return list(filter(None, (program_of(shlex.split(line)) for line in lines)))


def test_make_demo_writes_what_the_documents_read():
    written = set().union(*(outputs_of(*command) for command in commands_of_make("demo")))
    assert written >= DEMO


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_reads_what_exists_then(document, tmp_path):
    """In a fresh clone after `make demo`, with the commands of the page in their order."""
    written = set() if document == "README.md" else set(DEMO)
    for words in commands_of(document, tmp_path):
        if words[:2] == ["make", "demo"]:
            written |= DEMO
        if found := program_of(words):
            for name in inputs_of(*found):
                below = any(name == folder or name.startswith(f"{folder}/") for folder in written)
                fetched = name.split("/")[0] in DOWNLOADS
                parent = any(folder.startswith(f"{name}/") for folder in written)
                assert below or fetched or parent or in_clone(name), f"{' '.join(words)}: {name} does not exist"
            written |= outputs_of(*found)


@pytest.mark.nightly
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_has_flags_that_its_program_knows(document, tmp_path, monkeypatch):
    for words in commands_of(document, tmp_path):
        found = program_of(words)
        if found and found[1] == []:
            assert (ROOT / found[0]).exists(), found
        elif found and found[0].endswith(".py"):
            check_flags(*found, monkeypatch)
        elif found:
            assert (ROOT / found[0]).exists(), found
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)
        monkeypatch.undo()


def test_commands_are_found_and_expanded(tmp_path):
    found = [program_of(words) for words in commands_of("README.md", tmp_path)]
    train = [arguments for path, arguments in filter(None, found) if path == "scripts/segmentation_train.py"]
    assert len(train) >= 3 and any(
        "--image_size" in arguments and "--lr" in arguments for arguments in train
    )  # $MODEL_FLAGS, $TRAIN_FLAGS
    assert ("scripts/check_data.py", ["mydata"]) in found


def toy(name, arguments):
    """The arguments with which a documented run takes seconds; None of a program that is not run here."""
    values = flag_values(arguments)
    if name == "segmentation_train":
        small = [*TOY_MODEL, *([] if values.get("preset") == "tuned" else ["--num_filters=4,8"])]
        if "eval_data_dir" in values:
            small += ["--eval_cases=2", "--eval_steps=2"]
        return [*arguments, *small, "--batch_size=4", "--iterations=1"]
    if name == "segmentation_sample":
        model = [*TOY_MODEL, "--num_filters=4,8"] if "image_size" in values else []
        return [*arguments, "--num_samples=2", *model, *([] if "fast" in values else ["--steps=2"])]
    if name == "make_phantom":
        return [*arguments, "--num_cases=8"]
    return arguments if name in ("segmentation_evaluate", "check_data") else None


def readme_commands(folder):
    """(path, arguments) of the commands of README.md that run programs of this repository, those of `make demo` too."""
    commands = commands_of("README.md", folder)
    made = commands.index(["make", "demo"])  # the text names it again
    for place, words in enumerate(commands):
        if place == made:
            yield from commands_of_make("demo")
        elif found := program_of(words):
            yield found


@pytest.mark.nightly
def test_the_commands_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    """At toy size, in a folder that has nothing but data/; then the examples of docs/python.md."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data", tmp_path / "data")
    ran = []
    for path, arguments in list(readme_commands(tmp_path)):
        name = path.removeprefix("scripts/").removesuffix(".py")
        words = toy(name, arguments)
        assert words is not None, f"{path} of README.md is not run here"
        for file in inputs_of(path, arguments):
            assert (tmp_path / file).exists(), f"{path} {' '.join(arguments)}: {file} does not exist"
        done = call_script(name, *words)
        assert done.returncode == 0, (path, arguments, done.stderr)
        ran.append(name)
    assert {name: ran.count(name) for name in set(ran)} == {
        "segmentation_train": 4,
        "segmentation_sample": 5,
        "segmentation_evaluate": 2,
        "make_phantom": 3,
        "check_data": 1,
    }
    for report in re.findall(r"`(results/\S+/report\.html)`", (ROOT / "README.md").read_text()):
        assert (tmp_path / report).exists(), report
    run_python(python_blocks((ROOT / "docs/python.md").read_text()), tmp_path)
