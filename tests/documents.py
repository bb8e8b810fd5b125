"""Reading README.md and docs/: their commands and their Python examples."""

import os
import re
import subprocess
import sys

from helpers import ROOT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
COMMANDS = ("python", "torchrun", "mpiexec", "srun", "make", "pip", "bash", "scontrol", "sbatch")
BEGINS = re.compile(rf"^([A-Z_]+=\S* )*({'|'.join(COMMANDS)}) |^[A-Z_]+=\"", re.MULTILINE)
STUB = '#!/bin/sh\nprintf "%s\\037" {name} "$@" >>"{log}"; printf "\\036" >>"{log}"\n'  # unit and record separators


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
        (stubs / name).write_text(STUB.format(name=name, log=log))
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
    records = log.read_text().split("\x1e")[:-1] if log.exists() else []
    return [record.split("\x1f")[:-1] for record in records]


def program_of(words):
    """(path in the repository, its arguments) of a command that runs a program of this repository; None of another."""
    for place, word in enumerate(words):
        if re.fullmatch(r"(scripts|benchmarks)/\w+\.(py|sh)", word):
            return word, words[place + 1 :]
        if word == "guided_diffusion.visualize":
            return "guided_diffusion/visualize/__main__.py", words[place + 1 :]
    return None


def python_blocks(text):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def run_python(code, folder):
    """Run code in a process of its own, since the examples add to registries."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
