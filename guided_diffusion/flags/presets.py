"""Defaults set by --preset and --fast; flags that the user passes take precedence."""

from collections.abc import Container, Mapping
from typing import Any

from .fields import flag_fields

FAST: dict[str, Any] = {"sampler": "dpm++", "steps": 20, "spacing": "linear", "eta": 1.0}


def preset_flags(preset: Mapping[str, Any], given: Container[str], *classes: type) -> dict[str, Any]:
    """The flags {name: value} of a preset that belong to the config classes, except those whose twin was passed."""
    known = flag_fields(*classes)
    return {name: value for name, value in preset.items() if name in known and known[name].flag.twin not in given}
