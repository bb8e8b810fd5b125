"""
Checkpoints that describe themselves and are safe to load; `checkpoint_folder` keeps those of a run.

A checkpoint is a dict of plain tensors and JSON-like values, which torch.load(weights_only=True) opens:

    format, version      what this file is
    step, samples        optimizer steps done, and masks drawn from the data over all processes
    processes, data      how many processes there were, and the hash of the cases that they trained on
    threads              that each process computed with; None: on a GPU. Checkpoints made before it was stored lack it
    flags                every flag of the run, by name
    weights              the segmenter: model.*, prior.*, posterior.*
    ema                  {rate: weights}, averaged
    optimizer, schedule_sampler, scaler
    random               the seed; each step's randomness follows from it and the place in the data
    best                 {settings, step, score} of the best validation so far; None: there was none
    bad_steps            [steps left out so far, because a loss or a gradient was not finite; the last ones of them in a row]

Bare state dicts of the published code, and of the implicit-ensembles code, are read too.
"""

import hashlib
import json
import math
import os
import re

import blobfile as bf
import torch

from .errors import CheckpointError
from .system import storage

FORMAT, VERSION = "ambiguous-segmentation-diffusion", 1
NEWEST, BEST, MANIFEST = "savedmodel.pt", "bestmodel.pt", "manifest.json"
NUMBERED = re.compile(r"savedmodel(\d+)\.pt$")


# -- files ------------------------------------------------------------------------------------------------------------


def load(path):
    """
    The checkpoint at `path` (a file or a blob), on the CPU, as a dict of the keys above.

    A bare state dict of published code comes as {"step", "samples", "flags": None, "weights", "ema", "optimizer"},
    with the average and the optimizer that lie beside it. CheckpointError: missing, truncated, unsafe or foreign.
    """
    if reason := storage.unknown_store(path):
        raise CheckpointError(f"{path}: {reason}")
    path = resolve(path)
    content = _load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        version = content.get("version")
        if not isinstance(version, int) or version != VERSION:
            raise CheckpointError(f"{path}: written by another version of this program (format {version})")
        damaged = [name for name, is_sound in PARTS.items() if name in content and not is_sound(content[name])]
        if damaged := damaged + [name for name in TO_SAMPLE if name not in content]:
            raise CheckpointError(f"{path}: parts of it are missing or damaged ({', '.join(damaged)}); use another one")
        return content
    if _is_weights(content) and any(key.endswith("time_embed.0.weight") for key in content):
        return _published(path, content)
    raise CheckpointError(f"{path}: not a checkpoint of this program or of the published code")


def check_complete(state, path):
    """CheckpointError: the checkpoint lacks what a run wants that goes on from it; to sample from it, it may do."""
    if state["flags"] is not None and (missing := [name for name in TO_GO_ON if name not in state]):
        raise CheckpointError(f"{path}: a run cannot go on from it, for it lacks {', '.join(missing)}; use another one")


def resolve(path):
    """`path`, or what the manifest beside it names where a blob store has no savedmodel.pt of its own."""
    folder, name = os.path.split(path)
    if name != NEWEST or not storage.is_remote(path) or bf.exists(path):
        return path
    entries = read_manifest(folder)
    return os.path.join(folder, entries[-1]["file"]) if entries else path


def read_manifest(folder):
    """The run's checkpoints [{step, file, sha256}], the newest last; none where there is no manifest, or a damaged one."""
    try:
        entries = json.loads(storage.read_bytes(os.path.join(folder, MANIFEST)) or b"{}").get("checkpoints", [])
        return [e for e in entries if NUMBERED.fullmatch(e["file"]) and "sha256" in e and isinstance(e.get("step"), int)]
    except (ValueError, AttributeError, KeyError, TypeError):
        return []


