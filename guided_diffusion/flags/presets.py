"""What --preset puts in place of the defaults; flags that are given come before."""

# Flags that say the same: one that is given comes in the place of a preset's
TWINS = {
    "prediction": "predict_xstart",
    "predict_xstart": "prediction",
    "ema_rate": "ema_halflife",
    "ema_halflife": "ema_rate",
}


def preset_flags(preset, given):
    """The flags {name: value} of a preset, less those that a given one takes the place of."""
    return {flag: value for flag, value in preset.items() if TWINS.get(flag) not in given}
