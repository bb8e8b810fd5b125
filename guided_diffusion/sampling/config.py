"""The flags of sampling, and what is stored with a sample of them."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal

from ..errors import ConfigError, DataError
from ..masks.postprocess import PostprocessConfig


@dataclass(frozen=True)
class SampleConfig:
    data_dir: Annotated[str, "folder of cases to segment"] = ""
    model_path: Annotated[str, "checkpoint to sample from"] = ""
    out_dir: Annotated[str, "where the masks go"] = "results/samples"
    num_ensemble: Annotated[int, "masks for each case"] = 5
    num_samples: Annotated[int | None, "cases to segment, in the order of their names; -1: all"] = None
    batch_size: Annotated[
        int | Literal["auto"], "masks in flight, over all cases; auto: as many as fit into memory"
    ] = 8
    use_ddim: Annotated[bool | None, "True: --sampler ddim, False: --sampler ddpm; -1: what --sampler says"] = None
    fast: Annotated[bool, "few network calls at the quality of many: docs/sampling.md"] = False
    weights: Annotated[Literal["ema", "raw"], "averaged weights, or those of the last step"] = "ema"
    consensus: Annotated[
        Literal["none", "mean", "majority", "staple"],
        "write ID_consensus.png, one mask for the ensemble (mean: in grey)",
    ] = "none"
    seed: Annotated[int, "of the noise; a mask depends on seed, case and number alone"] = 0
    overwrite: Annotated[bool, "draw cases again that are there already"] = False
    movie: Annotated[bool, "write ID_movie.gif, the chain of each case's first mask"] = False
    evaluate: Annotated[bool, "score the samples against the raters when all are drawn"] = False


def check_sample_config(config):
    """Refuse, by the flag's name, what cannot be sampled with."""
    for name in ("num_ensemble", "batch_size", "num_samples"):
        value = getattr(config, name)
        if value not in (None, "auto") and value < 1:
            raise ConfigError(f"--{name} {value}: at least 1 is needed")


def identity(config, sampler, num_timesteps, amp, flags, checkpoint_hash):
    """What decides every case's samples, as plain values; with a case's own `image_hash`, equal ones mean equal samples.

    sampler        SamplerConfig, of which num_timesteps are taken; None: a method without a chain
    amp            ComputeConfig's precision
    flags          every flag of data and model that the segmenter was built with
    """
    return {
        **(asdict(sampler) if sampler else {"sampler": "none"}),
        "steps": num_timesteps,
        "seed": config.seed,
        "num_ensemble": config.num_ensemble,
        "weights": config.weights,
        "amp": amp,
        "checkpoint": checkpoint_hash,
        "flags": json.dumps(flags, sort_keys=True),
    }


def finish(config, postprocess):
    """What is made of the samples afterwards, as plain values: a `SampleConfig`'s and a `PostprocessConfig`'s part."""
    return {**asdict(postprocess), "consensus": config.consensus}


def postprocess_of(made_by):
    """The `PostprocessConfig` that a case was written with. DataError: what is stored cannot be one."""
    try:
        return PostprocessConfig(**{f.name: made_by[f.name] for f in fields(PostprocessConfig) if f.name in made_by})
    except (ValueError, TypeError) as error:
        raise DataError(f"samples stored with flags that cannot be ({error}); draw them again") from error
