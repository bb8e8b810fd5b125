"""Sizes of images: a number for a square, or a pair H,W."""

Size = int | tuple[int, int]  # the side of a square, or (height, width), pixels


def as_size(value: Size) -> tuple[int, int]:
    """(H, W) of a size."""
    return (value, value) if isinstance(value, int) else value


def show_size(size: tuple[int, int]) -> str:
    """(H, W) in command-line syntax: "64" for a square, otherwise "H,W"."""
    height, width = size
    return f"{height}" if height == width else f"{height},{width}"
