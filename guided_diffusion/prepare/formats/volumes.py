"""NIfTI images and volumes on one grid, slice by slice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...data.files.grid import Grid, bring_to
from ...data.files.nifti import read_nifti
from ...data.surveys.levels import Label
from ...errors import DataError
from ..case_writer import FileLabel, Origin, RawCase
from .foreign_files import label_values, real_numbers

MOST_AXES = 3


@dataclass(frozen=True)
class Volume:
    """The array of a NIfTI file, [x, y] or [x, y, z], and the positions of its pixels; None: unknown.

    If the array has one axis more than the grid, that axis is the first, of modalities.
    """

    file: str
    array: np.ndarray
    grid: Grid | None


def read_volume(file: str) -> Volume:
    """The Volume in a NIfTI file, without axes of length 1. DataError: unreadable, huge, or not 2D or 3D."""
    try:
        array, grid, _ = read_nifti(file)
        shape = _shape_in_header(file)
    except DataError:
        raise
    except Exception as error:  # on damaged files, nibabel raises any type of exception
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())}); replace or remove it") from error
    if array.ndim not in (2, MOST_AXES) or any(length > 1 for length in shape[MOST_AXES:]):
        raise DataError(f"{file}: has shape {'x'.join(map(str, shape))}; two or three axes are required")
    return Volume(file, real_numbers(file, array), grid)


def is_volume(file: str) -> bool:
    """Whether a file is NIfTI with three axes; False if it cannot be read, which reading it reports."""
    if not file.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        return sum(length > 1 for length in _shape_in_header(file)) > 2
    except Exception:  # nibabel is missing, or on damaged files raises any type of exception
        return False


def _shape_in_header(file: str) -> tuple[int, ...]:
    """The shape of a NIfTI file, with axes of length 1."""
    import nibabel

    return nibabel.load(file).shape  # type: ignore[attr-defined]  # every image with voxels has it


def on_one_grid(volumes: Sequence[Volume]) -> tuple[list[Volume], list[str]]:
    """Bring volumes to the grid of the first one that has one; returns them, and the files turned.

    A volume without a grid remains as stored, and one of another size too: its shape is compared later.
    DataError: a volume is on another grid.
    """
    reference = next((volume for volume in volumes if volume.grid), None)
    brought, turned = [], []
    for volume in volumes:
        own, target = volume.grid, reference and reference.grid
        if own and target and reference and sorted(own.shape) == sorted(target.shape):
            array = bring_to(volume.array, own, target)
            if array is None:
                raise DataError(
                    f"{volume.file}: its affine puts it on another grid than {reference.file}; resample it to that grid"
                )
            if array.strides != volume.array.strides:
                turned.append(volume.file)
            volume = replace(volume, array=array, grid=target)
        brought.append(volume)
    return brought, turned


# -- modalities -------------------------------------------------------------------------------------------------------


def modalities_first(image: Volume, mask: Volume, axis: int | None) -> Volume:
    """An image of three axes with its modalities first, on the grid of the two others.

    axis  that of the modalities; None: the one that the mask lacks
    DataError: no axis fits, or several do.
    """
    axis = _axis_of_modalities(image, mask, axis)
    return Volume(image.file, np.moveaxis(image.array, axis, 0), _grid_without(image.grid, axis, mask))


def _axis_of_modalities(image: Volume, mask: Volume, axis: int | None) -> int:
    """The axis to remove from the image's shape to get that of the mask; must be `axis`, if that is given."""
    shape = image.array.shape
    remaining = {k: shape[:k] + shape[k + 1 :] for k in range(MOST_AXES) if axis in (None, k)}
    fitting = [k for k, size in remaining.items() if size == mask.array.shape]
    if not fitting and image.grid and mask.grid:
        fitting = [k for k, size in remaining.items() if size[::-1] == mask.array.shape]  # its axes are exchanged
    if not fitting:
        flag = "" if axis is None else " (--axis)"
        raise DataError(
            f"{image.file}: the shapes of the image, {shape}, and masks, {mask.array.shape}, do not match{flag}"
        )
    if len(fitting) > 1:
        raise DataError(
            f"{image.file}: the modalities in {shape} may be along axis {fitting[0]} or {fitting[1]}; pass --axis"
        )
    return fitting[0]


def _grid_without(grid: Grid | None, axis: int, mask: Volume) -> Grid | None:
    """The grid of an image without the axis of its modalities.

    The affine of such a file describes its own axes, or is that of a single modality, of which the first two steps are
    those of the pixels. The latter is assumed only if the mask's grid fits it and not the former.
    """
    if grid is None:
        return None
    kept = [k for k in range(MOST_AXES) if k != axis]
    shape = tuple(grid.shape[k] for k in kept)
    own, single = Grid(shape, grid.origin, grid.steps[kept]), Grid(shape, grid.origin, grid.steps[:2])
    if mask.grid is None or bring_to(mask.array, mask.grid, own) is not None:
        return own
    return own if bring_to(mask.array, mask.grid, single) is None else single


# -- slices -----------------------------------------------------------------------------------------------------------


def slices(
    case: RawCase, images: Mapping[str, np.ndarray], masks: Sequence[Volume], axis: int | None = None
) -> Iterator[RawCase]:
    """`case` with 2D images and masks, or one case per slice of volumes along `axis` (None: the last).

    images  {modality: array in [0, 1]}, axes as in a Volume
    DataError: the shapes differ.
    """
    arrays = {mask.file: label_values(mask.file, mask.array) for mask in masks}
    shapes = {array.shape for array in (*images.values(), *arrays.values())}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (2, MOST_AXES):
        raise DataError(f"{case.id}: the shapes of images and masks differ or are not 2D or 3D: {sorted(shapes)}")
    shape = next(iter(shapes))
    if len(shape) == 2:
        planes = {modality: plane.T for modality, plane in images.items()}
        yield replace(case, planes=planes, raters=[FileLabel(f, Label(array.T, None)) for f, array in arrays.items()])
        return
    axis = 2 if axis is None else axis
    wholes = {file: Label(side_by_side(array, axis), None) for file, array in arrays.items()}
    for k in range(shape[axis]):
        planes = {modality: volume.take(k, axis).T for modality, volume in images.items()}
        raters = [FileLabel(file, Label(array.take(k, axis).T, None), wholes[file]) for file, array in arrays.items()]
        yield replace(case, id=f"{case.id}_z{k:03d}", planes=planes, raters=raters, origin=Origin(slice=k))


def side_by_side(volume: np.ndarray, axis: int) -> np.ndarray:
    """The slices of a volume along `axis` as one picture."""
    slices_second = np.moveaxis(volume, axis, 1)
    return slices_second.reshape(len(slices_second), -1)
