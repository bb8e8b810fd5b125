"""Values of flags that are checked without importing the code behind them."""

from collections.abc import Callable, Sequence

from .sizes import Size, as_size

SYMMETRIES = ("mirror", "flip", "rotate")  # left-right; left-right and top-bottom; by multiples of 90 degrees
GREY_AUGMENTATIONS = ("gamma", "bias")  # for images that are not in colour
COLOUR_AUGMENTATIONS = ("colour",)  # for images in colour
AUGMENTATIONS = (*SYMMETRIES, "deform", "elastic", "contrast", *GREY_AUGMENTATIONS, *COLOUR_AUGMENTATIONS)


def split_kind(kind: str, known: Sequence[str] = SYMMETRIES) -> list[str]:
    """The parts of a kind: "none", or `known` parts joined by +. ValueError: a part is unknown or repeated."""
    parts = [] if kind == "none" else kind.split("+")
    if len(set(parts)) < len(parts) or not set(parts) <= set(known):
        raise ValueError(f"must be none, or several of {', '.join(known)} joined by +")
    return parts


def parts_of(known: Sequence[str]) -> Callable[[str], str | None]:
    """A `Flag.check` for kinds composed of these parts."""

    def check(kind: str) -> str | None:
        try:
            split_kind(kind, known)
        except ValueError as error:
            return str(error)
        return None

    return check


def turned(name: str, kind: str | None, image_size: Size) -> str | None:
    """The complaint if the flag `name` has a kind that turns pictures by 90 degrees, and they are not square."""
    height, width = as_size(image_size)
    if height == width or kind is None or "rotate" not in split_kind(kind, AUGMENTATIONS):
        return None
    rest = "+".join(part for part in kind.split("+") if part != "rotate") or "none"
    return f"--{name} {kind}: rotate needs a square --image_size, not {height},{width}: use --{name} {rest}"
