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

CALLS = 100  # of a function, that each test checks: later ones, in long loops, have seldom other shapes
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy
this_test = object()


def begin_test():
    """Check CALLS calls of each function anew."""
    global this_test
    this_test = object()


def check(function):
    """A check of a function's calls. A config checks its values itself, and refuses them by the flag's name."""
    if function.__qualname__.endswith("Config.__init__"):
        return function
    checked, test, calls = check_types(function), None, 0

    def check_first_calls(*args, **kwargs):
        nonlocal test, calls
        if test is not this_test:
            test, calls = this_test, 0
        calls += 1
        if calls <= CALLS:
            checked(*args, **kwargs)

    return check_first_calls


jaxtyping.install_import_hook(MODULES, f"{__name__}.check")


@contextlib.contextmanager
def suspended():
    """Nothing is checked in this block."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
