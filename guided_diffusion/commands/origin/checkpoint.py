"""The origin of a checkpoint: of a run of this program, or bare weights of the published code."""

import os
import shlex
from collections.abc import Mapping
from typing import Any

from ...checkpoints.files import fingerprint, read_manifest, resolve, sha256
from ...checkpoints.format import MANIFEST, VERSION, Checkpoint, Weights
from ...checkpoints.load import load_checkpoint
from ...errors import CheckpointError, ConfigError
from ...flags.command_line import parse_command_line
from ...flags.configs import as_typed, configs_from_flags, default_flags
from ...flags.fields import flag_fields
from ...flags.rules import check_rules
from ...flags.typed import typed_flags
from ...gaussian_diffusion import DiffusionConfig
from ...methods.registry import METHODS, PRESETS, MethodConfig, foreign_flags
from ...methods.shared_encoder import ArchitectureConfig
from ...script_util import calls_of
from ...system import storage
from ...visualize.connection import VisdomConfig
from ..train import CONFIGS
from .stored import NOT_STORED, Rows, class_rows, rules_in_words, sort_flags, versions_in_words, with_others

PLACES = {"data_dir": "DATA_DIR", "eval_data_dir": "EVAL_DATA_DIR", "resume_checkpoint": "CHECKPOINT"}
OF_THE_MACHINE = ("log_dir", "cache_dir", *flag_fields(VisdomConfig))  # they do not affect the weights


def checkpoint_rows(path: str) -> Rows:
    """What made a checkpoint, a file or a blob. CheckpointError: it is damaged, or not a checkpoint."""
    checkpoint = load_checkpoint(path, to_sample=True)
    if checkpoint.exported:
        return [*_exported_rows(checkpoint), ("hash", f"{fingerprint(path)}, by which samples name their model")]
    path = resolve(path)
    digest = _checked_hash(path)
    rows = _published_rows(checkpoint) if checkpoint.is_published else _own_rows(checkpoint)
    return [*rows, ("hash", f"{digest[:16]}, by which samples name their checkpoint")]


def _checked_hash(path: str) -> str:
    """The SHA-256 of a file. CheckpointError: it is not that of the manifest of its run."""
    digest = sha256(path)
    folder, name = os.path.split(path)
    if any(entry["file"] == name and entry["sha256"] != digest for entry in read_manifest(folder)):
        raise CheckpointError(f"{path}: damaged, its SHA-256 differs from {MANIFEST}; use another checkpoint")
    return digest


def _own_rows(checkpoint: Checkpoint) -> Rows:
    current, others = sort_flags(checkpoint.flags, *CONFIGS)
    values = {**default_flags(*CONFIGS), **current}
    processes = f", {checkpoint.processes} processes" if (checkpoint.processes or 1) > 1 else ""
    return [
        ("kind", f"checkpoint, format version {VERSION}"),
        ("written by", versions_in_words(checkpoint.written_by)),
        *with_others(command_rows(current), others),
        ("paths", _paths(values)),
        ("model", _model(checkpoint, values)),
        *class_rows(checkpoint.flags.get("classes")),
        ("sampler", _sampler(values)),
        ("progress", f"step {checkpoint.step}, {checkpoint.samples or 0} masks drawn from the cases{processes}"),
        ("averages", _averages(checkpoint)),
        ("best score", _best(checkpoint.best)),
        ("cases", f"hash {checkpoint.data}" if checkpoint.data else f"hash {NOT_STORED}"),
        ("reading rules", rules_in_words(checkpoint.reading)),
    ]


