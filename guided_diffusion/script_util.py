"""Flags <-> typed configs, configs -> objects, presets. The scripts sit on this."""

import argparse
import contextlib
import difflib
import re
import sys
import types
import typing
from dataclasses import fields

import blobfile

from . import checkpoint, respace
from .baselines.baseline import MethodConfig
from .baselines.methods import BASELINES, DIFFUSIONS
from .case_reader import DataConfig
from .checkpoint import CheckpointError
from .distribution import HE_NORMAL, AxisAlignedConvGaussian, EncoderConfig
from .gaussian_diffusion import DiffusionConfig
from .image_files import DataError
from .nn import ConfigError
from .presets import FAST, PRESETS
from .sampling import SamplerConfig
from .segmentation import AmbiguousSegmenter, SegmenterConfig
from .shared_encoder import ArchitectureConfig, SharedEncoderUNet
from .train_config import TrainingError
from .unet import UNetConfig, UNetModel

MODEL_CONFIGS = (MethodConfig, UNetConfig, DiffusionConfig, SegmenterConfig, EncoderConfig, ArchitectureConfig)
CHAIN_CONFIGS = (DiffusionConfig, SegmenterConfig, ArchitectureConfig, SamplerConfig)  # of the diffusions alone

# Flags of the published code that mean nothing here, and why
RETIRED = {
    "ngpu": "the launcher says how many processes there are",
    "fp16_scale_growth": "the loss scale of --use_fp16 grows by itself",
}


# -- flags -> values --------------------------------------------------------------------------------------------------


def flag_types(cls):
    """{name: (type, help)} of a config class, whose fields are annotated as Annotated[type, help]."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: (hints[field.name].__origin__, hints[field.name].__metadata__[0]) for field in fields(cls)}


def parse_value(name, kind, value):
    """
    The value of --name as `kind`, from a string or from a value that has the type already.

    kind is bool, int, float, str, a Literal, tuple[int or float, ...] ("16,8"), one of these or None ("" or -1), or
    one of these or the word of a Literal. ConfigError: it cannot be read so.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind, other = typing.get_args(kind)
        if value in ((None, "", -1, "-1", "None") if other is types.NoneType else typing.get_args(other)):
            return None if other is types.NoneType else value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"--{name} {value} is unknown: choose one of {', '.join(args)}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        return tuple(parse_value(name, args[0], part) for part in parts if part != "")
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in known:
            raise ConfigError(f"--{name} {value}: True or False is wanted")
        return known[str(value).lower()]
    try:
        return kind(value)
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise ConfigError(f"--{name} {value}: {wanted} is wanted") from None


def parse_flags(values, *classes):
    """{name: value} with the types that the config classes say. ConfigError: a name that none of them has."""
    kinds = {name: kind for cls in classes for name, (kind, _) in flag_types(cls).items()}
    if unknown := [name for name in values if name not in kinds]:
        close = difflib.get_close_matches(unknown[0], kinds, n=1)
        raise ConfigError(f"--{unknown[0]} is no flag" + (f"; --{close[0]}?" if close else ""))
    return {name: parse_value(name, kinds[name], value) for name, value in values.items()}


def pick_flags(flags, *classes):
    """Those of the flags {name: value} that the config classes have."""
    known = {f.name for cls in classes for f in fields(cls)}
    return {name: value for name, value in flags.items() if name in known}


def configs_from_flags(flags, *classes):
    """One config object per class, from those flags {name: value} that are its; values as parse_flags takes them."""
    return [cls(**parse_flags(pick_flags(flags, cls), cls)) for cls in classes]


def flags_from_configs(*configs):
    """{name: value} of all configs, JSON-like."""
    return json_like({f.name: getattr(config, f.name) for config in configs for f in fields(config)})


def json_like(flags):
    """The flags with their tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}


# -- the command line -------------------------------------------------------------------------------------------------


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_command_line(classes, description, argv=None):
    """
    ({name: value} of the flags that were given, {name: value} of the preset), both typed.

    Retired flags cost a line on stderr; the launcher's --local_rank is taken in silence, for LOCAL_RANK says the same.
    """
    parser = FlagParser(
        description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--preset", choices=PRESETS, help="defaults to use in place of those below")
    for cls in classes:
        group = parser.add_argument_group(cls.__name__)
        for (name, (kind, text)), field in zip(flag_types(cls).items(), fields(cls)):
            bare = {"nargs": "?", "const": "True"} if kind in (bool, bool | None) else {}
            text = f"{text} [{show_value(field.default)}]".replace("%", "%%")
            group.add_argument(f"--{name}", help=text, metavar=name.upper(), **bare)
    for name in (*RETIRED, "local_rank", "local-rank"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)

    given, unknown = parser.parse_known_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    given = vars(given)
    preset = PRESETS[given.pop("preset")] if "preset" in given else {}
    given.pop("local_rank", None)
    for name in RETIRED.keys() & given.keys():
        print(f"--{name} {given.pop(name)} has no effect: {RETIRED[name]}", file=sys.stderr)
    if unknown and not unknown[0].startswith("--"):
        raise ConfigError(f"{unknown[0]} belongs to no flag; flags begin with --")
    if unknown:
        parse_flags({unknown[0][2:].split("=")[0]: ""}, *classes)
    return parse_flags(given, *classes), pick_flags(preset, *classes)


def join_negative_values(argv):
    """`--name -1000,400` as `--name=-1000,400`: argparse takes a list that begins with a minus for a flag."""
    joined = []
    for word in argv:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--\w+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def show_value(value):
    """A default as it would be typed."""
    if value is None:
        return "-1"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def one_line_errors(program):
    """What the user can mend ends the program with one line and status 2, an interrupt with one and 130; no traceback."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError, OSError, blobfile.Error) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingError as error:  # nothing in the command is wrong
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on from what is written", file=sys.stderr)
        sys.exit(130)


