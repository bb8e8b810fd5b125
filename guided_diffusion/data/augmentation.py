"""Random augmentation of images together with their masks (--augment)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..flags.words import AUGMENTATIONS, COLOUR_AUGMENTATIONS, GREY_AUGMENTATIONS, split_kind
from .symmetry import Symmetry, symmetries, turn_and_mirror

POINTS = 4  # control points per side of the grids of "elastic" and "bias"

# Layout of the uniform random numbers of an image; add new ones at the end, so that the others keep their values
SYMMETRY, AFFINE, GREYS, ELASTIC = 0, slice(1, 5), slice(5, 7), slice(7, 7 + 2 * POINTS**2)
EXPONENT, FIELD = ELASTIC.stop, slice(ELASTIC.stop + 1, ELASTIC.stop + 1 + POINTS**2)
COLOURS = slice(FIELD.stop, FIELD.stop + 4)
NUM_DRAWS = COLOURS.stop

# Maximum strength of each part
TURN = math.pi / 9
RESIZE = math.log(1.2)
MOVE = 0.1  # of the image's height and width
STRETCH = 0.05  # of the image's height and width, per control point
CONTRAST = math.log(1.3)
BRIGHTNESS = 0.1
GAMMA = math.log(1.5)
BIAS = math.log(1.4)  # per control point
SATURATION = math.log(1.3)
GAIN = math.log(1.1)  # of red, green and blue, each

TOUCHED = 1e-3  # share of an interpolated pixel above which ignored pixels make it one of them; less is rounding

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def check_augment(kind: str, colour: bool) -> None:
    """ConfigError: a part of --augment is for colour images only and the cases are not in colour, or the reverse."""
    parts = split_kind(kind, AUGMENTATIONS)
    unfit = [part for part in parts if part in (GREY_AUGMENTATIONS if colour else COLOUR_AUGMENTATIONS)]
    if unfit:
        these, those = ("grey", "in colour") if colour else ("colour", "not in colour")
        rest = "+".join(part for part in parts if part not in unfit) or "none"
        remedy = f"use --augment {rest}" + (", or --grey True to read the cases as grey images" if colour else "")
        raise ConfigError(
            f"--augment {kind}: {' and '.join(unfit)} change{'s' * (len(unfit) == 1)} {these} images, but the cases "
            f"are {those}: {remedy}"
        )


def augment(
    image: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B K H W"],
    kind: str,
    u: Float[Tensor, "B draws"],
    *,
    exclusive: int = 1,
    ignored: bool = False,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K H W"]]:
    """Augment images in [0, 1] and their masks, 0 or 1, with NUM_DRAWS uniform numbers in [0, 1) per image.

    kind  "none", or parts joined by +: mirror (left-right), flip (left-right and top-bottom), rotate (by multiples of
          90 degrees), deform (small rotation, scaling and translation), elastic (small displacements of the points of a
          coarse grid), contrast (and brightness), gamma (grey levels to a power), bias (a smooth multiplicative field,
          as of MR coils), colour (saturation and white balance of the first three channels: red, green and blue);
          images are reflected at their borders

    exclusive, ignored  what the channels of the masks are, as in `read_off`
    """
    parts = split_kind(kind, AUGMENTATIONS)
    both = change_symmetry(torch.cat([image, masks], dim=1), symmetries(parts), u[:, SYMMETRY])
    image, masks = both[:, : image.shape[1]], both[:, image.shape[1] :]
    by = 2 * u - 1
    if {"deform", "elastic"} & set(parts):
        grid = affine_grid(image.shape, by[:, AFFINE] if "deform" in parts else torch.zeros(len(by), 4))
        if "elastic" in parts:
            grid = grid + displacement(image.shape, by[:, ELASTIC])
        image, masks = resample(image, grid), read_off(resample(masks, grid), exclusive, ignored)
    if "contrast" in parts:
        image = change_contrast(image, by[:, GREYS])
    if "gamma" in parts:
        image = image ** torch.exp(by[:, EXPONENT] * GAMMA)[:, None, None, None]
    if "bias" in parts:
        image = (image * bias_field(image.shape, by[:, FIELD])).clamp(0, 1)
    if "colour" in parts:
        image = torch.cat([change_colour(image[:, :3], by[:, COLOURS]), image[:, 3:]], dim=1)
    return image, masks


def change_symmetry(
    pictures: Float[Tensor, "B C H W"], choices: Sequence[Symmetry], u: Float[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Transform each picture by one of the choices of `symmetries`, selected uniformly by u in [0, 1)."""
    places = (u * len(choices)).long().clamp(max=len(choices) - 1)
    return torch.stack(
        [turn_and_mirror(picture, choices[place]) for picture, place in zip(pictures, places, strict=True)]
    )


