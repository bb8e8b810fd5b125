"""The methods by name: the segmenter of each, its parts, its presets. A method is entered here, once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from ..data.config import DataConfig, classes_of
from ..distribution import EncoderConfig
from ..flags.configs import Configs
from ..flags.fields import Flag, config, flag_fields
from ..flags.retired import RetiredFlags
from ..gaussian_diffusion import DiffusionConfig
from ..sampling.config import SampleConfig
from ..sampling.protocol import Segmenter
from ..sampling.samplers import SamplerConfig
from ..unet import UNetConfig
from .baselines.deterministic import DeterministicUNet, MonteCarloDropout
from .baselines.prob_unet import ProbabilisticUNet
from .baselines.ssn import StochasticSegmentationNetwork
from .cimd import SegmenterConfig, build_diffusion
from .shared_encoder import ArchitectureConfig


@dataclass(frozen=True)
class Method:
    """An entry of --method."""

    build: Callable[[Configs], Segmenter]
    parts: frozenset[str]  # groups of flags that the method reads, besides flags without a group; others are refused
    presets: dict[str, dict[str, Any]]  # {name: {flag: value}}
    has_chain: bool  # whether masks are sampled along a chain of timesteps
    draws_with: frozenset[str] = frozenset()  # flags that other methods may change in sampling but that affect samples


DIFFUSION = frozenset({"diffusion", "dropout", "sampler", "shared-encoder"})


def build_prob_unet(configs: Configs) -> Segmenter:
    """Build the ProbabilisticUNet of the configs."""
    beta, layers = configs[MethodConfig].beta, configs[RetiredFlags].combiner_layers
    return ProbabilisticUNet(configs[UNetConfig], configs[EncoderConfig], beta, layers, classes_of(configs))


def build_ssn(configs: Configs) -> Segmenter:
    """Build the StochasticSegmentationNetwork of the configs."""
    rank = configs[MethodConfig].cov_rank
    return StochasticSegmentationNetwork(configs[UNetConfig], configs[EncoderConfig], rank, classes_of(configs))


def build_unet(configs: Configs, cls: type[DeterministicUNet]) -> Segmenter:
    """Build the DeterministicUNet, or its subclass `cls`, of the configs."""
    return cls(configs[UNetConfig], configs[EncoderConfig], classes_of(configs))


README = {  # the flags in the paper's README
    "image_size": 128, "num_channels": 128, "class_cond": False, "num_res_blocks": 2, "num_heads": 1,
    "learn_sigma": True, "use_scale_shift_norm": False, "attention_resolutions": (16,),
    "diffusion_steps": 1000, "noise_schedule": "linear", "rescale_learned_sigmas": False,
    "rescale_timesteps": False, "lr": 1e-4, "batch_size": 20,
}  # fmt: skip
DEMO = {  # trains in minutes on two CPU cores
    "image_size": 32, "image_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1, 1),
    "num_heads": 1, "attention_resolutions": (8,), "num_filters": (8, 16, 24), "predict_xstart": True,
    "mask_low": -1.0, "noise_schedule": "cosine", "lr": 2e-3, "batch_size": 8, "lr_anneal_steps": 2400,
    "ema_rate": (0.999,), "save_interval": 800, "sampler": "ddim", "steps": 10,
}  # fmt: skip
TUNED = {  # improvements published since; docs/ablations.md measures them
    "architecture": "shared-encoder", "encoder_guesses": 8, "image_size": 128, "image_channels": "auto",
    "num_channels": 64, "num_res_blocks": 2, "attention_resolutions": (16,), "prediction": "x0", "mask_low": -1.0,
    "noise_schedule": "cosine", "mask_scale": 0.5,
    "raters_per_image": 4, "stable_target": True, "augment": "flip+rotate", "batch_size": 32, "lr": 1e-3,
    "lr_anneal_steps": 20_000, "lr_shape": "cosine", "lr_warmup_steps": 100, "ema_rate": (0.999,),
    "sampler": "ddim", "steps": 20,
}  # fmt: skip

METHODS = {
    "cimd": Method(
        partial(build_diffusion, with_encoders=True), DIFFUSION | {"encoders", "features", "latent"},
        {"cimd": README, "cimd-small": {**README, "num_channels": 64}, "demo": DEMO}, has_chain=True,
    ),
    "implicit-ensemble": Method(
        partial(build_diffusion, with_encoders=False), DIFFUSION,
        {"implicit-ensemble": README, "tuned": TUNED}, has_chain=True,
    ),
    "prob-unet": Method(
        build_prob_unet, frozenset({"features", "latent", "prob-unet"}),
        {"prob-unet": {"image_size": 128, "lr": 1e-4, "batch_size": 5}}, has_chain=False,
    ),
    "ssn": Method(
        build_ssn, frozenset({"features", "ssn"}),
        {"ssn": {"image_size": 128, "lr": 1e-4, "batch_size": 10}}, has_chain=False,
    ),
    "mc-dropout": Method(
        partial(build_unet, cls=MonteCarloDropout), frozenset({"features", "dropout"}),
        {"mc-dropout": {"image_size": 128, "dropout": 0.3, "lr": 1e-4, "batch_size": 10}}, has_chain=False,
        draws_with=frozenset({"dropout"}),
    ),
    "unet": Method(
        partial(build_unet, cls=DeterministicUNet), frozenset({"features", "dropout"}),
        {"unet": {"image_size": 128, "lr": 1e-4, "batch_size": 10}}, has_chain=False,
    ),
}  # fmt: skip
PRESETS = {
    preset: {"method": name, **flags} for name, method in METHODS.items() for preset, flags in method.presets.items()
}


@config()
class MethodConfig:
    """The method, and flags of methods without their own config."""

    method: Annotated[
        str, Flag("cimd (the paper), implicit-ensemble (no encoders), or a baseline", choices=tuple(METHODS))
    ] = "cimd"
    beta: Annotated[
        float,
        Flag("prob-unet: weight of the KL; the cross-entropy is a sum over a mask", group="prob-unet", at_least=0),
    ] = 2.0
    cov_rank: Annotated[int, Flag("ssn: rank of the pixel covariance", group="ssn", at_least=1)] = 10


MODEL_CONFIGS = (
    MethodConfig, UNetConfig, DiffusionConfig, SegmenterConfig, EncoderConfig, ArchitectureConfig, RetiredFlags,
)  # fmt: skip


def foreign_flags(method: str, architecture: str) -> frozenset[str]:
    """Names of the flags that have no effect with this method and architecture."""
    parts = METHODS[method].parts - ({"shared-encoder"} if architecture == "unet" else set())
    known = flag_fields(*MODEL_CONFIGS, SamplerConfig, SampleConfig)
    return frozenset(name for name, field in known.items() if field.flag.group not in {"", *parts})


def free_in_sampling(method: str) -> frozenset[str]:
    """Names of the flags whose values may differ between training and sampling."""
    fields = flag_fields(DataConfig, *MODEL_CONFIGS).items()
    return frozenset(name for name, field in fields if field.flag.sampling == "free") - METHODS[method].draws_with
