"""Images changed at random together with their masks, so that a few cases stand for many: what --augment names."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..flags.words import AUGMENTATIONS, split_kind
from .symmetry import Symmetry, symmetries, turn_and_mirror

POINTS = 4  # a side, of the grid of which "elastic" moves the points and "bias" the brightness

# The uniform numbers that an image takes
SYMMETRY, AFFINE, GREYS, ELASTIC = 0, slice(1, 5), slice(5, 7), slice(7, 7 + 2 * POINTS**2)
EXPONENT, FIELD = ELASTIC.stop, slice(ELASTIC.stop + 1, ELASTIC.stop + 1 + POINTS**2)
NUM_DRAWS = FIELD.stop

# The most that each part does
TURN = math.pi / 9
RESIZE = math.log(1.2)
MOVE = 0.1  # of the image's side
STRETCH = 0.05  # of the image's side, for each point
CONTRAST = math.log(1.3)
BRIGHTNESS = 0.1
GAMMA = math.log(1.5)
BIAS = math.log(1.4)  # for each point


def augment(
    image: Float[Tensor, "B C N N"], masks: Float[Tensor, "B K N N"], kind: str, u: Float[Tensor, "B draws"]
) -> tuple[Float[Tensor, "B C N N"], Float[Tensor, "B K N N"]]:
    """Images in [0, 1] and their masks, 0 or 1, changed at random by NUM_DRAWS uniform numbers in [0, 1) for each.

    kind  "none", or parts joined by +: mirror (left and right), flip (that, and top and bottom), rotate (by right
          angles), deform (turned, resized and moved a little), elastic (a coarse grid's points moved, each a little),
          contrast (of the image, and its brightness), gamma (grey levels to a power), bias (a smooth field of light, as
          of the coils of MR); a picture that is pulled in is mirrored where it ends
    """
    parts = split_kind(kind, AUGMENTATIONS)
    both = change_symmetry(torch.cat([image, masks], dim=1), symmetries(parts), u[:, SYMMETRY])
    image, masks = both[:, : image.shape[1]], both[:, image.shape[1] :]
    by = 2 * u - 1
    if {"deform", "elastic"} & set(parts):
        grid = affine_grid(image.shape, by[:, AFFINE] if "deform" in parts else torch.zeros(len(by), 4))
        if "elastic" in parts:
            grid = grid + displacement(image.shape, by[:, ELASTIC])
        image, masks = resample(image, grid), (resample(masks, grid) > 0.5).float()
    if "contrast" in parts:
        image = change_contrast(image, by[:, GREYS])
    if "gamma" in parts:
        image = image ** torch.exp(by[:, EXPONENT] * GAMMA)[:, None, None, None]
    if "bias" in parts:
        image = (image * bias_field(image.shape, by[:, FIELD])).clamp(0, 1)
    return image, masks


def change_symmetry(
    pictures: Float[Tensor, "B C N N"], choices: Sequence[Symmetry], u: Float[Tensor, " B"]
) -> Float[Tensor, "B C N N"]:
    """Pictures, each changed by one of the choices of `symmetries`, all equally likely, by u in [0, 1)."""
    places = (u * len(choices)).long().clamp(max=len(choices) - 1)
    return torch.stack(
        [turn_and_mirror(picture, choices[place]) for picture, place in zip(pictures, places, strict=True)]
    )


def affine_grid(shape: Sequence[int], by: Float[Tensor, "B 4"]) -> Float[Tensor, "B N N 2"]:
    """Where each pixel of turned, resized and moved pictures comes from, in x and y from -1 to 1.

    shape  of the pictures, [B, C, N, N]
    by     shares in [-1, 1] of TURN, RESIZE, MOVE in x and MOVE in y
    """
    angle, size = by[:, 0] * TURN, torch.exp(by[:, 1] * RESIZE)
    cos, sin = angle.cos() / size, angle.sin() / size
    shift = 2 * MOVE * by[:, 2:]  # on grid_sample's scale, where a picture is 2 wide
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    return F.affine_grid(theta, list(shape), align_corners=False)


def displacement(shape: Sequence[int], by: Float[Tensor, "B shares"]) -> Float[Tensor, "B N N 2"]:
    """What is added to such a grid where POINTS x POINTS points move, and what lies between them follows.

    by  shares in [-1, 1] of STRETCH, in x for all points, then in y

    The interpolation is bicubic (as in Ronneberger et al. 2015, section 3.1, on a grid of 3 x 3).
    """
    points = 2 * STRETCH * by.reshape(-1, 2, POINTS, POINTS)
    return F.interpolate(points, size=shape[2:], mode="bicubic", align_corners=True).movedim(1, -1)


def resample(pictures: Float[Tensor, "B C N N"], grid: Float[Tensor, "B N N 2"]) -> Float[Tensor, "B C N N"]:
    """Pictures at the places of a grid, by bilinear interpolation."""
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def change_contrast(image: Float[Tensor, "B C H W"], by: Float[Tensor, "B 2"]) -> Float[Tensor, "B C H W"]:
    """Images in [0, 1], changed about their mean by shares in [-1, 1] of CONTRAST and BRIGHTNESS."""
    contrast = torch.exp(by[:, 0] * CONTRAST)[:, None, None, None]
    brightness = (by[:, 1] * BRIGHTNESS)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean + brightness).clamp(0, 1)


def bias_field(shape: Sequence[int], by: Float[Tensor, "B shares"]) -> Float[Tensor, "B 1 N N"]:
    """Factors of brightness for images of a shape [B, C, N, N].

    by  shares in [-1, 1], at each of the POINTS x POINTS points of a grid

    A factor is e to the power of BIAS times the share, bicubic between the points: the multiplicative nonuniformity of
    MR (Sled et al. 1998, equation 1).
    """
    return torch.exp(
        F.interpolate(BIAS * by.reshape(-1, 1, POINTS, POINTS), size=shape[2:], mode="bicubic", align_corners=True)
    )
