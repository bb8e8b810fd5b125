"""The flags of the command that drew samples, put together from what is stored with them."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import ConfigError
from ...flags.configs import configs_from_flags
from ...flags.fields import flag_fields
from ...flags.typed import typed_flags
from ...gaussian_diffusion import DiffusionConfig
from ...methods.registry import MODEL_CONFIGS, MethodConfig, foreign_flags
from ...methods.shared_encoder import ArchitectureConfig
from ...sampling.samplers import SamplerConfig
from ...script_util import calls_of
from ..sample import CONFIGS
from .stored import sort_flags

RESPACING = "timestep_respacing"  # of the model, but sampling may change it


class SamplingFlags(NamedTuple):
    """The flags of a command, as text."""

    command: str  # of the data, of sampling and of post-processing
    model: str  # those that the checkpoint stores too
    others: str  # not flags of this version
    rest: str  # stored entries that are not flags


def sampling_flags(stored: Mapping[str, Any], entries: Mapping[str, Any]) -> SamplingFlags:
    """The flags with which the command draws the same samples, whatever the sampler in the checkpoint is.

    stored   {name: JSON-like value} of the data and the model
    entries  {name: value} of what else is stored with the samples
    """
    known, of_model = flag_fields(*CONFIGS), flag_fields(*MODEL_CONFIGS)
    settings = {name: value for name, value in entries.items() if name in known}
    if settings.get("sampler") == "none":  # a method without a chain
        del settings["sampler"]
    current, others = sort_flags({**settings, **stored}, *CONFIGS)
    architecture = current.get("architecture", ArchitectureConfig.architecture)
    for name in foreign_flags(current.get("method", MethodConfig.method), architecture):
        current.pop(name, None)
    if current.get("sampler") == "ddpm":
        current.pop("eta", None)  # refused, as it has no effect
    in_command = {name for name in current if name not in of_model}
    if _is_respaced(current):
        in_command = {*in_command, RESPACING} - {"steps", "spacing"}
    own = {name: value for name, value in current.items() if name in in_command}
    model = {name: value for name, value in current.items() if name in of_model and name != RESPACING}
    given = {"data_dir": "DATA_DIR", "model_path": "CHECKPOINT", **own}
    rest = " ".join(f"{name}={value}" for name, value in entries.items() if name not in known)
    command = typed_flags(given, *CONFIGS, always=flag_fields(SamplerConfig))
    return SamplingFlags(command, typed_flags(model, *MODEL_CONFIGS), others, rest)


def _is_respaced(current: Mapping[str, Any]) -> bool:
    """Whether the chain had all timesteps that --timestep_respacing keeps, and not a number of --steps."""
    with contextlib.suppress(ConfigError):
        (diffusion,) = configs_from_flags(current, DiffusionConfig)
        return bool(current.get(RESPACING)) and current.get("steps") == calls_of({}, diffusion)
    return False
