"""Ensembles of masks for many cases: drawn in batches across cases, each case written as soon as it is whole."""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from . import checkpoint, visualize
from .lidcloader import DataError
from .nn import ConfigError, seeded_generator
from .postprocess import binarise


@dataclass(frozen=True)
class SampleConfig:
    data_dir: Annotated[str, "folder of cases to segment"] = ""
    model_path: Annotated[str, "checkpoint to sample from"] = ""
    out_dir: Annotated[str, "where the masks go"] = "results/samples"
    num_ensemble: Annotated[int, "masks for each case"] = 5
    num_samples: Annotated[int | None, "cases to segment, in the order of their names; -1: all"] = None
    batch_size: Annotated[int, "masks in flight"] = 8
    use_ddim: Annotated[bool, "DDIM instead of ancestral sampling"] = False
    eta: Annotated[float, "noise of DDIM, from 0 (none) to 1"] = 0.0
    clip_denoised: Annotated[bool, "clip every predicted mask to [-1, 1]"] = True
    weights: Annotated[Literal["ema", "raw"], "averaged weights, or those of the last step"] = "ema"
    threshold: Annotated[float, "a pixel above it belongs to the mask"] = 0.5
    median_blur: Annotated[int, "side of the median filter on the masks, pixels, odd; 1: none"] = 1
    seed: Annotated[int, "of the noise; a mask depends on seed, case and number alone"] = 0
    overwrite: Annotated[bool, "draw cases again that are there already"] = False

    @property
    def sampler(self):
        return "ddim" if self.use_ddim else "ddpm"


def check_sample_config(config):
    """Refuse, by the flag's name, what cannot be sampled with."""
    for name in ("num_ensemble", "batch_size", "num_samples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: at least 1 is needed")
    if not 0 <= config.eta <= 1:
        raise ConfigError(f"--eta {config.eta}: a number from 0 to 1 is needed")
    if config.eta and not config.use_ddim:
        raise ConfigError(f"--eta {config.eta} is DDIM's: give --use_ddim True too")
    if config.median_blur < 1 or config.median_blur % 2 == 0:
        raise ConfigError(f"--median_blur {config.median_blur}: an odd number of pixels is needed")
    if not 0 < config.threshold < 1:
        raise ConfigError(f"--threshold {config.threshold}: a number between 0 and 1 is needed")


def identity(config, segmenter, flags, checkpoint_hash):
    """
    What decides every case's files, as plain values; with a case's own `image_hash`, equal ones mean equal masks.

    flags  the flags of data and model that the segmenter was built with
    """
    return {
        "seed": config.seed, "num_ensemble": config.num_ensemble, "sampler": config.sampler, "eta": config.eta,
        "steps": segmenter.diffusion.num_timesteps, "clip_denoised": config.clip_denoised, "weights": config.weights,
        "threshold": config.threshold, "median_blur": config.median_blur, "checkpoint": checkpoint_hash,
        "flags": json.dumps(flags, sort_keys=True),
    }  # fmt: skip


def image_hash(case):
    """The first 16 hexadecimal digits of the SHA-256 of a case's image as the network sees it, repeated channels once."""
    return hashlib.sha256(torch.unique_consecutive(case.image, dim=0).numpy().tobytes()).hexdigest()[:16]


@torch.inference_mode()
def draw_ensembles(segmenter, dataset, indices, config, device, on_mask=lambda count: None):
    """
    Yield (case, samples [M, H, W] float32) for each case number of `indices`, in order.

    Batches run across cases. A sample is soft, on the scale on which masks are 0 and 1.
    on_mask  called with the number of masks finished, after each batch
    """
    jobs = [(index, member) for index in indices for member in range(config.num_ensemble)]
    case, members = None, []
    for start in range(0, len(jobs), config.batch_size):
        batch = jobs[start : start + config.batch_size]
        cases = {index: dataset[index] for index, _ in batch}
        image = torch.stack([cases[index].image for index, _ in batch]).to(device)
        generators = [seeded_generator(config.seed, "mask", cases[index].id, member) for index, member in batch]
        samples = segmenter.sample_masks(image, generators, config.sampler, config.eta, config.clip_denoised)
        on_mask(len(batch))

        for (index, _), sample in zip(batch, samples.cpu().numpy()):
            case, members = cases[index], members + [sample[0]]
            if len(members) == config.num_ensemble:
                yield case, np.stack(members)
                members = []


def write_case(out_dir, case, samples, made_by):
    """
    Write a case's masks, sheet and raw samples into `out_dir`; the raw samples last, for they say that all is there.

    samples  [M, H, W] float32
    made_by  what `identity` gave
    """
    masks = binarise(samples, made_by["threshold"], made_by["median_blur"])
    old = re.compile(re.escape(case.id) + r"_(samples\.npz|output\d+\.png)")
    for name in os.listdir(out_dir):
        if old.fullmatch(name):
            os.unlink(os.path.join(out_dir, name))
    for k, mask in enumerate(masks):
        _write_picture(os.path.join(out_dir, f"{case.id}_output{k}.png"), visualize.to_grey(mask))
    page = visualize.sheet(case.image[0].numpy(), case.raters.numpy() > 0.5, masks)
    _write_picture(os.path.join(out_dir, f"{case.id}_sheet.png"), page)
    raw = samples_path(out_dir, case.id)
    told = {**made_by, "image": image_hash(case)}
    checkpoint.write_atomically(raw, lambda file: np.savez_compressed(file, samples=samples, **told))


def _write_picture(path, picture):
    checkpoint.write_atomically(path, lambda file: picture.save(file, format="PNG"))


def samples_path(out_dir, case_id):
    """The file of a case's raw samples."""
    return os.path.join(out_dir, f"{case_id}_samples.npz")


def read_case(path):
    """(samples [M, H, W] float32, what made them) of a file that write_case wrote. DataError: damaged or foreign."""
    try:
        with np.load(path, allow_pickle=False) as file:
            made_by = {name: file[name].item() for name in file.files if name != "samples"}
            samples = file["samples"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of samples, or damaged ({error}); draw it again with --overwrite") from error
    if missing := {"threshold", "median_blur", "image", "flags"} - set(made_by):
        raise DataError(f"{path}: not written by this program, for it lacks {', '.join(sorted(missing))}; remove it")
    return samples, made_by


def spread(made_by):
    """What made a case, with each of its flags as an entry of its own."""
    return {**json.loads(made_by["flags"]), **{name: value for name, value in made_by.items() if name != "flags"}}


def unfinished(dataset, indices, out_dir, made_by, overwrite):
    """
    Those case numbers of `indices` that are still to be drawn.

    ConfigError: a case is there already, made otherwise, and `overwrite` is not set.
    """
    left = []
    for index in indices:
        path = samples_path(out_dir, dataset.folders[index][0])
        if overwrite or not os.path.exists(path):
            left.append(index)
            continue
        _, before = read_case(path)
        made_by = {**made_by, "image": image_hash(dataset[index])}
        if unlike := checkpoint.differences(spread(before), spread(made_by)):
            raise ConfigError(f"{path} was made with {', '.join(unlike)}: give another --out_dir, or --overwrite True")
    return left
