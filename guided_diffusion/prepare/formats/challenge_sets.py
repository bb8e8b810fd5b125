"""Converters for challenge data sets and folders of pictures; see `converters` for their interface."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from ...errors import DataError
from ...system.storage import walk
from ..case_writer import Origin, RawCase, safe_name
from .config import ConvertConfig
from .foreign_files import PICTURE, each, folders_with, mask, nifti, picture, scaled

MASK = re.compile(r"(?<![a-z])(mask|label|seg|gt|rater|expert|annot)|mask", re.IGNORECASE)
BRATS = ("flair", "t1", "t1ce", "t2")
MS = (("flair",), ("t1", "mprage", "f1"), ("t2", "f2"), ("pd",))  # names of each modality
MS_FILE = re.compile(r"(.+?)_(flair|mprage|t1|f1|t2|f2|pd|mask\d+)(?:_.*)?\.nii(?:\.gz)?", re.IGNORECASE)


def slices(
    name: str, volumes: Mapping[str, np.ndarray], masks: Sequence[np.ndarray], patient: str, axis: int | None = None
) -> Iterator[RawCase]:
    """One RawCase for 2D images, or one per slice of volumes along `axis` (None: the last).

    volumes, masks  {modality: array in [0, 1]} and bool arrays, as read by `nifti`
    """
    shapes = {array.shape for array in (*volumes.values(), *masks)}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (2, 3):
        raise DataError(f"{name}: the shapes of images and masks differ or are not 2D or 3D: {sorted(shapes)}")
    shape = next(iter(shapes))
    if len(shape) == 2:
        planes = {modality: plane.T for modality, plane in volumes.items()}
        yield RawCase(name, planes, [plane.T for plane in masks], patient)
        return
    axis = 2 if axis is None else axis
    for k in range(shape[axis]):
        planes = {modality: volume.take(k, axis).T for modality, volume in volumes.items()}
        raters = [volume.take(k, axis).T for volume in masks]
        yield RawCase(f"{name}_z{k:03d}", planes, raters, patient, origin=Origin(slice=k))


def qubiq(config: ConvertConfig) -> Iterator[RawCase | DataError]:
    """CASE/image.nii.gz, CASE/task01_seg01.nii.gz, ...; a third axis holds modalities or slices."""
    return each(folders_with(config.src, "image.nii.gz"), partial(_qubiq_case, config))


def _qubiq_case(config: ConvertConfig, folder: str) -> Iterator[RawCase]:
    name = safe_name(os.path.relpath(folder, config.src).replace(os.sep, "-"), config.src)
    mask_name = re.compile(rf"task{config.task:02d}_seg(\d+)\.nii(\.gz)?")
    files = [(int(match[1]), file) for file in os.listdir(folder) if (match := mask_name.fullmatch(file))]
    if not files:
        raise DataError(f"{folder}: no task{config.task:02d}_seg01.nii.gz (--task)")
    path = os.path.join(folder, "image.nii.gz")
    image, masks = nifti(path), [nifti(os.path.join(folder, file)) > 0 for _, file in sorted(files)]
    if image.ndim == 3 and masks[0].ndim == 2:
        planes = np.moveaxis(image, _axis_of_modalities(folder, image.shape, masks[0].shape, config.axis), 0)
        return slices(name, {f"m{k}": scaled(plane, path) for k, plane in enumerate(planes)}, masks, name)
    return slices(name, {"": scaled(image, path)}, masks, name, config.axis)


def _axis_of_modalities(
    folder: str, image_shape: tuple[int, ...], mask_shape: tuple[int, ...], axis: int | None
) -> int:
    """The axis to remove from the image's shape to get that of the masks; must be `axis`, if that is given."""
    fitting = [k for k in range(3) if image_shape[:k] + image_shape[k + 1 :] == mask_shape and axis in (None, k)]
    if not fitting:
        flag = "" if axis is None else " (--axis)"
        raise DataError(
            f"{folder}: the shapes of the image, {image_shape}, and masks, {mask_shape}, do not match{flag}"
        )
    if len(fitting) > 1:
        raise DataError(
            f"{folder}: the modalities in {image_shape} may be along axis {fitting[0]} or {fitting[1]}; pass --axis"
        )
    return fitting[0]


