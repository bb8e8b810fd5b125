"""Deprecated; will be removed in version 0.3. Import from guided_diffusion.methods instead."""

import warnings


def __getattr__(name: str) -> object:
    from . import methods

    if name not in methods.PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"guided_diffusion.segmentation.{name} is deprecated: import it from guided_diffusion.methods",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(methods, name)
