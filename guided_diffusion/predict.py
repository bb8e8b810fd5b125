"""Python API to sample ensembles.

ensemble = load("results/savedmodel.pt").sample(image, num_ensemble=16, steps=20)
ensemble.masks, ensemble.mean, ensemble.variance, ensemble.entropy
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from . import script_util
from .data.geometry import CaseArrays
from .distribution import EncoderConfig
from .errors import ConfigError, DataError
from .flags.configs import Configs, configs_from_flags, parse_flags
from .flags.fields import flag_fields
from .lidcloader import make_case
from .masks import postprocess
from .masks.postprocess import PostprocessConfig, binarise
from .sampling.config import SampleConfig
from .sampling.draw import draw_ensembles
from .sampling.samplers import SamplerConfig
from .script_util import LoadedModel
from .system.device import ComputeConfig, compile_model, prepare
from .unet import UNetConfig

Map = Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class Ensemble:
    """The masks of one image, and maps derived from them."""

    samples: Float[np.ndarray, "M H W"]  # before the threshold, on a scale where background is 0 and foreground 1
    masks: Bool[np.ndarray, "M H W"]

    @property
    def mean(self) -> Map:
        """Share of the masks that mark each pixel."""
        return postprocess.mean_mask(self.masks)

    @property
    def variance(self) -> Map:
        """Variance of the masks at each pixel, at most 0.25."""
        return postprocess.variance_map(self.masks)

    @property
    def entropy(self) -> Map:
        """Entropy of `mean` at each pixel, in bits."""
        return postprocess.entropy_map(self.masks)

    def consensus(self, kind: str = "majority") -> np.ndarray:
        """The consensus mask [H, W]: bool for "majority" and "staple", float32 for "mean"."""
        if kind not in postprocess.CONSENSUS:
            raise ConfigError(f"consensus {kind} is unknown: choose one of {', '.join(postprocess.CONSENSUS)}")
        return postprocess.CONSENSUS[kind](self.masks)


class Predictor:
    """A trained segmenter, ready to sample; `load` returns one."""

    def __init__(self, model: LoadedModel, compiled: bool = False) -> None:
        self.segmenter, self.configs, self.stored = model.segmenter, model.configs, model.sampler
        self.compiled = compiled
        self._compiled_size: int | None = None  # batch size that the network was compiled for, set by the first call

    @property
    def flags(self) -> dict[str, Any]:
        """{name: value}, the flags of data and model, JSON-like."""
        return self.configs.flags()

    def sample(
        self,
        image: Any,
        num_ensemble: int = 16,
        *,
        seed: int = 0,
        name: str = "image",
        batch_size: int = 8,
        **flags: Any,
    ) -> Ensemble:
        """Sample an `Ensemble` for one image.

        image         array or tensor in [0, 1] of the checkpoint's image_size: [H, W] or [C, H, W], or [H, W, 3] for a
                      network of three channels; a single plane is repeated to the network's channels, unless it was
                      trained on colour or on several modalities
        num_ensemble  number of masks
        seed, name    each mask depends only on these and its index; with the name of a case, the masks are those that
                      segmentation_sample.py draws for it
        batch_size    masks drawn at a time; with compile=True, the first call's batch size is used for all calls
        flags         of SamplerConfig (sampler, steps, spacing, eta, clip_denoised, tta) and of PostprocessConfig
                      (threshold, median_blur, ...), and fast=True
        ConfigError: a flag is unknown or invalid. DataError: the image does not fit.
        """
        configs = self._configs({"num_ensemble": num_ensemble, "seed": seed, "batch_size": batch_size}, flags)
        config = configs[SampleConfig]
        if self.compiled:
            self._compiled_size = size = self._compiled_size or batch_size
            config = replace(config, batch_size=size)
        sampler = script_util.choose_sampler(configs, self.configs, self.stored)
        arrays = CaseArrays(self._planes(image), np.zeros((0, 1, 1), dtype=bool))
        case = make_case(name, arrays, self.configs[UNetConfig].channels)
        ((_, samples),) = draw_ensembles(
            self.segmenter.spaced(sampler), [case], [0], config, sampler, even=self.compiled
        )
        return Ensemble(samples, binarise(samples, configs[PostprocessConfig]))

    def _configs(self, own: dict[str, Any], flags: dict[str, Any]) -> Configs:
        """The configs of a call of `sample`, where `flags` count as given."""
        if unknown := sorted(flags.keys() - flag_fields(SamplerConfig, PostprocessConfig).keys() - {"fast"}):
            raise ConfigError(f"{unknown[0]} is not a flag of sampling")
        if own["batch_size"] == "auto":
            raise ConfigError("batch_size auto is available on the command line only: pass a number")
        classes = (SampleConfig, SamplerConfig, PostprocessConfig)
        configs = configs_from_flags({**own, **flags}, *classes)
        configs.given = parse_flags(flags, *classes)
        script_util.refuse_foreign_flags(configs.given, self.configs)
        return configs

    def _planes(self, image: Any) -> np.ndarray:
        """The image as float32 [1 or C, H, W]. DataError: its shape or values do not fit the network."""
        planes = torch.as_tensor(image).detach().cpu().numpy().astype(np.float32)
        self._check_shape(planes.shape)
        if planes.ndim == 2:
            planes = planes[None]
        elif len(planes) not in (1, self.configs[UNetConfig].channels):
            planes = np.ascontiguousarray(np.moveaxis(planes, -1, 0))
        if not np.isfinite(planes).all() or planes.min() < 0 or planes.max() > 1:
            raise DataError("image with values outside [0, 1]; divide an 8-bit image by 255")
        return planes

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """DataError: the network does not take images of this shape."""
        size, channels = self.configs[UNetConfig].size, self.configs[UNetConfig].channels
        single = [size, (1, *size)]
        several = [(channels, *size), *([(*size, 3)] if channels == 3 else [])]
        encoded = self.configs[EncoderConfig].encoder_channels
        accepted = [*([] if encoded > 1 else single), *(several if channels > 1 else [])]
        if shape in accepted:
            return
        why = f"the network was trained on {encoded} planes, one is not repeated; " if shape in single else ""
        expected = " or ".join(str(list(known)) for known in accepted)
        raise DataError(f"image of shape {list(shape)}: {why}expected {expected}")


def load(
    path: str,
    device: torch.device | str | None = None,
    weights: str = "ema",
    amp: str = "none",
    compile: bool = False,
    **flags: Any,
) -> Predictor:
    """Load a `Predictor` from the checkpoint at `path`.

    device        device to sample on; default: a GPU if available
    weights       "ema" or "raw"
    amp, compile  see ComputeConfig
    flags         model flags; only checkpoints of the published code need them
    ConfigError, CheckpointError: see script_util.load_segmenter; ConfigError also for unknown `weights` or `amp`.
    """
    how = parse_flags({"weights": weights, "amp": amp, "compile": compile}, SampleConfig, ComputeConfig)
    model = script_util.load_segmenter(path, flags, how["weights"])
    compute = ComputeConfig(how["amp"], how["compile"])
    prepare(model.segmenter, compute, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if compute.compile:
        compile_model(model.segmenter)
    return Predictor(model, compute.compile)
