"""What --preset and --fast put in place of the defaults; flags that are given come before."""

from collections.abc import Container, Mapping
from typing import Any

from .fields import flag_fields

FAST: dict[str, Any] = {"sampler": "dpm++", "steps": 20, "spacing": "linear", "eta": 1.0}


def preset_flags(preset: Mapping[str, Any], given: Container[str], *classes: type) -> dict[str, Any]:
    """The flags {name: value} of a preset that the config classes have, without those whose twin is given."""
    known = flag_fields(*classes)
    return {name: value for name, value in preset.items() if name in known and known[name].flag.twin not in given}
