"""Builds objects from configs: a new segmenter or one from a checkpoint, and the sampler to use with it."""

from dataclasses import dataclass
from typing import Any

from . import respace
from .checkpoints.format import Checkpoint
from .checkpoints.load import load_checkpoint, refuse_newer_reading
from .checkpoints.weights import check_weights, load_weights
from .data.case_reader import READING_RULES
from .data.config import DataConfig
from .data.stores.case_cache import SetFacts
from .distribution import AxisAlignedConvGaussian, EncoderConfig, create_encoders
from .errors import CheckpointError, ConfigError, DataError
from .flags.classes import Classes, parse_classes
from .flags.configs import Configs, Flags, configs_from_flags, differences, json_like, override, parse_flags, pick_flags
from .flags.fields import flag_fields
from .flags.presets import FAST
from .flags.rules import check_rules
from .gaussian_diffusion import DiffusionConfig, GaussianDiffusion
from .lidcloader import LIDCDataset
from .methods.registry import METHODS, MODEL_CONFIGS, MethodConfig, foreign_flags, free_in_sampling
from .methods.shared_encoder import ArchitectureConfig
from .nn import without_memory
from .sampling.config import SampleConfig
from .sampling.protocol import Segmenter
from .sampling.samplers import SamplerConfig
from .unet import UNetConfig, UNetModel

# -- configs -> objects -----------------------------------------------------------------------------------------------


def model_and_diffusion_defaults() -> dict[str, Any]:
    """{flag: default} of the U-Net and the diffusion, in the form that create_model_and_diffusion accepts.

    As in the published code, lists are strings ("16,8"), and None is "" for channel_mult and -1 for other flags.
    """
    defaults: dict[str, Any] = {}
    for name, field in flag_fields(UNetConfig, DiffusionConfig).items():
        if field.default is None:
            defaults[name] = "" if name == "channel_mult" else -1
        else:
            defaults[name] = field.show(field.default) if isinstance(field.default, tuple) else field.default
    return defaults


def create_model_and_diffusion(
    **flags: Any,
) -> tuple[UNetModel, GaussianDiffusion, AxisAlignedConvGaussian, AxisAlignedConvGaussian]:
    """Build (model, diffusion, prior, posterior) from flags of the U-Net, the diffusion and the encoders.

    Values are typed, or strings as on the command line ("16,8", "", -1). ConfigError: a flag is unknown, or the
    configuration is invalid; the message names the flag.
    """
    classes = (UNetConfig, DiffusionConfig, EncoderConfig)
    configs = configs_from_flags(parse_flags(flags, *classes), *classes)
    diffusion = respace.create_gaussian_diffusion(configs[DiffusionConfig])
    prior, posterior = create_encoders(configs[EncoderConfig])
    return UNetModel(configs[UNetConfig], diffusion.out_channels), diffusion, prior, posterior


def create_segmenter(configs: Configs) -> Segmenter:
    """Build the segmenter of --method. `configs` has one config of each class in MODEL_CONFIGS.

    ConfigError: the configuration is invalid.
    """
    check_rules(configs)
    return METHODS[configs[MethodConfig].method].build(configs)


def check_model(configs: Configs) -> None:
    """ConfigError: the segmenter cannot be built, whatever the cases are. Takes no memory for weights."""
    numbers = {"image_channels": configs[EncoderConfig].encoder_channels, "encoder_channels": 1}
    with without_memory():
        create_segmenter(settle_channels(configs, numbers))


def open_channels(configs: Configs) -> set[str]:
    """The flags of channels that a run takes from its checkpoint or, a new run, from its cases."""
    names = {"image_channels"} if configs[UNetConfig].image_channels == "auto" else set()
    # For every method, because check_planes and the Python API read it too
    return names if "encoder_channels" in {**configs.preset, **configs.given} else {*names, "encoder_channels"}


def settle_channels(configs: Configs, numbers: Flags | int) -> Configs:
    """The configs with a number for each of their open_channels.

    numbers  {flag: value} of a checkpoint, or the number of planes of the cases
    """
    names = open_channels(configs)
    if isinstance(numbers, int):
        return configs.replace(**dict.fromkeys(names, numbers))
    return configs.replace(**{name: numbers[name] for name in names})


def check_planes(configs: Configs, dataset: LIDCDataset) -> None:
    """DataError: each case has a single plane, and the network takes several that are not copies of one."""
    seen = configs[EncoderConfig].encoder_channels
    if seen > 1 and dataset.num_planes == 1:
        raise DataError(
            f"{dataset.directory}: each case has a single plane, but --encoder_channels {seen} is for images in colour "
            "or of several modalities: use such cases"
        )


def check_classes(of: str, classes: Classes, dataset: LIDCDataset) -> None:
    """DataError: the labels of the cases have other classes than `of`, a model or training cases."""
    if not classes.same_masks(dataset.classes):
        one = "" if classes.several else ", or choose one with --structure"
        raise DataError(
            f"{dataset.directory}: its labels have {dataset.classes.kind}, but {of} has {classes.kind}: use cases of "
            f"these classes{one}"
        )


def refuse_foreign_flags(given: Flags, model: Configs) -> None:
    """ConfigError: a given flag has no effect with the model's method and architecture."""
    method, architecture = model[MethodConfig].method, model[ArchitectureConfig].architecture
    for name in given:
        if name in foreign_flags(method, architecture):
            known = name not in foreign_flags(method, "shared-encoder")
            part = f"--architecture {architecture}" if known else f"--method {method}"
            raise ConfigError(f"--{name} has no effect with {part}; remove it")


