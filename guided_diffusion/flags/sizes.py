"""Sizes of images: one number for a square, or the pair H,W."""

from ..errors import ConfigError

Size = int | tuple[int, int]  # the side of a square, or (height, width), pixels

PIXELS = "pixels: one number for a square, or H,W (height, width)"


def as_size(value: Size) -> tuple[int, int]:
    """(H, W) of a size."""
    if not isinstance(value, (tuple, list)):
        return value, value
    height, width = value
    return height, width


def checked_size(value: Size | None) -> Size | None:
    """The size, unchanged. ConfigError: it is not one."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    valid = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair)
    if value is not None and not valid:
        raise ConfigError(f"image_size {value!r}: must be a number of pixels, or a pair (height, width)")
    return value


def simplest(value: Size) -> Size:
    """The size as flags and checkpoints store it: one number for a square."""
    height, width = as_size(value)
    return height if height == width else (height, width)


def show_size(size: tuple[int, int]) -> str:
    """(H, W) in command-line syntax: "64" for a square, otherwise "64,96"."""
    height, width = size
    return f"{height}" if height == width else f"{height},{width}"
