"""Configs -> objects: the segmenter of the flags, new or from a checkpoint, and how to sample it. The scripts sit on this."""

from dataclasses import fields

from . import respace
from .checkpoints.load import load_checkpoint
from .checkpoints.weights import load_weights
from .data.case_reader import DataConfig
from .distribution import EncoderConfig, create_encoders
from .errors import CheckpointError, ConfigError
from .flags.fields import (
    configs_from_flags,
    default_flags,
    differences,
    flags_from_configs,
    json_like,
    parse_flags,
    pick_flags,
    show_value,
)
from .gaussian_diffusion import DiffusionConfig
from .methods.registry import METHODS, MODEL_CONFIGS, MethodConfig, ModelConfigs, foreign_flags
from .methods.shared_encoder import ArchitectureConfig
from .sampling.samplers import FAST, SamplerConfig
from .unet import UNetConfig, UNetModel

# -- what contradicts -------------------------------------------------------------------------------------------------


def check_flags(flags):
    """Refuse flags that contradict each other; what a part cannot be built with, it refuses itself."""
    if flags.get("predict_xstart") and (flags.get("prediction") or "x0") != "x0":
        raise ConfigError(f"--predict_xstart True and --prediction {flags['prediction']} contradict: give one of them")
    if flags.get("use_kl") and flags.get("loss_weighting", "uniform") != "uniform":
        raise ConfigError(
            f"--use_kl and --loss_weighting {flags['loss_weighting']} contradict: there is no squared error to weigh"
        )
    if flags.get("use_kl") and flags.get("stable_target"):
        raise ConfigError(
            "--use_kl and --stable_target contradict, for there is no squared error that has a target: give one of them, or --stable_target False"
        )
    if flags.get("use_kl") and flags.get("rescale_learned_sigmas"):
        raise ConfigError("--use_kl and --rescale_learned_sigmas contradict: with --use_kl there is no L_vb to weigh")
    if flags.get("rescale_learned_sigmas") and not flags.get("learn_sigma"):
        raise ConfigError(
            "--rescale_learned_sigmas True wants --learn_sigma True: there is no learned variance to weigh"
        )
    if (flags.get("steps") or 0) > (flags.get("diffusion_steps") or DiffusionConfig.diffusion_steps):
        raise ConfigError(
            f"--steps {flags['steps']} is more than --diffusion_steps; --iterations is the length of a training"
        )
    if flags.get("use_fp16") and flags.get("amp", "none") != "none":
        raise ConfigError(f"--use_fp16 and --amp {flags['amp']} contradict: give one of them")
    if flags.get("shard") and flags.get("use_fp16"):
        raise ConfigError(
            "--shard does not work with --use_fp16, whose loss scale each process would choose: use --amp bf16"
        )
    if flags.get("num_head_channels") and flags.get("num_heads_upsample"):
        raise ConfigError("--num_head_channels and --num_heads_upsample contradict: give one of them")
    if flags.get("iterations") and flags.get("lr_anneal_steps") and flags["iterations"] > flags["lr_anneal_steps"]:
        raise ConfigError(
            f"--iterations {flags['iterations']} goes beyond --lr_anneal_steps {flags['lr_anneal_steps']}, "
            "where the learning rate is 0: raise that too"
        )


def refuse_foreign_flags(flags, given):
    """Refuse flags that were given and that mean nothing to the method and the architecture of the model's flags; both {name: value}."""
    method, architecture = (
        flags.get("method", MethodConfig.method),
        flags.get("architecture", ArchitectureConfig.architecture),
    )
    if named := [name for name in given if name in foreign_flags(method, architecture)]:
        known = named[0] not in foreign_flags(method, "shared-encoder")
        raise ConfigError(
            f"--{named[0]} means nothing to {f'--architecture {architecture}' if known else f'--method {method}'}: leave it away"
        )


def refuse_classes(flags):
    """Refuse class conditioning, for which the data have no classes."""
    if flags.get("class_cond"):
        raise ConfigError("--class_cond True: the cases have no classes; use --class_cond False")


# -- configs -> objects -----------------------------------------------------------------------------------------------


def model_and_diffusion_defaults():
    """{flag: default} of the U-Net and the diffusion, as they would be given to create_model_and_diffusion."""
    return {
        f.name: show_value(f.default)
        if isinstance(f.default, tuple)
        else ""
        if f.name == "channel_mult"
        else -1
        if f.default is None
        else f.default
        for cls in (UNetConfig, DiffusionConfig)
        for f in fields(cls)
    }


