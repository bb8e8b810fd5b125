"""The flags of sampling, and the settings stored with samples."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from ..data.case_reader import READING_RULES
from ..data.config import DataConfig
from ..errors import ConfigError, DataError
from ..flags.classes import Classes
from ..flags.configs import Flags, configs_from_flags
from ..flags.fields import Flag, config
from ..flags.retired import current_flags
from ..flags.sizes import as_size
from ..masks.postprocess import PostprocessConfig
from ..system.versions import written_by

if TYPE_CHECKING:  # it imports torch
    from .samplers import SamplerConfig

T = TypeVar("T")


@config()
class SampleConfig:
    """What to sample, and where to write it."""

    data_dir: Annotated[
        str, Flag("images to segment: a picture, a folder of pictures, or a folder of cases", short="i", required=True)
    ] = ""
    model_path: Annotated[str, Flag("checkpoint, model folder, shipped name, or hf://OWNER/NAME", required=True)] = ""
    out_dir: Annotated[str, Flag("output folder", short="o", local=True)] = "results/samples"
    num_ensemble: Annotated[int, Flag("masks per case", at_least=1)] = 5
    num_samples: Annotated[
        int | None, Flag("number of cases to segment, in order of their names", none="all", at_least=1)
    ] = None
    batch_size: Annotated[
        int | Literal["auto"], Flag("masks per batch, across cases; auto: as many as fit into memory", at_least=1)
    ] = 8
    use_ddim: Annotated[
        bool | None,
        Flag("True: --sampler ddim, False: --sampler ddpm; auto: use --sampler", none="auto", group="sampler"),
    ] = None
    fast: Annotated[
        bool, Flag("fewer network calls at about the same quality, see docs/sampling.md", group="sampler")
    ] = False
    weights: Annotated[Literal["ema", "raw"], Flag("averaged weights, or those of the last step")] = "ema"
    consensus: Annotated[
        Literal["none", "mean", "majority", "staple"],
        Flag("write ID_consensus, a consensus of the ensemble (mean: greyscale)"),
    ] = "none"
    save_probabilities: Annotated[
        bool,
        Flag(
            "write ID_probability, the mean of the masks at each pixel: 16-bit PNG, or NIfTI from 0 to 1; of several "
            "classes ID_prob1, ID_prob2, ..."
        ),
    ] = False
    seed: Annotated[int, Flag("random seed; a mask depends only on seed, case and index")] = 0
    overwrite: Annotated[bool, Flag("resample finished cases")] = False
    movie: Annotated[bool, Flag("write ID_movie.gif, the sampling chain of each case's first mask")] = False
    evaluate: Annotated[bool, Flag("score the samples against the raters at the end")] = False


def identity(
    config: SampleConfig,
    sampler: "SamplerConfig | None",
    num_timesteps: int,
    amp: str,
    flags: Flags,
    checkpoint_hash: str,
    *,
    reading: int = READING_RULES,
) -> dict[str, Any]:
    """All settings that determine a case's samples, as plain values.

    Equal settings and equal `image_hash` give equal samples, whatever `reading` is.

    sampler        its steps are replaced by num_timesteps; None: a method without a chain
    amp            ComputeConfig's precision
    flags          all flags of data and model that the segmenter was built with
    reading        version of the rules by which the cases were read
    """
    return {
        **(asdict(sampler) if sampler is not None else {"sampler": "none"}),
        "steps": num_timesteps,
        "seed": config.seed,
        "num_ensemble": config.num_ensemble,
        "weights": config.weights,
        "amp": amp,
        "checkpoint": checkpoint_hash,
        "reading": reading,
        "flags": json.dumps(flags, sort_keys=True),
    }


def drawn_with() -> str:
    """The entry `written_by` of the samples of a case: JSON of the versions that draw them, which decide nothing."""
    return json.dumps(written_by())


def finish(config: SampleConfig, postprocess: PostprocessConfig, classes: Classes = Classes()) -> dict[str, Any]:
    """The settings of postprocessing and of the files written, as plain values.

    ConfigError: they are for one class, and there are several.
    """
    if classes.several and config.consensus == "mean":
        raise ConfigError(
            "--consensus mean is for one class: use --save_probabilities True, which writes the mean of each class, or "
            "--consensus majority"
        )
    written = {"consensus": config.consensus, "save_probabilities": config.save_probabilities}
    return {**asdict(postprocess), **written}


def postprocess_of(made_by: Flags) -> PostprocessConfig:
    """The `PostprocessConfig` that a case was written with. DataError: the stored settings are invalid."""
    return _config_of(made_by, PostprocessConfig)


def data_config_of(made_by: Flags) -> DataConfig:
    """The `DataConfig` that a case was drawn with; the defaults for what is not stored.

    made_by  as stored with the samples, or flat as from store.spread, where given flags may replace stored ones
    DataError: the stored settings are invalid.
    """
    return _config_of(flags_of(made_by) if "flags" in made_by else made_by, DataConfig)


def network_size(made_by: Flags) -> tuple[int, int] | None:
    """(H, W) of the network that drew a case; None: not stored.

    made_by  flat, as from store.spread
    """
    size = made_by.get("image_size")
    return None if size is None else as_size(size)


def flags_of(made_by: Flags) -> dict[str, Any]:
    """The flags {name: JSON-like value} stored with samples, in the terms of this version.

    DataError: the entry `flags` is not from this program.
    """
    try:
        return current_flags(json.loads(made_by["flags"]))
    except (ValueError, TypeError) as error:
        raise DataError(f"samples with an entry `flags` of another program ({error}); rename that entry") from error


def _config_of(flags: Flags, cls: type[T]) -> T:
    try:
        return configs_from_flags(flags, cls)[cls]
    except ConfigError as error:
        raise DataError(
            f"samples with invalid stored flags ({error}); draw them again, or remove flags that replace stored ones"
        ) from error
