"""The methods by name: the segmenter of each, the flags that it reads, its presets. A method is entered here, once."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Literal, NamedTuple

from torch import nn

from ..distribution import EncoderConfig
from ..gaussian_diffusion import DiffusionConfig
from ..sampling.samplers import SamplerConfig
from ..unet import UNetConfig
from .baselines.deterministic import DeterministicUNet, MonteCarloDropout
from .baselines.prob_unet import ProbabilisticUNet
from .baselines.ssn import StochasticSegmentationNetwork
from .cimd import SegmenterConfig, build_diffusion
from .shared_encoder import ArchitectureConfig


@dataclass(frozen=True)
class Method:
    """What --method names."""

    build: Callable[["ModelConfigs"], nn.Module]  # gives a Segmenter of sampling/protocol.py
    reads: frozenset[str]  # names of its flags, of the model and of sampling; others are refused
    presets: dict[str, dict[str, object]]  # {name: {flag: value}}
    has_chain: bool  # whether a mask is drawn along a chain of timesteps


def names_of(*classes):
    """Names of the flags of config classes."""
    return frozenset(f.name for cls in classes for f in fields(cls))


SAMPLING = names_of(SamplerConfig) | {"use_ddim", "fast"}
DIFFUSION = names_of(UNetConfig, DiffusionConfig, SegmenterConfig, ArchitectureConfig) | SAMPLING
OF_ENCODERS = names_of(EncoderConfig) | {"train_encoders", "kl_weight", "ambiguity_input"}


def baseline(cls, own, preset):
    """A method without a chain, with flags of its own and one preset of its own name."""

    def build(configs):
        return cls(configs.unet, configs.encoder, configs.method)

    return Method(build, frozenset(own) | {"image_size", "image_channels"}, preset, has_chain=False)


README = {  # the paper's
    "image_size": 128, "num_channels": 128, "class_cond": False, "num_res_blocks": 2, "num_heads": 1,
    "learn_sigma": True, "use_scale_shift_norm": False, "attention_resolutions": (16,),
    "diffusion_steps": 1000, "noise_schedule": "linear", "rescale_learned_sigmas": False,
    "rescale_timesteps": False, "lr": 1e-4, "batch_size": 20,
}  # fmt: skip
DEMO = {  # learns in minutes on two CPU cores
    "image_size": 32, "image_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1, 1),
    "num_heads": 1, "attention_resolutions": (8,), "num_filters": (8, 16, 24), "predict_xstart": True,
    "mask_low": -1.0, "noise_schedule": "cosine", "lr": 2e-3, "batch_size": 8, "lr_anneal_steps": 2400,
    "ema_rate": (0.999,), "save_interval": 800, "sampler": "ddim", "steps": 10,
}  # fmt: skip
TUNED = {  # what the field has learned since; docs/ablations.md measures it
    "architecture": "shared-encoder", "encoder_guesses": 8, "image_size": 128, "num_channels": 64, "num_res_blocks": 2,
    "attention_resolutions": (16,), "prediction": "x0", "mask_low": -1.0, "noise_schedule": "cosine", "mask_scale": 0.5,
    "raters_per_image": 4, "stable_target": True, "augment": "flip+rotate", "batch_size": 32, "lr": 1e-3,
    "lr_anneal_steps": 20_000, "lr_shape": "cosine", "lr_warmup_steps": 100, "ema_rate": (0.999,),
    "sampler": "ddim", "steps": 20,
}  # fmt: skip

METHODS = {
    "cimd": Method(
        partial(build_diffusion, with_encoders=True), DIFFUSION | OF_ENCODERS,
        {"cimd": README, "cimd-small": {**README, "num_channels": 64}, "demo": DEMO}, has_chain=True,
    ),
    "implicit-ensemble": Method(
        partial(build_diffusion, with_encoders=False), DIFFUSION - OF_ENCODERS,
        {"implicit-ensemble": README, "tuned": TUNED}, has_chain=True,
    ),
    "prob-unet": baseline(
        ProbabilisticUNet,
        {"num_filters", "no_convs_per_block", "latent_dim", "beta", "weight_norm", "combiner_layers"},
        {"prob-unet": {"image_size": 128, "lr": 1e-4, "batch_size": 5}},
    ),
    "ssn": baseline(
        StochasticSegmentationNetwork,
        {"num_filters", "no_convs_per_block", "cov_rank", "mc_samples"},
        {"ssn": {"image_size": 128, "lr": 1e-4, "batch_size": 10}},
    ),
    "mc-dropout": baseline(
        MonteCarloDropout,
        {"num_filters", "no_convs_per_block", "dropout"},
        {"mc-dropout": {"image_size": 128, "dropout": 0.3, "lr": 1e-4, "batch_size": 10}},
    ),
    "unet": baseline(
        DeterministicUNet,
        {"num_filters", "no_convs_per_block", "dropout"},
        {"unet": {"image_size": 128, "lr": 1e-4, "batch_size": 10}},
    ),
}  # fmt: skip
PRESETS = {
    preset: {"method": name, **flags} for name, method in METHODS.items() for preset, flags in method.presets.items()
}


@dataclass(frozen=True)
class MethodConfig:
    method: Annotated[
        Literal[tuple(METHODS)], "the paper's, the same diffusion without encoders, or another segmenter"
    ] = "cimd"
    beta: Annotated[float, "prob-unet: weight of the KL beside the cross-entropy summed over a mask"] = 2.0
    weight_norm: Annotated[float, "prob-unet: weight of the L2 norms of encoders and combiner"] = 2e-6
    combiner_layers: Annotated[int, "prob-unet: 1x1 convolutions behind latent and features"] = 4
    cov_rank: Annotated[int, "ssn: rank of the covariance between pixels"] = 10
    mc_samples: Annotated[int, "ssn: logit maps drawn for each mask in training"] = 20


class ModelConfigs(NamedTuple):
    """Every config of a model, one object of each class of MODEL_CONFIGS."""

    method: MethodConfig
    unet: UNetConfig
    diffusion: DiffusionConfig
    segmenter: SegmenterConfig
    encoder: EncoderConfig
    architecture: ArchitectureConfig


MODEL_CONFIGS = (MethodConfig, UNetConfig, DiffusionConfig, SegmenterConfig, EncoderConfig, ArchitectureConfig)


def foreign_flags(method: str, architecture: str) -> frozenset[str]:
    """Names of the flags that mean nothing to a method, or to a diffusion of that architecture."""
    foreign = (names_of(*MODEL_CONFIGS) | SAMPLING) - METHODS[method].reads - {"method"}
    if METHODS[method].has_chain and architecture == "unet":
        foreign |= names_of(ArchitectureConfig) - {"architecture"} | {"guess_weight"}
    return foreign