def affine_grid(shape: Sequence[int], by: Float[Tensor, "B 4"]) -> Float[Tensor, "B H W 2"]:
    """The sampling grid of random affine transforms: source x and y, in [-1, 1], of each pixel.

    shape  of the pictures, [B, C, H, W]
    by     factors in [-1, 1] of TURN, RESIZE, MOVE in x and MOVE in y
    """
    angle, size = by[:, 0] * TURN, torch.exp(by[:, 1] * RESIZE)
    cos, sin = angle.cos() / size, angle.sin() / size
    shift = 2 * MOVE * by[:, 2:]  # in grid_sample's units, where a picture is 2 wide and 2 high
    aspect = shape[2] / shape[3]  # a rotation is one in pixels
    across, down = torch.stack([cos, -sin * aspect, shift[:, 0]], 1), torch.stack([sin / aspect, cos, shift[:, 1]], 1)
    theta = torch.stack([across, down], 1)
    return F.affine_grid(theta, list(shape), align_corners=False)


def displacement(shape: Sequence[int], by: Float[Tensor, "B shares"]) -> Float[Tensor, "B H W 2"]:
    """The displacement to add to a sampling grid, interpolated from POINTS x POINTS control points.

    by  factors in [-1, 1] of STRETCH, in x for all points, then in y

    Bicubic interpolation (as in Ronneberger et al. 2015, section 3.1, who use a 3 x 3 grid).
    """
    points = 2 * STRETCH * by.reshape(-1, 2, POINTS, POINTS)
    return F.interpolate(points, size=shape[2:], mode="bicubic", align_corners=True).movedim(1, -1)


def resample(pictures: Float[Tensor, "B C H W"], grid: Float[Tensor, "B H W 2"]) -> Float[Tensor, "B C H W"]:
    """Sample pictures at the points of a grid, by bilinear interpolation."""
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def read_off(
    soft: Float[Tensor, "B planes H W"], exclusive: int = 1, ignored: bool = False
) -> Float[Tensor, "B planes H W"]:
    """Masks, 0 or 1, from interpolated ones.

    exclusive  the channels come in groups of this many exclusive classes: a pixel takes the largest of background and
               classes, so that no hole opens between classes that touch. 1: it takes each class above 1/2
    ignored    the last channel is a map of ignored pixels, which takes every pixel that was interpolated from one
    """
    if ignored:
        return torch.cat([read_off(soft[:, :-1], exclusive), (soft[:, -1:] > TOUCHED).float()], dim=1)
    if exclusive == 1:
        return (soft > 0.5).float()
    groups = soft.unflatten(1, (-1, exclusive))  # [B, groups, K, H, W]
    largest = torch.cat([1 - groups.sum(dim=2, keepdim=True), groups], dim=2).argmax(dim=2)
    return F.one_hot(largest, exclusive + 1).movedim(-1, 2)[:, :, 1:].flatten(1, 2).float()


def change_contrast(image: Float[Tensor, "B C H W"], by: Float[Tensor, "B 2"]) -> Float[Tensor, "B C H W"]:
    """Change contrast, about the mean, and brightness of images in [0, 1].

    by  factors in [-1, 1] of CONTRAST and BRIGHTNESS
    """
    contrast = torch.exp(by[:, 0] * CONTRAST)[:, None, None, None]
    brightness = (by[:, 1] * BRIGHTNESS)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean + brightness).clamp(0, 1)


def bias_field(shape: Sequence[int], by: Float[Tensor, "B shares"]) -> Float[Tensor, "B 1 H W"]:
    """A multiplicative bias field, as in MR (Sled et al. 1998, equation 1), for images of a shape [B, C, H, W].

    by  factors in [-1, 1] of BIAS, at each of the POINTS x POINTS control points

    The field is the exponential of the bicubic interpolation of BIAS * by.
    """
    return torch.exp(
        F.interpolate(BIAS * by.reshape(-1, 1, POINTS, POINTS), size=shape[2:], mode="bicubic", align_corners=True)
    )


def change_colour(image: Float[Tensor, "B 3 H W"], by: Float[Tensor, "B 4"]) -> Float[Tensor, "B 3 H W"]:
    """Change saturation and white balance of colour images in [0, 1].

    by  factors in [-1, 1] of SATURATION, and of GAIN in red, green and blue

    Saturation scales the distance from the luminance, as torchvision's ColorJitter does. A gain for each channel
    approximates another light source (von Kries's rule, see Finlayson et al. 1994).
    """
    saturation = torch.exp(by[:, :1] * SATURATION)[:, :, None, None]
    gain = torch.exp(by[:, 1:] * GAIN)[:, :, None, None]
    grey = (image * image.new_tensor(LUMINANCE)[:, None, None]).sum(dim=1, keepdim=True)
    return ((grey + (image - grey) * saturation) * gain).clamp(0, 1)
