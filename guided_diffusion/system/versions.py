"""The versions that are stored in files, so that they say what wrote them."""

from typing import TypeGuard

from .. import __version__


def written_by(uses_torch: bool = True) -> dict[str, str]:
    """{"version": that of this program, "torch": that of torch}; without torch if it has no part in what is written."""
    if not uses_torch:
        return {"version": __version__}
    import torch  # imported here, because files without tensors use this module too

    return {"version": __version__, "torch": str(torch.__version__)}


def is_written_by(value: object) -> TypeGuard[dict[str, str]]:
    """Whether a stored value can be the result of `written_by`; an empty one says that it is not known."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)
