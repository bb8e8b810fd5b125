"""Images changed at random together with their masks, so that a few cases stand for many: what --augment names."""

import math

import torch
import torch.nn.functional as F

PARTS = ("mirror", "flip", "rotate", "deform", "contrast")
NUM_DRAWS = 7  # uniform numbers that an image takes

# The most that "deform" and "contrast" do
TURN = math.pi / 9
RESIZE = math.log(1.2)
MOVE = 0.1  # of the image's side
CONTRAST = math.log(1.3)
BRIGHTNESS = 0.1


def augment(image, masks, kind, u):
    """
    Image [B, C, N, N] in [0, 1] and its masks [B, K, N, N], 0 or 1, changed at random by uniform numbers u [B, NUM_DRAWS] in [0, 1).

    kind  "none", or parts joined by +: mirror (left and right), flip (that, and top and bottom), rotate (by right angles),
          deform (turned, resized and moved a little, mirrored where it ends), contrast (of the image, and its brightness)
    """
    parts = split_kind(kind)
    both = turn_and_mirror(torch.cat([image, masks], dim=1), symmetries(parts), u[:, 0])
    image, masks = both[:, : image.shape[1]], both[:, image.shape[1] :]
    if "deform" in parts:
        by = 2 * u[:, 1:5] - 1
        image, masks = deform(image, by), (deform(masks, by) > 0.5).float()
    if "contrast" in parts:
        image = change_contrast(image, 2 * u[:, 5:7] - 1)
    return image, masks


def split_kind(kind):
    """The PARTS of a kind. ValueError: one is unknown or comes twice."""
    parts = [] if kind == "none" else kind.split("+")
    if len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
        raise ValueError(f"none, or parts joined by + are wanted, of {', '.join(PARTS)}")
    return parts


def symmetries(parts):
    """[(quarter turns, then mirrored from left to right or not)] of the parts, all unlike."""
    turns = range(4) if "rotate" in parts else (0, 2) if "flip" in parts else (0,)
    return [(turn, mirrored) for turn in turns for mirrored in ((False, True) if {"flip", "mirror"} & set(parts) else (False,))]


def turn_and_mirror(pictures, choices, u):
    """Pictures [B, C, N, N], each by one of the choices, as `symmetries` gives them; all equally likely, by u [B] in [0, 1)."""
    rows = []
    for row, place in zip(pictures, (u * len(choices)).long().clamp(max=len(choices) - 1)):
        turns, mirrored = choices[place]
        row = torch.rot90(row, turns, (1, 2))
        rows.append(row.flip(2) if mirrored else row)
    return torch.stack(rows)


def deform(pictures, by):
    """Pictures [B, C, N, N], bilinear, turned, resized and moved in x and y by shares [B, 4] in [-1, 1] of TURN, RESIZE, MOVE, MOVE."""
    angle, size = by[:, 0] * TURN, torch.exp(by[:, 1] * RESIZE)
    cos, sin = angle.cos() / size, angle.sin() / size
    shift = 2 * MOVE * by[:, 2:]  # on grid_sample's scale, where a picture is 2 wide
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def change_contrast(image, by):
    """Image [B, C, H, W] on [0, 1], about its mean, by shares [B, 2] in [-1, 1] of CONTRAST and BRIGHTNESS."""
    contrast, brightness = torch.exp(by[:, 0] * CONTRAST)[:, None, None, None], (by[:, 1] * BRIGHTNESS)[:, None, None, None]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean + brightness).clamp(0, 1)
