"""Flags that no longer have an effect, and stored values that mean something else now."""

from collections.abc import Mapping
from typing import Annotated, Any

from ..errors import ConfigError
from .fields import Flag, config, flag_fields


@config(resume="fixed")
class RetiredFlags:
    """Accepted by every command, which prints a note on why they have no effect.

    Flags with a default of None are those of the published commands, and accept any value. The others are flags of
    version 0.1 that are now constants. A checkpoint trained with another value can be sampled from but not resumed.
    """

    ngpu: Annotated[int | None, Flag("processes", retired="the launcher sets the number of processes")] = None
    fp16_scale_growth: Annotated[
        float | None, Flag("growth of the loss scale", retired="--use_fp16 adapts its loss scale")
    ] = None
    loss_weighting: Annotated[
        str, Flag("weight of the squared error", retired="the squared error is weighted uniformly")
    ] = "uniform"
    ema_halflife: Annotated[
        int, Flag("half-life of the average, masks", retired="--ema_rate sets the moving averages")
    ] = 0
    weight_norm: Annotated[
        float, Flag("prob-unet: weight of the L2 norms", retired="the norms have the published weight, 2e-6")
    ] = 2e-6
    combiner_layers: Annotated[
        int, Flag("prob-unet: 1x1 convolutions", retired="the published number of convolutions, 4, is used", at_least=1)
    ] = 4
    mc_samples: Annotated[int, Flag("ssn: logit maps", retired="the published number of logit maps, 20, is drawn")] = 20
    trial_share: Annotated[float, Flag("length of a trial", retired="a trial takes a fifth of the training")] = 0.2
    mode_iou: Annotated[
        float, Flag("IoU with a mode", retired="a sample shows a mode if their IoU is at least 0.75")
    ] = 0.75


def current_flags(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The flags {name: JSON-like value} of a checkpoint, of samples or of packed cases, in the terms of this version.

    Version 1 of the reading rules, which had no --grey, applied its --label_threshold 0.5 to JPEG only, as auto does.
    """
    if "grey" in stored or "label_threshold" not in stored:
        return dict(stored)
    threshold = stored["label_threshold"]
    return {**stored, "grey": False, "structure": "", "label_threshold": None if threshold == 0.5 else threshold}


def drop_retired(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The flags {name: typed value} without the retired ones, and a note for each of those.

    ConfigError: a retired flag with a value other than the constant that replaced it.
    """
    known, kept, lines = flag_fields(RetiredFlags), {}, []
    for name, value in given.items():
        if name not in known:
            kept[name] = value
            continue
        field = known[name]
        if field.default is not None and value != field.default:
            raise ConfigError(f"--{name} {field.show(value)} is no longer supported: {field.flag.retired}; remove it")
        lines.append(f"--{name} {field.show(value)} has no effect: {field.flag.retired}")
    return kept, lines


def without_constants(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Stored flags {name: value} without the retired ones whose value is the constant that replaced them."""
    known = flag_fields(RetiredFlags)
    return {name: value for name, value in flags.items() if name not in known or value != known[name].default}


def other_constants(stored: Mapping[str, Any]) -> list[str]:
    """["--name value"] of retired flags stored with a value other than the constant that replaced them."""
    known = flag_fields(RetiredFlags)
    left = without_constants(stored).items()
    return [f"--{name} {known[name].show(value)}" for name, value in left if name in known]