def check_flags(flags):
    """Refuse flags that contradict each other; what a part cannot be built with, it refuses itself."""
    if flags.get("predict_xstart") and (flags.get("prediction") or "x0") != "x0":
        raise ConfigError(f"--predict_xstart True and --prediction {flags['prediction']} contradict: give one of them")
    if flags.get("use_kl") and flags.get("loss_weighting", "uniform") != "uniform":
        raise ConfigError(f"--use_kl and --loss_weighting {flags['loss_weighting']} contradict: there is no squared error to weigh")
    if flags.get("use_kl") and flags.get("rescale_learned_sigmas"):
        raise ConfigError("--use_kl and --rescale_learned_sigmas contradict: with --use_kl there is no L_vb to weigh")
    if flags.get("rescale_learned_sigmas") and not flags.get("learn_sigma"):
        raise ConfigError("--rescale_learned_sigmas True wants --learn_sigma True: there is no learned variance to weigh")
    if (flags.get("steps") or 0) > (flags.get("diffusion_steps") or DiffusionConfig.diffusion_steps):
        raise ConfigError(f"--steps {flags['steps']} is more than --diffusion_steps; --iterations is the length of a training")
    if flags.get("use_fp16") and flags.get("amp") == "bf16":
        raise ConfigError("--use_fp16 and --amp bf16 contradict: give one of them")
    if flags.get("shard") and flags.get("use_fp16"):
        raise ConfigError("--shard does not work with --use_fp16, whose loss scale each process would choose: use --amp bf16")
    if flags.get("num_head_channels") and flags.get("num_heads_upsample"):
        raise ConfigError("--num_head_channels and --num_heads_upsample contradict: give one of them")
    if flags.get("iterations") and flags.get("lr_anneal_steps") and flags["iterations"] > flags["lr_anneal_steps"]:
        raise ConfigError(
            f"--iterations {flags['iterations']} goes beyond --lr_anneal_steps {flags['lr_anneal_steps']}, "
            "where the learning rate is 0: raise that too"
        )


def foreign_flags(method):
    """Names of the flags that mean nothing to a method."""
    if method in BASELINES:
        unread = {f.name for f in fields(UNetConfig)} - {"image_size", "image_channels", "dropout"}
        return unread | {"use_ddim", "fast"} | {f.name for cls in CHAIN_CONFIGS for f in fields(cls)}
    return {f.name for f in fields(MethodConfig)} - {"method"}


def refuse_foreign_flags(method, given):
    """Refuse flags that were given, {name: value}, and that mean nothing to the method."""
    foreign = foreign_flags(method)
    if named := [name for name in given if name in foreign]:
        raise ConfigError(f"--{named[0]} means nothing to --method {method}: leave it away")


def refuse_remote(name, path):
    """Refuse a blob store as a folder to write; checkpoints are read from one."""
    if "://" in path:
        raise ConfigError(f"--{name} {path}: results are written to local folders only; name one and copy it")


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
        model = SharedEncoderUNet(unet, architecture, diffusion.out_channels)
    else:
        model = UNetModel(unet, diffusion.out_channels)
    encoders = (None, None) if method.method == "implicit-ensemble" else create_encoders(encoder)
    return AmbiguousSegmenter(model, diffusion, *encoders, config)


# Model flags that may differ between training and sampling: they change neither the weights nor what they mean
SAMPLING_FLAGS = {"timestep_respacing", "use_checkpoint", "use_fp16", "dropout", "label_threshold", "merge_labels"}


def load_segmenter(path, flags, weights="ema"):
    """
    (segmenter in evaluation mode, every flag of its data and model, {name: value} of the sampler that it was stored with)
    from the checkpoint at `path`.

    flags    those that were given; a checkpoint of the published code has none of its own, and takes the defaults
    weights  "ema" for the averaged ones, where there are any, or "raw"
    ConfigError, CheckpointError: flags that contradict the checkpoint, or weights that do not fit.
    """
    state = checkpoint.load(path)
    stored, flags = state["flags"] or {}, parse_flags(flags, DataConfig, *MODEL_CONFIGS)
    if unlike := checkpoint.differences(stored, json_like(flags), SAMPLING_FLAGS):
        raise CheckpointError(f"{path} was trained with {', '.join(unlike)}: leave the flag or the preset away")
    flags = {**pick_flags(stored, DataConfig, *MODEL_CONFIGS), **flags}
    flags = flags_from_configs(*configs_from_flags(flags, DataConfig, *MODEL_CONFIGS))
    check_flags(flags)
    refuse_classes(flags)
    segmenter = create_segmenter(flags)
    averages = list(state["ema"].values())
    chosen = averages[0] if averages and weights == "ema" else state["weights"]
    checkpoint.load_weights(segmenter, chosen, path, "model." if flags["method"] in DIFFUSIONS else "")
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
        if clash := sorted((own.keys() | given.keys() & {"use_ddim", "timestep_respacing"}) - {"clip_denoised"}):
            raise ConfigError(f"--fast and --{clash[0]} contradict: give one of them")
        return SamplerConfig(**{**FAST, "steps": min(FAST["steps"], diffusion_steps), **own})
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
