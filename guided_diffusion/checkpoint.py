"""
Checkpoints that describe themselves, are written atomically, and are safe to load.

A checkpoint is a dict of plain tensors and JSON-like values, which torch.load(weights_only=True) opens:

    format, version      what this file is
    step, samples        optimizer steps done, and masks drawn from the data over all processes
    flags                every flag of the run, by name
    weights              the segmenter: model.*, prior.*, posterior.*
    ema                  {rate: weights}, averaged
    optimizer, schedule_sampler, scaler
    random               the seed; each step's randomness follows from it and the place in the data
    best                 {settings, step, score} of the best validation so far; None: there was none

Bare state dicts of the published code, and of the implicit-ensembles code, are read too.
"""

import hashlib
import os
import re

import blobfile as bf
import torch

FORMAT, VERSION = "ambiguous-segmentation-diffusion", 1
NEWEST, BEST = "savedmodel.pt", "bestmodel.pt"
NUMBERED = re.compile(r"savedmodel(\d+)\.pt$")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign, or at odds with the flags; the message names it and the remedy."""


# -- files ------------------------------------------------------------------------------------------------------------


def write_atomically(path, write):
    """
    Call write(file) on a new file beside `path` and put it in the place of `path` when it is whole and on the disk.

    OSError: it cannot be written (the disk is full, say); the message names `path`, which stays as it was.
    """
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.writing")  # the same each time, so that a killed process leaves one at most
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        if os.path.exists(aside):
            os.unlink(aside)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def save(folder, state):
    """Write `state` as savedmodelNNNNNN.pt, and as savedmodel.pt in place of the one before. Returns the first's path."""
    path = os.path.join(folder, f"savedmodel{state['step']:06d}.pt")
    write_atomically(path, lambda file: torch.save(state, file))
    _link(path, os.path.join(folder, NEWEST))
    return path


def save_best(folder, state):
    """Write `state` as bestmodel.pt, in place of the one before."""
    write_atomically(os.path.join(folder, BEST), lambda file: torch.save(state, file))


def _link(path, name):
    """Make `name` a second name of the file `path`, in place of what it named; a copy where links cannot be had."""
    aside = f"{name}.new"
    if os.path.exists(aside):
        os.unlink(aside)
    try:
        os.link(path, aside)
        os.replace(aside, name)
    except OSError:
        with open(path, "rb") as whole:
            write_atomically(name, lambda file: file.write(whole.read()))


def load(path):
    """
    The checkpoint at `path` (a file or a blob), on the CPU, as a dict of the keys above.

    A bare state dict of published code comes as {"step", "samples", "flags": None, "weights", "ema", "optimizer"},
    with the average and the optimizer that lie beside it. CheckpointError: missing, truncated, unsafe or foreign.
    """
    content = _load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content["version"] != VERSION:
            raise CheckpointError(f"{path}: written by another version of this program (format {content['version']})")
        return content
    if isinstance(content, dict) and all(isinstance(key, str) for key in content) and any(
        key.endswith("time_embed.0.weight") for key in content
    ):
        return _published(path, content)
    raise CheckpointError(f"{path}: not a checkpoint of this program or of the published code")


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
                state["ema"][match[1]] = _unet_weights(_load_tensors(os.path.join(folder, beside)))
        optimizer = os.path.join(folder, f"optsavedmodel{number[1]}.pt")
        if bf.exists(optimizer):
            state["optimizer"] = _load_tensors(optimizer)
    return state


def _unet_weights(weights):
    return {f"model.{key.removeprefix('module.')}": value for key, value in weights.items()}


def find_newest(folder):
    """
    The newest whole checkpoint of a run's folder, and its path; (None, None) where there is none yet.

    Damaged ones are passed over for older ones, each with a line in `skipped`, the third thing returned.
    CheckpointError: there are some, but not one is whole.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    numbered = sorted((name for name in names if NUMBERED.match(name)), key=lambda name: -int(NUMBERED.match(name)[1]))
    candidates = numbered or [name for name in names if name == NEWEST]
    skipped = []
    for name in candidates:
        path = os.path.join(folder, name)
        try:
            return load(path), path, skipped
        except CheckpointError as error:
            skipped.append(str(error))
    if skipped:
        raise CheckpointError(f"{skipped[0]}; no checkpoint in {folder} is whole: use another --log_dir")
    return None, None, []


def fingerprint(path):
    """The first 16 hexadecimal digits of the file's SHA-256: which checkpoint made a sample."""
    digest = hashlib.sha256()
    with bf.BlobFile(path, "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()[:16]


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
        index < len(parameters) and "exp_avg" in entry and entry["exp_avg"].shape == parameters[index].shape
        for index, entry in entries.items()
    )
    if not fits:
        raise CheckpointError(f"{source}: its optimizer does not fit the model; move optsavedmodel*.pt away to start it afresh")


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


def differences(stored, given, free=()):
    """["--name stored-value, not given-value"] for each flag of `given` that the checkpoint's flags contradict."""
    return [
        f"--{name} {stored[name]}, not {value}"
        for name, value in given.items()
        if name not in free and name in stored and stored[name] != value
    ]
