"""The methods: the paper's and its shared encoder, baselines, and the registry where each is entered once."""

PUBLISHED = ("AmbiguousSegmenter", "SegmenterConfig")  # of `cimd`


def __getattr__(name: str) -> object:
    if name not in PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import cimd

    return getattr(cimd, name)
