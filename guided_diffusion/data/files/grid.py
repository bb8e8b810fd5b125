"""Where the pixels of an array lie, and arrays on the same grid in another orientation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

MOST_OFF = 0.05  # difference of two positions on the same grid, in pixels, at most


@dataclass(frozen=True)
class Grid:
    """Index i of an array lies at origin + i @ steps, in mm.

    shape   of the array, n axes
    steps   one vector for each axis
    """

    shape: tuple[int, ...]
    origin: Float[np.ndarray, "3"]
    steps: Float[np.ndarray, "n 3"]

    def transposed(self) -> "Grid":
        """The grid of the array with its axes in reverse order."""
        return Grid(self.shape[::-1], self.origin, self.steps[::-1])


def grid_of(shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"]) -> Grid:
    """The Grid of an array with at most three axes and an affine, as in NIfTI, without its axes of length 1."""
    steps = np.asarray(affine, dtype=float)[:3, :3].T
    axes = [k for k in range(min(len(shape), 3)) if shape[k] != 1]
    return Grid(tuple(shape[k] for k in axes), np.asarray(affine, dtype=float)[:3, 3], steps[axes])


def bring_to(
    array: Shaped[np.ndarray, "*planes _ _"] | Shaped[np.ndarray, "_ _ _"], grid: Grid, reference: Grid
) -> np.ndarray | None:
    """Permute and flip the last axes of `array` so that its pixels lie at the reference's positions.

    None: no permutation and flips do that, so the grids differ.
    """
    n = len(grid.shape)
    if n != len(reference.shape):
        return None
    order: list[int] = []
    flipped: list[int] = []
    for axis, step in enumerate(reference.steps):
        found = _matching_axis(grid, step, reference.shape[axis])
        if found is None or found[0] in order:
            return None
        order.append(found[0])
        if found[1]:
            flipped.append(axis)
    ends = [(grid.shape[order[axis]] - 1) * grid.steps[order[axis]] for axis in flipped]
    origin = grid.origin + np.sum(ends, axis=0) if ends else grid.origin
    if np.linalg.norm(origin - reference.origin) > MOST_OFF * _smallest(reference):
        return None
    first = array.ndim - n
    turned = array.transpose(*range(first), *(first + k for k in order))
    return np.flip(turned, tuple(first + axis for axis in flipped))


def _matching_axis(grid: Grid, step: Float[np.ndarray, "3"], length: int) -> tuple[int, bool] | None:
    """The axis of the grid with this step and length, and whether it runs the other way."""
    for k, own in enumerate(grid.steps):
        for flipped in (False, True):
            off = np.linalg.norm((-own if flipped else own) - step) * (length - 1)
            if grid.shape[k] == length and off <= MOST_OFF * np.linalg.norm(step):
                return k, flipped
    return None


def _smallest(grid: Grid) -> float:
    return float(np.linalg.norm(grid.steps, axis=1).min())
