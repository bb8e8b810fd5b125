"""Converters for published versions of LIDC-IDRI; see `formats.converters` for their interface."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ...data.names import SPLIT_NAMES, public_id
from ...errors import DataError
from ..case_writer import Origin, RawCase
from ..formats import safe_pickle
from ..formats.config import ConvertConfig
from ..formats.foreign_files import PICTURE, each, files_in, folders_in, read_pictures, refuse_huge

LONGEST_UID = 200  # bytes


def _in_unit_range(image: np.ndarray, source: str) -> np.ndarray:
    image = np.asarray(image, dtype=np.float64)
    if image.ndim != 2 or not np.isfinite(image).all() or image.min() < -1e-6 or image.max() > 1 + 1e-6:
        raise DataError(f"{source}: images must have shape [H, W] and values in [0, 1]")
    return image


def lidc_pickle(config: ConvertConfig) -> Iterator[RawCase | DataError | str]:
    """data_lidc.pickle: {key: {image [H, W] in [0, 1], masks: arrays of 0 and 1, series_uid}}."""
    content = safe_pickle.load(config.src)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{config.src}: not a dict of cases; use data_lidc.pickle")
    if not all(public_id(str(key)) for key in content):
        yield (
            "the file names series but not patients, so it is split by series: two series of a patient may end up in "
            "different splits; pass --patients to name the patients"
        )
    yield from each(content.items(), partial(_pickled_case, config.src))


def _pickled_case(path: str, item: tuple[object, Any]) -> Iterator[RawCase]:
    key, entry = item
    source = f"{path}, {str(key)[:80]}"
    try:
        image, masks, series = entry["image"], list(entry["masks"]), str(entry["series_uid"])
        arrays = (image, *masks)
        if not masks or not all(isinstance(array, np.ndarray) and array.shape == image.shape for array in arrays):
            raise ValueError(f"shapes differ: {sorted({np.shape(array) for array in arrays}, key=str)}")
        image = _in_unit_range(image, source)
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{source}: image, masks and series_uid are required ({error})") from error
    yield RawCase(str(key), {"": image}, masks, public_id(str(key)) or series, origin=Origin(series=series))


def lidc_hdf5(config: ConvertConfig) -> Iterator[RawCase | DataError | str]:
    """The files of PHiSeg and CCDM: groups train, val and test, each with the arrays of its cases.

    images  [N, H, W], minus 0.5
    labels  [N, H, W, R] or [N, R, H, W]
    uids    [N], patient identifiers; optional
    """
    try:
        import h5py
    except ImportError:
        raise DataError('HDF5 needs h5py; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        file = h5py.File(config.src, "r")
    except OSError as error:
        raise DataError(f"{config.src}: cannot be read as HDF5 ({' '.join(str(error).split())})") from error
    with file:
        groups = [name for name in file if name in SPLIT_NAMES]
        if not groups:
            raise DataError(
                f"{config.src}: requires groups named train, val or test, but has {', '.join(file) or 'no groups'}"
            )
        arrays_of = {group: _arrays_of(file, group, f"{config.src}, {group}") for group in groups}
        if without := [group for group, arrays in arrays_of.items() if "uids" not in arrays]:
            yield f"{', '.join(without)} without uids: each case counts as a patient, and keeps the split of the file"
        for group, arrays in arrays_of.items():
            yield from each(range(len(arrays["images"])), partial(_stored_case, config.src, group, arrays))


def _arrays_of(file: Any, group: str, source: str) -> dict[str, Any]:
    """{name: HDF5 dataset} of a group: images, labels, and uids if present.

    DataError: they are unusable, or stored in other files.
    """
    try:
        arrays = {name: file[group][name] for name in ("images", "labels", "uids") if name in file[group]}
        if not {"images", "labels"} <= arrays.keys():
            raise DataError(f"{source}: images and labels are required")
        images, labels, uids = arrays["images"], arrays["labels"], arrays.get("uids", arrays["images"])
        fit = (
            images.ndim == 3
            and labels.ndim == 4
            and len(images) == len(labels) == len(uids)
            and ("uids" not in arrays or uids.ndim == 1)
        )
        if any(array.external or array.is_virtual or array.file.filename != file.filename for array in arrays.values()):
            raise DataError(f"{source}: refers to values in other files, which is not allowed; copy them into the file")
        numbers = images.dtype.kind in "biuf" and labels.dtype.kind in "biuf" and uids.dtype.itemsize <= LONGEST_UID
    except (KeyError, OSError, TypeError, AttributeError) as error:  # not a group, not arrays, broken links
        raise DataError(f"{source}: images and labels are required ({' '.join(str(error).split())})") from error
    if not fit or not numbers:
        shapes = ", ".join(f"{name} {array.shape} of {array.dtype}" for name, array in arrays.items())
        raise DataError(f"{source}: shapes or types do not match: {shapes}")
    refuse_huge(labels.shape[1:], source)
    for array in arrays.values():
        refuse_huge(array.chunks or (1,), source)  # a chunk is decompressed as a whole
    return arrays


def _stored_case(path: str, group: str, arrays: Mapping[str, Any], k: int) -> Iterator[RawCase]:
    """Case number k of a group, read individually because the files are large."""
    name = f"{group}{k:05d}"
    try:
        image, masks = np.asarray(arrays["images"][k], dtype=np.float64) + 0.5, np.asarray(arrays["labels"][k])
        patient = arrays["uids"][k] if "uids" in arrays else name
    except (OSError, ValueError) as error:
        raise DataError(f"{path}, {name}: cannot be read ({error}); download the file again") from error
    patient = patient.decode(errors="replace") if isinstance(patient, bytes) else str(patient)
    if arrays["labels"].shape[1:3] == arrays["images"].shape[1:]:
        masks = np.moveaxis(masks, -1, 0)
    planes = {"": _in_unit_range(image, f"{path}, {name}")}
    yield RawCase(name, planes, masks, patient[:LONGEST_UID], SPLIT_NAMES[group])


def lidc_crops(config: ConvertConfig) -> Iterator[RawCase | DataError]:
    """The PNG crops, or other pictures: SPLIT/images/PATIENT/z-Z_cK.png, SPLIT/gt/PATIENT/z-Z_cK_lR.png."""
    for split in folders_in(config.src):
        if split not in SPLIT_NAMES:
            continue
        for patient in folders_in(os.path.join(config.src, split, "images")):
            files = filter(PICTURE.search, files_in(os.path.join(config.src, split, "images", patient)))
            yield from each(files, partial(_crop, config, split, patient))


def _crop(config: ConvertConfig, split: str, patient: str, file: str) -> Iterator[RawCase]:
    images, labels = (os.path.join(config.src, split, kind, patient) for kind in ("images", "gt"))
    stem = PICTURE.sub("", file)
    mask_name = re.compile(rf"{re.escape(stem)}_l(\d+){PICTURE.pattern}", re.IGNORECASE)
    masks: dict[int, str] = {}
    for name in files_in(labels):
        if match := mask_name.match(name):
            other = masks.setdefault(int(match[1]), name)
            if other != name:
                raise DataError(f"{os.path.join(labels, name)}: {other} is by the same reader; remove one")
    if not masks:
        raise DataError(f"{os.path.join(labels, stem)}_l0.png: no mask found for {os.path.join(images, file)}")
    paths = [os.path.join(labels, masks[reader]) for reader in sorted(masks)]
    planes, raters, turned = read_pictures(os.path.join(images, file), paths)
    origin, within = Origin(slice=stem), (patient, stem)
    yield RawCase(f"{patient}_{stem}", planes, raters, patient, SPLIT_NAMES[split], origin, turned, within)