def brats(config: ConvertConfig) -> Iterator[RawCase | DataError]:
    """Slices of the implicit-ensembles code: X_X_PATIENT_MODALITY_SLICE_X.nii.gz, all classes merged.

    Slices of 240x240 pixels are cropped by 8 on each side.
    """
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for base, _, files in walk(config.src):
        for file in files:
            parts = file.split("_")
            if file.endswith((".nii", ".nii.gz")) and len(parts) > 4:
                groups[base, "_".join(parts[:3] + parts[4:])][parts[3]] = os.path.join(base, file)
    return each(sorted(groups.items()), _brats_case)


def _brats_case(item: tuple[tuple[str, str], Mapping[str, str]]) -> Iterator[RawCase]:
    (base, stem), files = item
    if missing := [modality for modality in (*BRATS, "seg") if modality not in files]:
        raise DataError(f"{os.path.join(base, stem)}: the modality {missing[0]} is missing")
    arrays = {modality: nifti(files[modality]) for modality in (*BRATS, "seg")}
    if arrays["flair"].shape == (240, 240):
        arrays = {modality: array[8:-8, 8:-8] for modality, array in arrays.items()}
    planes = {modality: scaled(arrays[modality], files[modality]) for modality in BRATS}
    name = re.sub(r"\.nii(\.gz)?$", "", stem)
    return slices(name, planes, [arrays["seg"] > 0], "_".join(stem.split("_")[:3]))


def ms_mri(config: ConvertConfig) -> Iterator[RawCase | DataError | str]:
    """Multiple sclerosis: *_flair_*, *_t1_* or *_mprage_*, *_t2_*, *_pd_* volumes, *_mask1*, *_mask2*, slice by slice.

    Of several files of the same volume, a file named _pp is preferred, then one in a folder named preprocessed, then
    the first by path.
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for base, _, files in walk(config.src):
        for file in files:
            if match := MS_FILE.fullmatch(file):
                groups[match[1]][match[2].lower()].append(os.path.join(base, file))
    volumes = [paths for files in groups.values() for paths in files.values()]
    several = [paths for paths in volumes if len(paths) > 1]
    if several:
        yield (
            f"{len(several)} volumes exist more than once, e.g. with and without preprocessing; "
            f"using {_preprocessed(several[0])}, for example"
        )
    yield from each(sorted(groups.items()), partial(_ms_visit, config))


def _preprocessed(paths: Iterable[str]) -> str:
    """The preprocessed file among several of the same volume."""

    def rank(path: str) -> tuple[bool, bool]:
        return "_pp." not in os.path.basename(path).lower(), "preprocessed" not in path.lower().split(os.sep)

    return min(paths, key=rank)


def _ms_visit(config: ConvertConfig, item: tuple[str, Mapping[str, list[str]]]) -> Iterator[RawCase]:
    stem, files = item
    found = {names[0]: [path for name in names for path in files.get(name, ())] for names in MS}
    numbers = sorted((name for name in files if name.startswith("mask")), key=lambda name: int(name[4:]))
    missing = [name for name, paths in found.items() if not paths]
    if not numbers:
        missing.append("mask1")
    if missing:
        raise DataError(f"{config.src}: {stem} has no {missing[0]} file")
    chosen = {name: _preprocessed(paths) for name, paths in found.items()}
    volumes = {name: scaled(nifti(path), path) for name, path in chosen.items()}
    masks = [nifti(_preprocessed(files[name])) > 0 for name in numbers]
    return slices(stem, volumes, masks, stem.split("_")[0], config.axis)


def folders(config: ConvertConfig) -> Iterator[RawCase | DataError]:
    """Folders with one picture and several masks, recognised by name (mask, label, seg, gt, rater, expert).

    PNG, JPEG, BMP or TIFF.
    """
    return each(walk(config.src), partial(_pictures_of, config))


def _pictures_of(config: ConvertConfig, item: tuple[str, list[str], list[str]]) -> list[RawCase]:
    base, _, files = item
    pictures = [file for file in files if PICTURE.search(file)]
    masks = [file for file in pictures if MASK.search(file)]
    images = [file for file in pictures if not MASK.search(file)]
    if not masks or not images:
        return []
    if len(images) > 1:
        raise DataError(
            f"{base}: {len(images)} pictures that are not named as masks, e.g. {images[0]} and {images[1]}; keep one"
        )
    name = os.path.relpath(base, config.src).replace(os.sep, "-")
    name = os.path.basename(os.path.abspath(base)) if name == "." else name
    raters = [mask(os.path.join(base, file), config.label_threshold) for file in sorted(masks, key=_in_natural_order)]
    return [RawCase(name, {"": picture(os.path.join(base, images[0]))}, raters, name)]


def _in_natural_order(name: str) -> list[int | str]:
    """A sort key that puts rater10 after rater9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