# -- from a checkpoint ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedModel:
    """A segmenter in evaluation mode, with the settings stored in its checkpoint."""

    segmenter: Segmenter
    configs: Configs  # of data and model
    sampler: dict[str, Any]  # {flag: JSON-like value}, the stored sampler settings
    reading: int = READING_RULES  # from reading_rules_of


def load_segmenter(path: str, given: Flags, weights: str = "ema") -> LoadedModel:
    """Load the model of the checkpoint or model folder at `path`; checkpoints.location.locate lists what it may be.

    given    flags {name: value} of data and model. Checkpoints of the published code store no flags: a flag that is not
             given has its default
    weights  "ema": the averaged weights if the checkpoint has any; "raw": the weights of the last step, which a model
             folder may lack
    ConfigError, CheckpointError: the flags contradict the checkpoint, or the weights do not fit the model.
    """
    classes = (DataConfig, *MODEL_CONFIGS)
    checkpoint = load_checkpoint(path, to_sample=True)
    refuse_newer_reading(checkpoint, path, READING_RULES)
    if weights == "raw" and checkpoint.exported == "ema":
        raise CheckpointError(f"{path}: the model folder has only averaged weights; remove --weights raw")
    stored, given = checkpoint.flags, parse_flags(given, *classes)
    try:
        configs_from_flags(stored, *classes, SamplerConfig)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its stored flags are invalid: {error}") from error
    free = free_in_sampling(stored.get("method", MethodConfig.method))
    if parse_classes(stored.get("classes", ())).same_masks(parse_classes(given.get("classes", ()))):
        free |= {"classes"}  # the cases may have other levels
    if stored and (different := differences(stored, json_like(given), *classes, free=free)):
        raise CheckpointError(f"{path} was trained with {', '.join(different)}: remove the flag or the preset")
    configs = configs_from_flags(override(stored, given, *classes), *classes)
    averages = list(checkpoint.ema.values())
    chosen = averages[0] if averages and weights == "ema" else checkpoint.weights
    prefix = sampled_weights(configs)
    with without_memory():  # first, as the flags may be anybody's
        check_weights(create_segmenter(configs), chosen, path, prefix)
    segmenter = create_segmenter(configs)
    load_weights(segmenter, chosen, path, prefix)
    return LoadedModel(segmenter.eval(), configs, pick_flags(stored, SamplerConfig), reading_rules_of(checkpoint))


def sampled_weights(configs: Configs) -> str:
    """The prefix of the weights that sampling uses: along a chain, the encoders are not needed."""
    return "model." if METHODS[configs[MethodConfig].method].has_chain else ""


def reading_rules_of(checkpoint: Checkpoint) -> int:
    """The version of the reading rules of a checkpoint's cases; today's for published code, which had no version."""
    return READING_RULES if checkpoint.is_published else checkpoint.reading


def warnings_on_reading(trained_by: int, dataset: LIDCDataset | SetFacts) -> list[str]:
    """Lines to log: the rules by which the cases of a checkpoint were read would have read these cases differently.

    trained_by  from reading_rules_of
    """
    if trained_by >= dataset.reading or not dataset.departures:
        return []
    return [
        f"warning: the checkpoint was trained on cases read by version {trained_by} of the reading rules, which reads "
        f"these cases differently ({'; '.join(dataset.departures)})"
    ]


def choose_sampler(flags: Configs, model: Configs, stored: Flags) -> SamplerConfig:
    """Choose the sampler settings. Given flags override the preset, which overrides the checkpoint.

    --fast replaces a sampler that needs more network calls than it does, and no other.

    flags   SampleConfig and SamplerConfig, with the given flags and those of the preset
    model   the model's configs
    stored  {name: value}, the sampler settings in the checkpoint
    ConfigError: flags contradict each other.
    """
    given = flags.given
    own = pick_flags(given, SamplerConfig)
    base = pick_flags({**stored, **flags.preset}, SamplerConfig)
    if given.get("use_ddim") is not None:
        own = {"sampler": "ddim" if given["use_ddim"] else "ddpm", **own}
    if flags[SampleConfig].fast and calls_of(base, model[DiffusionConfig]) > FAST["steps"]:
        base |= FAST
    elif given.get("timestep_respacing"):
        base["steps"] = None
    if own.get("sampler", base.get("sampler")) != base.get("sampler"):
        base.pop("eta", None)  # belongs to the other sampler
    (sampler,) = configs_from_flags({**base, **own}, SamplerConfig)
    check_rules(Configs([*model, flags[SampleConfig], sampler], given))
    return sampler


def calls_of(sampler: Flags, diffusion: DiffusionConfig) -> int:
    """Network calls per mask of sampler settings {flag: value}; test-time augmentation multiplies them."""
    kept = respace.space_timesteps(diffusion.diffusion_steps, diffusion.timestep_respacing)
    return sampler.get("steps") or len(kept)


def advice(segmenter: Segmenter, sampler: SamplerConfig) -> list[str]:
    """Lines to log before sampling: suggests --fast for long DDPM chains."""
    count, few = segmenter.num_timesteps, FAST["steps"]
    if sampler.sampler != "ddpm" or count <= few:
        return []
    return [f"{count} network calls per mask; --fast needs {few}, {count / few:.0f} times fewer (docs/sampling.md)"]
