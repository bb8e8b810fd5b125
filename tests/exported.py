"""Model folders for tests: of small segmenters of every method, and of what a run has trained."""

import numpy as np
import torch
from helpers import LEAST, nonzero, segmenter_of

from guided_diffusion import predict
from guided_diffusion.checkpoints.format import Checkpoint
from guided_diffusion.checkpoints.model_folder import Model, write_model
from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.methods import registry
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.sampling.samplers import SamplerConfig

METHODS = {
    "cimd": {},
    "implicit-ensemble": {},
    "shared-encoder": {
        "method": "implicit-ensemble",
        "architecture": "shared-encoder",
        "prediction": "x0",
        "learn_sigma": False,
        "encoder_guesses": 2,
        "denoiser_mult": "1",
        "feature_channels": 32,
    },
    "prob-unet": {},
    "ssn": {},
    "mc-dropout": {"dropout": 0.3},
    "unet": {},
}


def flags_of(method, **more):
    """All model flags {name: JSON-like value} of a small segmenter of a METHODS entry."""
    return configs_from_flags(
        {**LEAST, **({} if "method" in METHODS[method] else {"method": method}), **METHODS[method], **more},
        DataConfig,
        *MODEL_CONFIGS,
        SamplerConfig,
    ).flags()


def save_checkpoint(path, method="cimd", **more):
    """Write a checkpoint with random weights, and other random averaged ones; returns its path as a string."""
    flags = flags_of(method, **more)
    torch.manual_seed(0)
    weights, averaged = (nonzero(segmenter_of(flags)).state_dict() for _ in range(2))
    checkpoint = Checkpoint(
        flags={**flags, "data_dir": "/home/somebody/patients", "lr": 0.1},
        step=3,
        samples=12,
        data="0123456789abcdef",
        weights=weights,
        ema={"0.99": averaged},
        random={"seed": 5},
    )
    torch.save(checkpoint.content(), path)
    return str(path)


def write_folder(folder, **more):
    """A model folder without card and picture, of a small segmenter; returns its path as a string."""
    flags = flags_of("cimd", **more)
    torch.manual_seed(0)
    weights = nonzero(segmenter_of(flags)).state_dict()
    weights = {name: value for name, value in weights.items() if name.startswith("model.")}
    sampler = {name: flags.pop(name) for name in ("sampler", "steps", "spacing", "eta", "clip_denoised", "tta")}
    checkpoint = Checkpoint(flags=flags, weights=weights, exported="ema", step=3, samples=12, data="0123", reading=2)
    folder.mkdir()
    write_model(str(folder), Model(checkpoint, sampler, "float32", "abcd"))
    return str(folder)


def draw(path, sampling=None, **flags):
    """Three soft samples [3, 8, 8] that the model at `path` draws for a fixed image.

    sampling  flags of the sampler; None: three network calls, for a method that has a chain
    """
    model = predict.load(str(path), "cpu", **flags)
    if sampling is None:
        sampling = {"steps": 3} if registry.METHODS[model.flags["method"]].has_chain else {}
    return model.sample(np.random.default_rng(0).random((8, 8), dtype=np.float32), 3, **sampling).samples
