"""The symmetries of the square: pictures turned by right angles and mirrored, and back."""

import itertools
from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor


class Symmetry(NamedTuple):
    """Quarter turns, and then a mirror image, left to right, or not."""

    turns: int
    mirrored: bool


def symmetries(parts: Collection[str]) -> list[Symmetry]:
    """The symmetries of the parts, as of --augment, all different and together a group; the first changes nothing."""
    turns = [0]
    if "rotate" in parts:
        turns = [0, 1, 2, 3]
    elif "flip" in parts:
        turns = [0, 2]
    mirrored = [False, True] if {"flip", "mirror"} & set(parts) else [False]
    return [Symmetry(*pair) for pair in itertools.product(turns, mirrored)]


def turn_and_mirror(pictures: Shaped[Tensor, "*rest N N"], symmetry: Symmetry) -> Shaped[Tensor, "*rest N N"]:
    """The pictures, changed by one of the `symmetries`."""
    turns, mirrored = symmetry
    turned = torch.rot90(pictures, turns, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def turn_back(pictures: Shaped[Tensor, "*rest N N"], symmetry: Symmetry) -> Shaped[Tensor, "*rest N N"]:
    """The inverse of `turn_and_mirror`."""
    turns, mirrored = symmetry
    return torch.rot90(pictures.flip(-1) if mirrored else pictures, -turns, (-2, -1))
