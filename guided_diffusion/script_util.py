"""Flags <-> typed configs, configs -> objects, presets. The scripts sit on this."""

import argparse
import contextlib
import difflib
import re
import sys
import types
import typing
from dataclasses import fields

from . import checkpoint, respace
from .checkpoint import CheckpointError
from .distribution import HE_NORMAL, AxisAlignedConvGaussian, EncoderConfig
from .gaussian_diffusion import DiffusionConfig
from .lidcloader import DataConfig, DataError
from .nn import ConfigError
from .segmentation import AmbiguousSegmenter, SegmenterConfig
from .unet import UNetConfig, UNetModel

MODEL_CONFIGS = (UNetConfig, DiffusionConfig, SegmenterConfig, EncoderConfig)

# What --preset puts in place of the defaults; flags that are given come before it.
PRESETS = {
    "cimd": {  # the paper's README
        "image_size": 128, "num_channels": 128, "class_cond": False, "num_res_blocks": 2, "num_heads": 1,
        "learn_sigma": True, "use_scale_shift_norm": False, "attention_resolutions": (16,),
        "diffusion_steps": 1000, "noise_schedule": "linear", "rescale_learned_sigmas": False,
        "rescale_timesteps": False, "lr": 1e-4, "batch_size": 20,
    },
    "demo": {  # learns in minutes on two CPU cores
        "image_size": 32, "image_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1, 1),
        "num_heads": 1, "attention_resolutions": (8,), "num_filters": (8, 16, 24), "predict_xstart": True,
        "mask_low": -1.0, "noise_schedule": "cosine", "lr": 2e-3, "batch_size": 8, "lr_anneal_steps": 2400,
        "ema_rate": (0.999,), "save_interval": 800,
    },
}  # fmt: skip

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

    kind is bool, int, float, str, a Literal, tuple[int or float, ...] ("16,8"), or one of these or None ("" or -1).
    ConfigError: it cannot be read so.
    """
    if isinstance(kind, types.UnionType):
        if value in (None, "", -1, "-1", "None"):
            return None
        kind = typing.get_args(kind)[0]
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
            bare = {"nargs": "?", "const": "True"} if kind is bool else {}
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
    """What the user can mend ends the program with one line and exit status 2, without a traceback."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)


def check_flags(flags):
    """Refuse flags that contradict each other; what a part cannot be built with, it refuses itself."""
    if flags.get("use_kl") and flags.get("rescale_learned_sigmas"):
        raise ConfigError("--use_kl and --rescale_learned_sigmas contradict: with --use_kl there is no L_vb to weigh")
    if flags.get("rescale_learned_sigmas") and not flags.get("learn_sigma"):
        raise ConfigError("--rescale_learned_sigmas True wants --learn_sigma True: there is no learned variance to weigh")
    if flags.get("num_head_channels") and flags.get("num_heads_upsample"):
        raise ConfigError("--num_head_channels and --num_heads_upsample contradict: give one of them")
    if flags.get("iterations") and flags.get("lr_anneal_steps") and flags["iterations"] > flags["lr_anneal_steps"]:
        raise ConfigError(
            f"--iterations {flags['iterations']} goes beyond --lr_anneal_steps {flags['lr_anneal_steps']}, "
            "where the learning rate is 0: raise that too"
        )


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
    model = UNetModel(unet, diffusion.out_channels)
    prior, posterior = (
        AxisAlignedConvGaussian(
            1, encoder.num_filters, encoder.no_convs_per_block, encoder.latent_dim, HE_NORMAL, posterior=is_posterior
        )
        for is_posterior in (False, True)
    )
    return model, diffusion, prior, posterior


def create_segmenter(flags):
    """An AmbiguousSegmenter from the flags {name: value} of MODEL_CONFIGS; other flags are passed over."""
    built = create_model_and_diffusion(**pick_flags(flags, UNetConfig, DiffusionConfig, EncoderConfig))
    return AmbiguousSegmenter(*built, *configs_from_flags(flags, SegmenterConfig))


# Model flags that may differ between training and sampling: they change neither the weights nor what they mean
SAMPLING_FLAGS = {"timestep_respacing", "use_checkpoint", "use_fp16", "dropout", "label_threshold", "merge_labels"}


def load_segmenter(path, flags, weights="ema"):
    """
    (segmenter in evaluation mode, the flags of its data and model) from the checkpoint at `path`.

    flags    those that were given; a checkpoint of the published code has none of its own, and takes the defaults
    weights  "ema" for the averaged ones, where there are any, or "raw"
    ConfigError, CheckpointError: flags that contradict the checkpoint, or weights that do not fit.
    """
    state = checkpoint.load(path)
    flags = parse_flags(flags, DataConfig, *MODEL_CONFIGS)
    if state["flags"] is not None:
        if unlike := checkpoint.differences(state["flags"], json_like(flags), SAMPLING_FLAGS):
            raise CheckpointError(f"{path} was trained with {', '.join(unlike)}: leave the flag or the preset away")
        flags = {**pick_flags(state["flags"], DataConfig, *MODEL_CONFIGS), **flags}
    check_flags(flags)
    refuse_classes(flags)
    segmenter = create_segmenter(flags)
    averages = list(state["ema"].values())
    chosen = averages[0] if averages and weights == "ema" else state["weights"]
    checkpoint.load_weights(segmenter, chosen, path, "model.")
    return segmenter.eval(), flags
