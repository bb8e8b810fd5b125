"""The symmetries of the square: pictures turned by right angles and mirrored, and back."""

import torch


def symmetries(parts):
    """[(quarter turns, then mirrored from left to right or not)] of the parts, all unlike and together a group; the first changes nothing."""
    turns = range(4) if "rotate" in parts else (0, 2) if "flip" in parts else (0,)
    return [
        (turn, mirrored)
        for turn in turns
        for mirrored in ((False, True) if {"flip", "mirror"} & set(parts) else (False,))
    ]


def turn_and_mirror(pictures, symmetry):
    """Pictures [..., N, N], changed by one of the `symmetries`."""
    turns, mirrored = symmetry
    turned = torch.rot90(pictures, turns, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def turn_back(pictures, symmetry):
    """The inverse of `turn_and_mirror`."""
    turns, mirrored = symmetry
    return torch.rot90(pictures.flip(-1) if mirrored else pictures, -turns, (-2, -1))
