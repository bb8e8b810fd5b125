"""The methods: the paper's method, its shared-encoder variant, baselines, and the registry that lists each once."""

PUBLISHED = ("AmbiguousSegmenter", "SegmenterConfig")  # of `cimd`


def __getattr__(name: str) -> object:
    if name not in PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import cimd

    return getattr(cimd, name)
