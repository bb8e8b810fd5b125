"""Words of flags that are checked without the code that they name."""

from collections.abc import Callable, Sequence

SYMMETRIES = ("mirror", "flip", "rotate")  # left and right; that, and top and bottom; by right angles
AUGMENTATIONS = (*SYMMETRIES, "deform", "elastic", "contrast", "gamma", "bias")


def split_kind(kind: str, known: Sequence[str] = SYMMETRIES) -> list[str]:
    """The parts of a kind, "none" or some `known` ones joined by +. ValueError: one is unknown or comes twice."""
    parts = [] if kind == "none" else kind.split("+")
    if len(set(parts)) < len(parts) or not set(parts) <= set(known):
        raise ValueError(f"must be none, or parts joined by + of {', '.join(known)}")
    return parts


def parts_of(known: Sequence[str]) -> Callable[[str], str | None]:
    """A check of a flag: what is wrong with a kind that is to be made of these parts."""

    def check(kind: str) -> str | None:
        try:
            split_kind(kind, known)
        except ValueError as error:
            return str(error)
        return None

    return check
