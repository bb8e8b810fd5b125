"""Sampling: samplers, ensembles for many cases, and the files of samples (without torch)."""

PUBLISHED = ("SAMPLERS", "SamplerConfig", "sample", "sample_loop")  # of `samplers`


def __getattr__(name: str) -> object:
    if name not in PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import samplers

    return getattr(samplers, name)
