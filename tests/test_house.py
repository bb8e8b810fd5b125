"""The house of docs/design.md: imports point one way and do nothing, rooms stay small, each says what it is for."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGE = ROOT / "guided_diffusion"
FILES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {
    "visdom",
    "mpi4py",
    "defusedxml",
    "nibabel",
    "pydicom",
    "h5py",
    "matplotlib",
    "tensorboard",
    "diffusers",
    "monai",
    "huggingface_hub",
}
MOST_FILES, MOST_LINES = 10, 300
MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS, MOST_ATTRIBUTES = 40, 6, 15
LARGE = {"GaussianDiffusion"}  # its docstring says why


def title(path):
    """A module's name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_imports_point_one_way():
    """The contract of pyproject.toml: rooms, layer by layer."""
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=title)
def test_nothing_optional_is_imported_before_it_is_used(path):
    body = ast.parse(path.read_text()).body
    imports = [node for node in body if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.module for node in body if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {name.split(".")[0] for name in names} & OPTIONAL


def rooms():
    """Folders of the package, except those of shipped models: {name below it: its Python files}."""
    folders = [folder for folder in PACKAGE.rglob("*") if folder.is_dir() and folder.name != "__pycache__"]
    folders = [folder for folder in folders if folder.parent != PACKAGE / "models"]
    return {str(folder.relative_to(PACKAGE)): sorted(folder.glob("*.py")) for folder in folders}


def test_rooms_are_small_and_say_what_they_are_for():
    for room, files in rooms().items():
        assert room == "commands" or len([path for path in files if path.stem != "__init__"]) <= MOST_FILES, room
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), room
    assert not [title(path) for path in FILES if path.read_text().count("\n") > MOST_LINES]


def large_parts(tree):
    """Functions and classes beyond the limits, and expressions that are hard to read: (line, what is wrong)."""
    conditionals = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.walk(tree):
        within = [part for part in ast.walk(node) if part is not node]
        if isinstance(node, ast.FunctionDef):
            most = 60 if node.name == "__init__" else MOST_LINES_OF_A_FUNCTION
            parameters = [p for p in (*node.args.posonlyargs, *node.args.args) if p.arg not in ("self", "cls")]
            if node.end_lineno - node.lineno >= most:
                yield node.lineno, f"{node.name} is long"
            if len(parameters) > MOST_PARAMETERS:
                yield node.lineno, f"{node.name} has {len(parameters)} positional parameters"
        elif isinstance(node, ast.ClassDef) and node.name not in LARGE:
            stored = [part for part in within if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)]
            if len({part.attr for part in stored if getattr(part.value, "id", "") == "self"}) > MOST_ATTRIBUTES:
                yield node.lineno, f"{node.name} has too many attributes"
        elif isinstance(node, (ast.IfExp, ast.Raise)) and any(isinstance(part, ast.IfExp) for part in within):
            yield node.lineno, "a conditional expression within another, or within raise"
        elif isinstance(node, conditionals) and len(node.generators) > 1 and any(g.ifs for g in node.generators):
            yield node.lineno, "a comprehension with two loops and a condition"


@pytest.mark.parametrize("path", FILES, ids=title)
def test_functions_and_classes_are_small_and_expressions_plain(path):
    assert not list(large_parts(ast.parse(path.read_text())))


def test_tests_mirror_the_rooms():
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"golden", "fixtures", "__pycache__"}
    assert tests <= {room.split("/")[0] for room in rooms()}


@pytest.mark.parametrize("name", ["check_data", "convert_data", "info", "make_phantom", "pack_data", "prepare_lidc"])
def test_data_commands_answer_without_torch(name):
    """Whose import takes seconds; the others load it, and no more than it of what is slow to import."""
    assert not loaded_by_help(name) & {"torch", "scipy.stats", "scipy.optimize", "blobfile", "filelock"}


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "export", "compare"])
def test_other_commands_answer_without_what_few_calls_need(name):
    few = {
        "scipy.stats",
        "scipy.optimize",
        "visdom",
        "torch._dynamo",
        "tensorboard",
        "blobfile",
        "jinja2",
        "huggingface_hub",
    }
    assert not loaded_by_help(name) & few


def loaded_by_help(name):
    """Names of the modules that a command has imported when it has printed its flags."""
    code = f"""
import sys
from guided_diffusion.commands.{name} import main
try: main(["--help"])
except SystemExit as end: assert not end.code
print("LOADED", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("LOADED")[1].split())


def test_importing_has_no_effect():
    """No connection, file, environment variable, device or global random state is touched by importing everything."""
    code = """
import os, socket, sys, torch, numpy, scipy.ndimage, PIL.Image, blobfile, tqdm
before = dict(os.environ), torch.get_rng_state(), torch.get_default_dtype()
def refuse(*a, **k): raise AssertionError("a connection at import")
socket.socket.connect = refuse
for name in sys.argv[1:]: __import__(f"guided_diffusion.{name}")
assert before[0] == dict(os.environ) and torch.equal(before[1], torch.get_rng_state())
assert before[2] == torch.get_default_dtype() and not torch.cuda.is_initialized()
assert not torch.distributed.is_initialized()
"""
    names = [title(path) for path in FILES if path.stem not in ("__init__", "__main__")]
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=ROOT)


def test_published_names_are_where_users_look_for_them():
    from guided_diffusion.methods import AmbiguousSegmenter
    from guided_diffusion.methods.cimd import AmbiguousSegmenter as defined
    from guided_diffusion.sampling import sample
    from guided_diffusion.sampling.samplers import sample as sampler

    assert AmbiguousSegmenter is defined and sample is sampler
    with pytest.warns(DeprecationWarning, match="import it from guided_diffusion.methods"):
        from guided_diffusion.segmentation import AmbiguousSegmenter as former
    assert former is defined
    with pytest.raises(ImportError):
        from guided_diffusion.sampling import nothing  # noqa: F401
