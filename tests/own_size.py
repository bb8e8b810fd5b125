"""Masks on the way to the network and back: a stand-in that draws the raters' masks; how far an outline may move."""

import math

import numpy as np
import torch
from helpers import LEAST, call_script, nonzero, segmenter_of
from scipy import ndimage

from guided_diffusion.checkpoints.format import FORMAT, VERSION
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.files.read import read_file
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling.samplers import SamplerConfig


def write_model(path, **flags):
    """A checkpoint of the smallest network, untrained."""
    torch.manual_seed(0)
    flags = configs_from_flags({**LEAST, **flags}, DataConfig, SamplerConfig, *MODEL_CONFIGS).flags()
    weights = nonzero(segmenter_of(flags)).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": FORMAT, "version": VERSION, "step": 0, "flags": flags, "weights": weights, "ema": {}}, path)
    return path


def draws_raters(monkeypatch):
    """Replace the network: the k-th sample of a case is the k-th rater's mask at network size."""

    def masks(segmenter, cases, batch, seed, sampler, on_step, encoded):
        drawn = torch.stack([cases[index].raters[k % len(cases[index].raters)] for index, k in batch])
        for k in range(segmenter.num_timesteps if on_step else 0):
            on_step(k, drawn[:, None])
        return drawn.numpy()

    monkeypatch.setattr("guided_diffusion.sampling.draw.draw_batch", masks)


def draws_nothing(monkeypatch):
    """Make any drawing fail."""

    def fail(*arguments, **named):
        raise AssertionError("masks were drawn")

    monkeypatch.setattr("guided_diffusion.sampling.draw.draw_batch", fail)


def sample(data, model, out, *more, masks=2):
    """Run the sampling command; returns its output."""
    arguments = (f"--data_dir={data}", f"--model_path={model}", f"--out_dir={out}", f"--num_ensemble={masks}")
    done = call_script("segmentation_sample", *arguments, "--steps=2", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plane_in(path):
    """The values of a written mask or map, [H, W]."""
    return read_file(str(path)).planes[0]


def blobs(height, width, seed, smooth=0.12):
    """A mask of a few smooth parts."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    soft = ndimage.gaussian_filter(noise, (smooth * height, smooth * width), mode="nearest")
    return soft > np.quantile(soft, 0.7)


def assert_within_a_pixel(written, mask, network, canvas=None):
    """Where a written mask differs from the given one, an outline of the given one is at most a network pixel away.

    network  (H, W) of the network
    canvas   (H, W) of the image with its padding; None: without padding
    """
    assert written.shape == mask.shape
    canvas = canvas or mask.shape
    around = [(c - m) // 2 for c, m in zip(canvas, mask.shape, strict=True)]
    large = np.pad(mask, [(a, c - m - a) for a, c, m in zip(around, canvas, mask.shape, strict=True)])
    # A pixel sees others of which a part is within one pixel of the network from its centre
    reach = [math.ceil(c / n - 0.5) for c, n in zip(canvas, network, strict=True)]
    window = [2 * r + 1 for r in reach]
    varies = ndimage.maximum_filter(large, window, mode="nearest") & ~ndimage.minimum_filter(
        large, window, mode="nearest"
    )
    middle = tuple(slice(a, a + m) for a, m in zip(around, mask.shape, strict=True))
    wrong = (written != mask) & ~varies[middle]
    assert not wrong.any(), f"{wrong.sum()} pixels of {mask.shape} on {network}, padded to {canvas}"
