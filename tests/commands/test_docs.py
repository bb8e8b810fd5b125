"""The commands in README.md and docs/: their parsers take them, and those of README.md run at toy size."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT, call_script, load_file

from guided_diffusion.flags import command_line

DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
COMMANDS = ("python", "torchrun", "mpiexec", "srun", "make", "pip", "bash", "scontrol", "sbatch")
BEGINS = re.compile(rf"^([A-Z_]+=\S* )*({'|'.join(COMMANDS)}) |^[A-Z_]+=\"", re.MULTILINE)
STUB = '#!/bin/sh\n"{python}" -c "import json, sys; print(json.dumps(sys.argv[1:]))" {name} "$@" >>"{log}"\n'
TOY_MODEL = ["--image_size=32", "--num_channels=32", "--channel_mult=1,1", "--num_filters=4,8"]


class Parsed(Exception):
    """The flags of a command are right."""


def blocks(text):
    """The indented and the fenced blocks of a Markdown text."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^\n)((?:^    .*\n(?:\n(?=    ))?)+)", text, re.MULTILINE)
    return fenced + [re.sub("^    ", "", block, flags=re.MULTILINE) for block in indented]


def commands_of(document, folder):
    """The words of each command in a document, as a shell expands them; every program is a stub, so that none runs."""
    log, stubs = folder / "log", folder / "stubs"
    stubs.mkdir()
    for name in COMMANDS:
        (stubs / name).write_text(STUB.format(python=sys.executable, name=name, log=log))
        (stubs / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    text = (ROOT / document).read_text()
    shell = [block for block in blocks(text) if BEGINS.search(block)]
    inline = [span for span in re.findall(r"`([^`\n]+)`", text) if BEGINS.match(span) and "..." not in span]
    script = "\n".join([*shell, *inline])
    done = subprocess.run(
        ["/bin/bash", "-c", script], cwd=folder, env={"PATH": f"{stubs}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def program_of(words):
    """(path in the repository, its arguments) of a command that runs a program of this repository; None of another."""
    for place, word in enumerate(words):
        if re.fullmatch(r"(scripts|benchmarks)/\w+\.(py|sh)", word):
            return word, words[place + 1 :]
        if word == "guided_diffusion.visualize":
            return "guided_diffusion/visualize.py", words[place + 1 :]
    return None


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


@pytest.mark.nightly
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_has_flags_that_its_program_knows(document, tmp_path, monkeypatch):
    for words in commands_of(document, tmp_path):
        found = program_of(words)
        if found and found[0].endswith(".py"):
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
    assert ("scripts/check_data.py", ["data/lidc"]) in found


def toy(name, arguments):
    """The arguments with which a documented run takes seconds; None of a program that is not run here."""
    if name == "segmentation_train":
        return [*arguments, *TOY_MODEL, "--batch_size=2", "--iterations=1"]
    if name == "segmentation_sample":
        fewer = [*(TOY_MODEL if "--image_size" in arguments else []), *([] if "--fast" in arguments else ["--steps=2"])]
        return [*arguments, "--num_samples=2", *fewer]
    return arguments if name == "segmentation_evaluate" else None


@pytest.mark.nightly
def test_the_commands_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    commands = [program_of(words) for words in commands_of("README.md", tmp_path)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    ran = []
    for path, arguments in filter(None, commands):
        name = path.removeprefix("scripts/").removesuffix(".py")
        words = toy(name, arguments)
        if words is None or any(word.startswith("data/") and not (tmp_path / word).exists() for word in words):
            continue
        if name == "segmentation_train":
            shutil.rmtree(tmp_path / "results", ignore_errors=True)
        done = call_script(name, *words)
        assert done.returncode == 0, (path, arguments, done.stderr)
        ran.append(name)
    assert {"segmentation_train", "segmentation_sample", "segmentation_evaluate"} == set(ran)
