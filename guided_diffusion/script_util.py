"""Configs -> objects: the segmenter of the flags, new or from a checkpoint, and how to sample it. The scripts sit on this."""

from dataclasses import fields

from . import respace
from .baselines.baseline import MethodConfig
from .baselines.methods import BASELINES, DIFFUSIONS
from .checkpoints.load import load_checkpoint
from .checkpoints.weights import load_weights
from .data.case_reader import DataConfig
from .distribution import HE_NORMAL, AxisAlignedConvGaussian, EncoderConfig
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
from .sampling.samplers import FAST, SamplerConfig
from .segmentation import AmbiguousSegmenter, SegmenterConfig
from .shared_encoder import ArchitectureConfig, MaskMixture, SharedEncoderUNet
from .unet import UNetConfig, UNetModel

MODEL_CONFIGS = (MethodConfig, UNetConfig, DiffusionConfig, SegmenterConfig, EncoderConfig, ArchitectureConfig)


# -- what contradicts -------------------------------------------------------------------------------------------------


def check_flags(flags):
    """Refuse flags that contradict each other; what a part cannot be built with, it refuses itself."""
    if flags.get("predict_xstart") and (flags.get("prediction") or "x0") != "x0":
        raise ConfigError(f"--predict_xstart True and --prediction {flags['prediction']} contradict: give one of them")
    if flags.get("use_kl") and flags.get("loss_weighting", "uniform") != "uniform":
        raise ConfigError(f"--use_kl and --loss_weighting {flags['loss_weighting']} contradict: there is no squared error to weigh")
    if flags.get("use_kl") and flags.get("stable_target"):
        raise ConfigError("--use_kl and --stable_target contradict, for there is no squared error that has a target: give one of them, or --stable_target False")
    if flags.get("use_kl") and flags.get("rescale_learned_sigmas"):
        raise ConfigError("--use_kl and --rescale_learned_sigmas contradict: with --use_kl there is no L_vb to weigh")
    if flags.get("rescale_learned_sigmas") and not flags.get("learn_sigma"):
        raise ConfigError("--rescale_learned_sigmas True wants --learn_sigma True: there is no learned variance to weigh")
    if (flags.get("steps") or 0) > (flags.get("diffusion_steps") or DiffusionConfig.diffusion_steps):
        raise ConfigError(f"--steps {flags['steps']} is more than --diffusion_steps; --iterations is the length of a training")
    if flags.get("use_fp16") and flags.get("amp", "none") != "none":
        raise ConfigError(f"--use_fp16 and --amp {flags['amp']} contradict: give one of them")
    if flags.get("shard") and flags.get("use_fp16"):
        raise ConfigError("--shard does not work with --use_fp16, whose loss scale each process would choose: use --amp bf16")
    if flags.get("num_head_channels") and flags.get("num_heads_upsample"):
        raise ConfigError("--num_head_channels and --num_heads_upsample contradict: give one of them")
    if flags.get("iterations") and flags.get("lr_anneal_steps") and flags["iterations"] > flags["lr_anneal_steps"]:
        raise ConfigError(
            f"--iterations {flags['iterations']} goes beyond --lr_anneal_steps {flags['lr_anneal_steps']}, "
            "where the learning rate is 0: raise that too"
        )


def foreign_flags(method, architecture):
    """Names of the flags that mean nothing to a method, or to a diffusion of that architecture."""
    if method in BASELINES:
        own = {"method", "image_size", "image_channels"} | BASELINES[method].reads
        return {"use_ddim", "fast"} | {f.name for cls in (*MODEL_CONFIGS, SamplerConfig) for f in fields(cls)} - own
    foreign = {f.name for f in fields(MethodConfig)} - {"method"}
    if architecture == "unet":
        foreign |= {f.name for f in fields(ArchitectureConfig)} - {"architecture"} | {"guess_weight"}
    encoders = {f.name for f in fields(EncoderConfig)} | {"train_encoders", "kl_weight", "ambiguity_input"}
    return foreign | encoders if method == "implicit-ensemble" else foreign


def refuse_foreign_flags(flags, given):
    """Refuse flags that were given and that mean nothing to the method and the architecture of the model's flags; both {name: value}."""
    method, architecture = flags.get("method", MethodConfig.method), flags.get("architecture", ArchitectureConfig.architecture)
    if named := [name for name in given if name in foreign_flags(method, architecture)]:
        known = named[0] not in foreign_flags(method, "shared-encoder")
        raise ConfigError(f"--{named[0]} means nothing to {f'--architecture {architecture}' if known else f'--method {method}'}: leave it away")


