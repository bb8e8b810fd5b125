"""Images changed at random together with their masks, so that a few cases stand for many: what --augment names."""

import math

import torch
import torch.nn.functional as F

# What the kinds draw from: (quarter turns, then mirrored from left to right or not)
SYMMETRIES = {
    "none": [(0, False)],
    "flip": [(0, False), (0, True), (2, False), (2, True)],
    "rotate": [(turns, False) for turns in range(4)],
    "flip+rotate": [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}
SYMMETRIES["strong"] = SYMMETRIES["flip+rotate"]
NUM_DRAWS = 7  # uniform numbers that an image takes

# The most that "strong" does
TURN = math.pi / 9
RESIZE = math.log(1.2)
MOVE = 0.1  # of the image's side
CONTRAST = math.log(1.3)
BRIGHTNESS = 0.1


def augment(image, masks, kind, u):
    """
    Image [B, C, H, W] in [0, 1] and its masks [B, K, H, W], 0 or 1, changed at random by uniform numbers u [B, NUM_DRAWS].

    Each row is mirrored and turned by one of SYMMETRIES[kind], all equally likely; with "strong" it is then turned, resized and
    moved a little, mirrored where it ends, and its image gets another contrast and brightness. The images are square.
    """
    both = torch.cat([image, masks], dim=1)
    both = turn_and_mirror(both, SYMMETRIES[kind], u[:, 0])
    if kind == "strong":
        both = deform(both, 2 * u[:, 1:5] - 1)
    image, masks = both[:, : image.shape[1]], both[:, image.shape[1] :]
    return (change_contrast(image, 2 * u[:, 5:7] - 1), (masks > 0.5).float()) if kind == "strong" else (image, masks)


def turn_and_mirror(pictures, symmetries, u):
    """Pictures [B, C, N, N], each by one of the symmetries, chosen by u [B] in [0, 1)."""
    rows = []
    for row, place in zip(pictures, (u * len(symmetries)).long().clamp(max=len(symmetries) - 1)):
        turns, mirrored = symmetries[place]
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
