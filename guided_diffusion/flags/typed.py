"""Flags as they are typed in a shell."""

import shlex
from collections.abc import Container

from .configs import Flags, as_typed, json_like
from .fields import flag_fields


def typed_flags(flags: Flags, *classes: type, always: Container[str] = ()) -> str:
    """The flags {name: value} that differ from their defaults, in the form "--lr 0.001 --num_filters 8,16".

    Values are typed or JSON-like. Flags that are not of the config classes are left out.

    always  names of flags that are included at their defaults too
    """
    known = flag_fields(*classes)
    defaults = json_like({name: field.default for name, field in known.items()})
    words = []
    for name, value in json_like(flags).items():
        if name in known and (name in always or value != defaults[name]):
            text = as_typed(name, value, known)
            # argparse takes a separate word that starts with a minus for a flag
            words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return shlex.join(words)