def _exported_rows(checkpoint: Checkpoint) -> Rows:
    """Of a model folder, which has the flags of data, model and sampler only."""
    current, _ = sort_flags(checkpoint.flags, *CONFIGS)
    values = {**default_flags(*CONFIGS), **current}
    weights = "averaged weights" if checkpoint.exported == "ema" else "weights of the last step"
    return [
        ("kind", f"model folder with the {weights}"),
        ("written by", versions_in_words(checkpoint.written_by)),
        ("command", "cimd-export --model_path CHECKPOINT --out DIR"),
        ("flags", typed_flags(current, *CONFIGS) or "all at their defaults"),
        ("model", _model(checkpoint, values)),
        *class_rows(checkpoint.flags.get("classes")),
        ("sampler", _sampler(values)),
        ("progress", f"step {checkpoint.step}, {checkpoint.samples or 0} masks drawn from the cases"),
        ("cases", f"hash {checkpoint.data}" if checkpoint.data else f"hash {NOT_STORED}"),
        ("reading rules", rules_in_words(checkpoint.reading)),
    ]


def _model(checkpoint: Checkpoint, values: Mapping[str, Any]) -> str:
    """The method, number of weights and shape of the image."""
    known = flag_fields(*CONFIGS)
    shape = [f"--{name} {as_typed(name, values[name], known)}" for name in ("image_size", "image_channels")]
    method = checkpoint.flags.get("method", values["method"])  # which this version may not know
    return f"{method}, {_size(checkpoint.weights)}, {' '.join(shape)}"


def command_rows(current: Mapping[str, Any]) -> Rows:
    """The command of a run with these flags {name: typed value}, and why this version refuses it, if it does."""
    foreign = foreign_flags(
        current.get("method", MethodConfig.method), current.get("architecture", ArchitectureConfig.architecture)
    )
    left_out = {*foreign, *OF_THE_MACHINE, *PLACES}
    places = {name: word for name, word in PLACES.items() if name == "data_dir" or current.get(name)}
    flags = {**places, **{name: value for name, value in current.items() if name not in left_out}}
    words = typed_flags(flags, *CONFIGS)
    rows = [("command", f"cimd-train {words}")]
    try:
        check_rules(parse_command_line(CONFIGS, None, shlex.split(words), PRESETS))
    except ConfigError as error:
        rows.append(("", f"this version refuses the command: {error}"))
    return rows


def _paths(values: Mapping[str, Any]) -> str:
    """The files and folders of the run, as they are stored."""
    stored = " ".join(f"--{name} {shlex.quote(values[name])}" for name in (*PLACES, "log_dir") if values[name])
    return stored if storage.is_remote(values["log_dir"]) else f"{stored} (--data_dir as seen from --log_dir)"


def _sampler(values: Mapping[str, Any]) -> str:
    """The sampler with which the checkpoint is sampled by default."""
    if not METHODS[values["method"]].has_chain:
        return "none, one network call per mask"
    try:
        calls = calls_of(values, configs_from_flags(values, DiffusionConfig)[DiffusionConfig])
    except ConfigError as error:
        return f"not usable: {error}"
    return f"{values['sampler']}, {calls} network calls per mask"


def _size(weights: Weights) -> str:
    return f"{sum(tensor.numel() for tensor in weights.values()) / 1e6:.3g} million weights"


def _averages(checkpoint: Checkpoint) -> str:
    return f"of the weights, with the decay {', '.join(checkpoint.ema)}" if checkpoint.ema else "none"


def _best(best: Mapping[str, Any] | None) -> str:
    """The best validation of the run so far."""
    if best is None:
        return "no validation"
    samples = best["settings"].get("ensemble")
    return f"GED_{samples} {best['score']:.4g} in the validation of step {best['step']}"


def _published_rows(checkpoint: Checkpoint) -> Rows:
    """Of bare weights, which have no flags."""
    first = checkpoint.weights.get("model.input_blocks.0.0.weight")
    planes = f", {first.shape[1]} planes of image and mask, {first.shape[0]} channels" if first is not None else ""
    return [
        ("kind", "bare weights, as of the published code"),
        ("written by", NOT_STORED),
        ("command", f"{NOT_STORED}; sampling needs the flags of the training, e.g. those of --preset cimd"),
        ("model", f"U-Net, {_size(checkpoint.weights)}{planes}"),
        ("progress", f"step {checkpoint.step}, by the name of the file" if checkpoint.step else NOT_STORED),
        ("averages", _averages(checkpoint)),
        ("cases", NOT_STORED),
        ("reading rules", NOT_STORED),
    ]
