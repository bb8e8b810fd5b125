"""The flags of sampling, and what is stored with a sample of them."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..errors import ConfigError, DataError
from ..flags.configs import Flags, configs_from_flags
from ..flags.fields import Flag, config
from ..masks.postprocess import PostprocessConfig

if TYPE_CHECKING:  # it imports torch
    from .samplers import SamplerConfig


@config()
class SampleConfig:
    """What is drawn, and where it goes."""

    data_dir: Annotated[str, Flag("folder of cases to segment", required=True)] = ""
    model_path: Annotated[str, Flag("checkpoint to sample from", required=True)] = ""
    out_dir: Annotated[str, Flag("folder for the masks", local=True)] = "results/samples"
    num_ensemble: Annotated[int, Flag("masks for each case", at_least=1)] = 5
    num_samples: Annotated[
        int | None, Flag("cases to segment, in the order of their names", none="all", at_least=1)
    ] = None
    batch_size: Annotated[
        int | Literal["auto"], Flag("masks in flight, over all cases; auto: as many as fit into memory", at_least=1)
    ] = 8
    use_ddim: Annotated[
        bool | None,
        Flag("True: --sampler ddim, False: --sampler ddpm; auto: what --sampler says", none="auto", group="sampler"),
    ] = None
    fast: Annotated[bool, Flag("few network calls at the quality of many: docs/sampling.md", group="sampler")] = False
    weights: Annotated[Literal["ema", "raw"], Flag("averaged weights, or those of the last step")] = "ema"
    consensus: Annotated[
        Literal["none", "mean", "majority", "staple"],
        Flag("write ID_consensus.png, one mask for the ensemble (mean: in grey)"),
    ] = "none"
    seed: Annotated[int, Flag("seed of the noise; a mask depends on seed, case and number alone")] = 0
    overwrite: Annotated[bool, Flag("draw finished cases again")] = False
    movie: Annotated[bool, Flag("write ID_movie.gif, the chain of each case's first mask")] = False
    evaluate: Annotated[bool, Flag("score the samples against the raters when all are drawn")] = False


def identity(
    config: SampleConfig,
    sampler: "SamplerConfig | None",
    num_timesteps: int,
    amp: str,
    flags: Flags,
    checkpoint_hash: str,
) -> dict[str, Any]:
    """What decides every case's samples, as plain values; with the case's `image_hash`, equal ones mean equal samples.

    sampler        SamplerConfig, of which num_timesteps are taken; None: a method without a chain
    amp            ComputeConfig's precision
    flags          every flag of data and model that the segmenter was built with
    """
    return {
        **(asdict(sampler) if sampler is not None else {"sampler": "none"}),
        "steps": num_timesteps,
        "seed": config.seed,
        "num_ensemble": config.num_ensemble,
        "weights": config.weights,
        "amp": amp,
        "checkpoint": checkpoint_hash,
        "flags": json.dumps(flags, sort_keys=True),
    }


def finish(config: SampleConfig, postprocess: PostprocessConfig) -> dict[str, Any]:
    """What is made of the samples afterwards, as plain values: a `SampleConfig`'s and a `PostprocessConfig`'s part."""
    return {**asdict(postprocess), "consensus": config.consensus}


def postprocess_of(made_by: Flags) -> PostprocessConfig:
    """The `PostprocessConfig` that a case was written with. DataError: what is stored cannot be one."""
    try:
        return configs_from_flags(made_by, PostprocessConfig)[PostprocessConfig]
    except ConfigError as error:
        raise DataError(f"samples stored with flags that cannot be ({error}); draw them again") from error