def create_model_and_diffusion(**flags):
    """(model, diffusion, prior, posterior) from flags of the U-Net, the diffusion and the encoders.

    Values may be typed or as on the command line ("16,8", "", -1). ConfigError: an unknown flag, or flags that cannot
    be built; the message names the flag.
    """
    flags = parse_flags(flags, UNetConfig, DiffusionConfig, EncoderConfig)
    unet, diffusion_config, encoder = configs_from_flags(flags, UNetConfig, DiffusionConfig, EncoderConfig)
    diffusion = respace.create_gaussian_diffusion(diffusion_config)
    return UNetModel(unet, diffusion.out_channels), diffusion, *create_encoders(encoder)


def create_segmenter(flags):
    """The segmenter of --method from the flags {name: value} of MODEL_CONFIGS, a Segmenter. Other flags are passed over."""
    configs = ModelConfigs(*configs_from_flags(flags, *MODEL_CONFIGS))
    return METHODS[configs.method.method].build(configs)


# Model flags that may differ between training and sampling: they change neither the weights nor what they mean
SAMPLING_FLAGS = {
    "timestep_respacing",
    "use_checkpoint",
    "use_fp16",
    "dropout",
    "stable_target",
    "guess_weight",
    "label_threshold",
    "merge_labels",
}


def load_segmenter(path, flags, weights="ema"):
    """(segmenter in evaluation mode, every flag of its data and model, {name: value} of the sampler that it was stored with)
    from the checkpoint at `path`.

    flags    those that were given; a checkpoint of the published code has none of its own, and takes the defaults
    weights  "ema" for the averaged ones, where there are any, or "raw"
    ConfigError, CheckpointError: flags that contradict the checkpoint, or weights that do not fit.
    """
    state = load_checkpoint(path)
    stored, flags = state["flags"] or {}, parse_flags(flags, DataConfig, *MODEL_CONFIGS)
    free = (
        SAMPLING_FLAGS - {"dropout"} if stored.get("method") == "mc-dropout" else SAMPLING_FLAGS
    )  # there it makes the samples
    unnamed = default_flags(DataConfig, *MODEL_CONFIGS) if stored else {}
    if unlike := differences(stored, json_like(flags), free, unnamed):
        raise CheckpointError(f"{path} was trained with {', '.join(unlike)}: leave the flag or the preset away")
    flags = {**pick_flags(stored, DataConfig, *MODEL_CONFIGS), **flags}
    flags = flags_from_configs(*configs_from_flags(flags, DataConfig, *MODEL_CONFIGS))
    check_flags(flags)
    refuse_classes(flags)
    segmenter = create_segmenter(flags)
    averages = list(state["ema"].values())
    chosen = averages[0] if averages and weights == "ema" else state["weights"]
    load_weights(segmenter, chosen, path, "model." if METHODS[flags["method"]].has_chain else "")
    return segmenter.eval(), flags, pick_flags(stored, SamplerConfig)


def choose_sampler(given, preset, stored, diffusion_steps):
    """The SamplerConfig to sample with: what is given comes before the preset, that before what the checkpoint stores.

    given            {name: value} of the flags given, among them --use_ddim, --fast and --timestep_respacing
    preset, stored   {name: value}
    diffusion_steps  T of the process
    ConfigError: flags given that contradict each other.
    """
    own = pick_flags(given, SamplerConfig)
    if given.get("fast"):
        if clash := sorted(own.keys() & FAST.keys() | given.keys() & {"use_ddim", "timestep_respacing"}):
            raise ConfigError(f"--fast and --{clash[0]} contradict: give one of them")
        base = pick_flags({**stored, **preset}, SamplerConfig)
        return SamplerConfig(**{**base, **FAST, "steps": min(FAST["steps"], diffusion_steps), **own})
    if given.get("use_ddim") is not None:
        meant = "ddim" if given["use_ddim"] else "ddpm"
        if given["use_ddim"] and own.get("sampler", meant) != meant:
            raise ConfigError(f"--use_ddim True and --sampler {own['sampler']} contradict: give one of them")
        own = {"sampler": meant, **own}

    base = pick_flags({**stored, **preset}, SamplerConfig)
    if given.get("timestep_respacing"):
        if own.get("steps"):
            raise ConfigError("--steps and --timestep_respacing contradict: give one of them")
        base["steps"] = None
    if own.get("sampler", base.get("sampler")) != base.get("sampler"):
        base.pop("eta", None)  # it was the other sampler's
    config = SamplerConfig(**{**base, **own})
    if own.get("spacing") and config.steps is None:
        raise ConfigError(f"--spacing {config.spacing} wants --steps: without, every timestep is taken")
    return config


def advice(segmenter, sampler):
    """Lines to tell before sampling: what --fast would save, where masks are drawn as published."""
    count = segmenter.num_timesteps
    if sampler.sampler != "ddpm" or count <= FAST["steps"]:
        return []
    return [
        f"{count} network calls for each mask; --fast takes {FAST['steps']}, {count / FAST['steps']:.0f} times fewer (docs/sampling.md)"
    ]