def _load_tensors(path):
    if not bf.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint; train first, or correct the path")
    if bf.isdir(path):
        raise CheckpointError(f"{path}: a folder; name the checkpoint in it, e.g. {os.path.join(path, NEWEST)}")
    try:
        with bf.BlobFile(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: truncated, damaged or not a checkpoint ({reason}); use another one") from error


def _published(path, weights):
    folder, name = os.path.split(path)
    number = NUMBERED.search(name)
    state = {
        "step": int(number[1]) if number else 0,
        "samples": 0,
        "flags": None,
        "weights": _unet_weights(weights),
        "ema": {},
        "optimizer": None,
    }
    if number:
        for beside in sorted(bf.listdir(folder or ".")):
            if match := re.fullmatch(rf"emasavedmodel_([\d.]+)_{number[1]}\.pt", beside):
                average = _load_tensors(os.path.join(folder, beside))
                if not _is_weights(average):
                    raise CheckpointError(f"{os.path.join(folder, beside)}: not an average of the published code; move it away")
                state["ema"][match[1]] = _unet_weights(average)
        optimizer = os.path.join(folder, f"optsavedmodel{number[1]}.pt")
        if bf.exists(optimizer):
            state["optimizer"] = _load_tensors(optimizer)
    return state


def _unet_weights(weights):
    return {f"model.{key.removeprefix('module.')}": value for key, value in weights.items()}


def sha256(path):
    """The SHA-256 of a file or a blob, in hexadecimal digits."""
    digest = hashlib.sha256()
    with bf.BlobFile(path, "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path):
    """The first 16 hexadecimal digits of the file's SHA-256: which checkpoint made a sample."""
    return sha256(resolve(path))[:16]


# -- what its parts must be, so that no reader of a damaged one fails ---------------------------------------------------

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def _is_tensor(value):
    """Whether a value is a plain tensor in main memory."""
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and value.dtype in DTYPES


def _is_weights(value):
    return isinstance(value, dict) and all(isinstance(k, str) and _is_tensor(v) for k, v in value.items())


def _is_plain(value, depth=8):
    """Whether a value is JSON-like, and nested no deeper."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _is_count(value, least=0):
    return isinstance(value, int) and value >= least


def _is_scaler(value):
    """Whether a value is the state of a GradScaler; an empty one is that of a scaler that is not used."""
    if value == {}:
        return True
    names = ("scale", "growth_factor", "backoff_factor")
    return (
        _is_plain(value) and isinstance(value, dict) and all(isinstance(value.get(n), float) and 0 < value[n] < math.inf for n in names)
        and _is_count(value.get("growth_interval"), 1) and _is_count(value.get("_growth_tracker"))
    )  # fmt: skip


def _is_best(value):
    if value is None:
        return True
    right = _is_plain(value) and isinstance(value, dict) and isinstance(value.get("settings"), dict)
    return right and _is_count(value.get("step")) and isinstance(value.get("score"), float)


PARTS = {
    "step": _is_count,
    "samples": _is_count,
    "processes": lambda value: _is_count(value, 1),
    "threads": lambda value: value is None or _is_count(value, 1),
    "data": lambda value: value is None or isinstance(value, str),
    "flags": lambda value: isinstance(value, dict) and _is_plain(value),
    "weights": _is_weights,
    "ema": lambda value: isinstance(value, dict) and all(map(_is_weights, value.values())),
    "optimizer": lambda value: value is None or isinstance(value, dict),
    "schedule_sampler": _is_weights,
    "scaler": _is_scaler,
    "best": _is_best,
    "bad_steps": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
}
TO_SAMPLE = ("step", "flags", "weights", "ema")
TO_GO_ON = (*TO_SAMPLE, "samples", "optimizer", "schedule_sampler", "scaler")


# -- weights ----------------------------------------------------------------------------------------------------------


def load_weights(module, weights, source, prefix=""):
    """
    Copy `weights` into the parameters of `module` whose names start with `prefix`, all of them.

    CheckpointError: a name or a shape differs; the message names the first ones and the flag that is likely wrong.
    """
    wanted = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    shapes = [name for name, value in wanted.items() if name in weights and weights[name].shape != value.shape]
    missing = [name for name in wanted if name not in weights]
    surplus = [name for name in weights if name.startswith(prefix) and name not in wanted]
    if shapes or missing or surplus:
        told = [f"{name} is {_size(weights[name])}, not {_size(wanted[name])}" for name in shapes]
        told += [f"{name} is not in it" for name in missing] + [f"{name} is not in the model" for name in surplus]
        first = (shapes + missing + surplus)[0]
        hint = likely_flag(first, weights.get(first), wanted.get(first))
        raise CheckpointError(f"{source}: does not fit the model: {'; '.join(told[:3])}. Likely: {hint}")
    module.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def check_optimizer(state, parameters, source):
    """CheckpointError: an optimizer's stored state does not fit the first of the `parameters`, to which it belongs."""
    entries = state.get("state") if isinstance(state, dict) else None
    fits = isinstance(entries, dict) and all(
        isinstance(index, int) and 0 <= index < len(parameters) and isinstance(entry, dict)
        and all(_is_tensor(entry.get(name)) and entry[name].shape == parameters[index].shape for name in ("exp_avg", "exp_avg_sq"))
        and (isinstance(step := entry.get("step"), (int, float)) or (_is_tensor(step) and step.numel() == 1))
        for index, entry in entries.items()
    )
    if not fits:
        raise CheckpointError(f"{source}: its optimizer does not fit the model; move optsavedmodel*.pt away to start it afresh")


def check_schedule_sampler(state, wanted, source):
    """CheckpointError: a sampler's stored state {name: tensor} has not the names and shapes of the `wanted` one."""
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in wanted.items()}:
        raise CheckpointError(f"{source}: its history of losses is not that of --schedule_sampler; use another one")


def likely_flag(name, found, wanted):
    """The flag that most likely explains why the weight `name` is `found` in a checkpoint and `wanted` in the model."""
    both = found is not None and wanted is not None
    if "label_emb" in name:
        return "--class_cond"
    if name.endswith("input_blocks.0.0.weight") and both and found.shape[1] != wanted.shape[1]:
        return (
            f"--image_channels; the checkpoint takes {found.shape[1]} channels, image and mask together, "
            f"this model {wanted.shape[1]} (a model of 3 makes pictures, not masks)"
        )
    if "encoder.out.2." in name:
        return "--encoder_guesses or --feature_channels"
    if re.search(r"\bout\.2\.", name):
        return "--learn_sigma"
    if "emb_layers" in name and both and found.shape[0] in (2 * wanted.shape[0], wanted.shape[0] // 2):
        return "--use_scale_shift_norm"
    if "time_embed" in name or "input_blocks.0." in name:
        return "--num_channels"
    if re.search(r"qkv|proj_out|\.norm\.", name):
        return "--attention_resolutions"
    if name.startswith(("prior.", "posterior.")):
        return "--num_filters, --latent_dim or --no_convs_per_block"
    return "--channel_mult, --num_res_blocks or --resblock_updown"


def _size(tensor):
    return "x".join(map(str, tensor.shape))


# -- flags ------------------------------------------------------------------------------------------------------------
