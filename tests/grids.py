"""Affines of NIfTI files, and the same voxels with their axes in another order and directions."""

import itertools

import numpy as np


def rotation(degrees, axis):
    """4x4, about an axis of the scanner."""
    a, b = (k for k in range(3) if k != axis)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def placed(spacing=(0.8, 0.7, 3.0), origin=(-30.0, 12.0, 5.0)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def on_another_grid(voxels, affine, order, flips):
    """The same voxels with their axes in another order and directions, and the affine that says so.

    Axis k of the result is axis order[k] of the voxels, backwards where flips[k] is.
    """
    change = np.zeros((4, 4))  # from indices of the result to those of `voxels`
    change[3, 3] = 1
    result = voxels.transpose(order)
    for k, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        change[axis, k] = -1 if flip else 1
        change[axis, 3] = result.shape[k] - 1 if flip else 0
        result = np.flip(result, k) if flip else result
    return result, affine @ change


GRIDS = list(itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3)))