def refuse_classes(flags):
    """Refuse class conditioning, for which the data have no classes."""
    if flags.get("class_cond"):
        raise ConfigError("--class_cond True: the cases have no classes; use --class_cond False")


# -- configs -> objects -----------------------------------------------------------------------------------------------


def model_and_diffusion_defaults():
    """{flag: default} of the U-Net and the diffusion, as they would be given to create_model_and_diffusion."""
    return {
        f.name: show_value(f.default) if isinstance(f.default, tuple) else "" if f.name == "channel_mult"
        else -1 if f.default is None else f.default
        for cls in (UNetConfig, DiffusionConfig) for f in fields(cls)
    }  # fmt: skip


def create_model_and_diffusion(**flags):
    """
    (model, diffusion, prior, posterior) from flags of the U-Net, the diffusion and the encoders.

    Values may be typed or as on the command line ("16,8", "", -1). ConfigError: an unknown flag, or flags that cannot
    be built; the message names the flag.
    """
    flags = parse_flags(flags, UNetConfig, DiffusionConfig, EncoderConfig)
    unet, diffusion_config, encoder = configs_from_flags(flags, UNetConfig, DiffusionConfig, EncoderConfig)
    diffusion = respace.create_gaussian_diffusion(diffusion_config)
    return UNetModel(unet, diffusion.out_channels), diffusion, *create_encoders(encoder)


def create_encoders(config):
    """(prior, posterior) of an EncoderConfig, each on one image channel and a mask."""
    more = (config.num_filters, config.no_convs_per_block, config.latent_dim, HE_NORMAL)
    return [AxisAlignedConvGaussian(1, *more, posterior=is_posterior) for is_posterior in (False, True)]


def create_segmenter(flags):
    """
    The segmenter of --method from the flags {name: value} of MODEL_CONFIGS: an AmbiguousSegmenter, or a Baseline. Other
    flags are passed over.
    """
    method, unet, diffusion_config, config, encoder, architecture = configs_from_flags(flags, *MODEL_CONFIGS)
    if method.method in BASELINES:
        return BASELINES[method.method](unet, encoder, method)
    diffusion = respace.create_gaussian_diffusion(diffusion_config)
    if architecture.architecture == "shared-encoder":
        if architecture.encoder_guesses > 1 and diffusion_config.predicts != "x0":
            raise ConfigError(
                f"--encoder_guesses {architecture.encoder_guesses} are masks, so the network has to predict one: "
                f"give --prediction x0, or --encoder_guesses 1 with {diffusion_config.predicts}"
            )
        if config.guess_weight and architecture.encoder_guesses < 2:
            raise ConfigError(f"--guess_weight {config.guess_weight} is of several guesses: give --encoder_guesses 2 or more, or 0 for the weight")
        mixture = MaskMixture(diffusion_config, config.mask_low)
        model = SharedEncoderUNet(unet, architecture, diffusion.out_channels, mixture)
    else:
        model = UNetModel(unet, diffusion.out_channels)
    encoders = (None, None) if method.method == "implicit-ensemble" else create_encoders(encoder)
    return AmbiguousSegmenter(model, diffusion, *encoders, config)


# Model flags that may differ between training and sampling: they change neither the weights nor what they mean
SAMPLING_FLAGS = {"timestep_respacing", "use_checkpoint", "use_fp16", "dropout", "stable_target", "guess_weight", "label_threshold", "merge_labels"}


def load_segmenter(path, flags, weights="ema"):
    """
    (segmenter in evaluation mode, every flag of its data and model, {name: value} of the sampler that it was stored with)
    from the checkpoint at `path`.

    flags    those that were given; a checkpoint of the published code has none of its own, and takes the defaults
    weights  "ema" for the averaged ones, where there are any, or "raw"
    ConfigError, CheckpointError: flags that contradict the checkpoint, or weights that do not fit.
    """
    state = load_checkpoint(path)
    stored, flags = state["flags"] or {}, parse_flags(flags, DataConfig, *MODEL_CONFIGS)
    free = SAMPLING_FLAGS - {"dropout"} if stored.get("method") == "mc-dropout" else SAMPLING_FLAGS  # there it makes the samples
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
    load_weights(segmenter, chosen, path, "model." if flags["method"] in DIFFUSIONS else "")
    return segmenter.eval(), flags, pick_flags(stored, SamplerConfig)


def choose_sampler(given, preset, stored, diffusion_steps):
    """
    The SamplerConfig to sample with: what is given comes before the preset, that before what the checkpoint stores.

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
    return [f"{count} network calls for each mask; --fast takes {FAST['steps']}, {count / FAST['steps']:.0f} times fewer (docs/sampling.md)"]
