"""The method's modules check the types and shapes of their annotations in the tests: import this before the package.

Processes that tests start run without these checks. So do, by the fixture `unchecked`, what is compiled, whose graphs a
check would break, and what takes so many steps that the checks would take longer than the computation.
"""

import contextlib

import jaxtyping
from beartype import BeartypeConf, beartype

MODULES = [
    f"guided_diffusion.{name}"
    for name in (
        "nn",
        "losses",
        "unet",
        "distribution",
        "gaussian_diffusion",
        "respace",
        "resample",
        "methods",
        "sampling",
        "masks",
    )
]

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def check(function):
    """`function` with its calls checked; but a config checks its values itself, and refuses them by the flag's name."""
    return function if function.__qualname__.endswith("Config.__init__") else check_types(function)


jaxtyping.install_import_hook(MODULES, f"{__name__}.check")


@contextlib.contextmanager
def suspended():
    """Nothing is checked in this block."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
