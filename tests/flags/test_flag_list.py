"""The list of all flags is kept here, so that a new one is a decision; and the documentation names no other."""

import importlib
import re

import pytest
from helpers import ROOT

from guided_diffusion.flags.fields import flag_fields
from guided_diffusion.flags.retired import RetiredFlags

COMMANDS = (
    "train",
    "sample",
    "evaluate",
    "export",
    "compare",
    "check_data",
    "convert_data",
    "info",
    "make_phantom",
    "pack_data",
    "prepare_lidc",
)
CLASSES = {
    "TrainConfig": "guided_diffusion.training.config",
    "ValidationConfig": "guided_diffusion.training.validation",
    "ComputeConfig": "guided_diffusion.system.device",
    "SamplerConfig": "guided_diffusion.sampling.samplers",
    "SampleConfig": "guided_diffusion.sampling.config",
    "PostprocessConfig": "guided_diffusion.masks.postprocess",
    "DataConfig": "guided_diffusion.data.case_reader",
    "MethodConfig": "guided_diffusion.methods.registry",
    "UNetConfig": "guided_diffusion.unet",
    "DiffusionConfig": "guided_diffusion.gaussian_diffusion",
    "SegmenterConfig": "guided_diffusion.methods.cimd",
    "EncoderConfig": "guided_diffusion.distribution",
    "ArchitectureConfig": "guided_diffusion.methods.shared_encoder",
    "EvaluateConfig": "guided_diffusion.evaluation.case_figures",
    "ExportConfig": "guided_diffusion.commands.export",
    "CompareConfig": "guided_diffusion.compare.config",
    "VisdomConfig": "guided_diffusion.visualize.connection",
    "InspectConfig": "guided_diffusion.visualize.inspector",
    "ServeConfig": "guided_diffusion.visualize.server",
    "ReplayConfig": "guided_diffusion.visualize.server",
    "CheckConfig": "guided_diffusion.prepare.check",
    "InfoConfig": "guided_diffusion.commands.info",
    "ConvertConfig": "guided_diffusion.prepare.formats.converters",
    "PrepareConfig": "guided_diffusion.prepare.lidc.config",
    "PackConfig": "guided_diffusion.commands.pack_data",
    "PhantomConfig": "guided_diffusion.commands.make_phantom",
    "RetiredFlags": "guided_diffusion.flags.retired",
}
# Of other programs, and of this one's parser
FOREIGN = {
    *("preset", "help", "local_rank", "smoothing"),  # the last is the example of docs/extending.md
    *("nproc_per_node", "nnodes", "node_rank", "rdzv_backend", "rdzv_endpoint", "rdzv_id", "max-restarts"),  # torchrun
    *(
        "gpus-per-task",
        "gpus-per-node",
        "cpus-per-task",
        "ntasks-per-node",
        "nodes",
        "time",
        "requeue",
        "signal",
    ),  # Slurm
    *("index-url", "build-constraint"),  # pip
}


def classes():
    return {name: getattr(importlib.import_module(module), name) for name, module in CLASSES.items()}


def test_the_flags_are_those_of_the_list():
    listed = dict(line.split(": ", 1) for line in (ROOT / "tests/flags/flags.txt").read_text().splitlines())
    assert {name: " ".join(map(forms, flag_fields(cls).values())) for name, cls in classes().items()} == listed


def forms(field):
    """NAME, or NAME|-X of a flag with a short form."""
    return "|".join([field.name, *field.forms[1:]])


def test_every_config_of_a_command_is_listed():
    for command in COMMANDS:
        module = importlib.import_module(f"guided_diffusion.commands.{command}")
        configs = [name for name in vars(module) if re.fullmatch(r"[A-Z]\w*Config", name)]
        assert configs and set(configs) <= CLASSES.keys(), command


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_a_page_names_flags_that_exist(path):
    known = {name for cls in classes().values() if cls is not RetiredFlags for name in flag_fields(cls)}
    known |= FOREIGN | benchmark_flags()
    if path.name == "flags.md":
        known |= flag_fields(RetiredFlags).keys()
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", path.read_text()))
    assert not sorted(named - known)


def test_the_page_of_flags_has_every_flag_with_its_default():
    text = (ROOT / "docs/flags.md").read_text()
    rows = re.findall(r"^\| `--(\w+)` \| (\S+) \| .+ \|$", text, re.MULTILINE)
    for name, cls in classes().items():
        for field in flag_fields(cls).values():
            assert all(f"`{short}`" in text for short in field.forms[1:]), field.name
            default = "required" if field.flag.required else f"`{field.show(field.default)}`"
            if field.flag.retired:
                assert f"`--{field.name}" in text, field.name
            else:
                assert (field.name, default.replace("``", "empty")) in rows, f"{name}: --{field.name} {default}"


def benchmark_flags():
    """Names of the flags of the programs in benchmarks/, by their text: some need packages that are not installed."""
    text = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    return set(re.findall(r"^    (\w+): Annotated\[", text, re.MULTILINE))
