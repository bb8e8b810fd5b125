"""Finds folders of cases, and reads the image and ALL rater masks of each."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from ..errors import DataError
from ..flags.fields import Flag, config, lower_first
from ..system.storage import walk
from .image_files import Pixels, is_jpeg, read_image, read_levels, to_mask
from .packed import ImageArray, RatersArray
from .resize import pad_to, resize, resize_masks

IMAGE = re.compile(r"image.*\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)
LABEL = re.compile(r"label(\d+)(?:_.*)?\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)

T = TypeVar("T")


@config(resume="new run")
class DataConfig:
    """How image and label files are read."""

    label_threshold: Annotated[
        float,
        Flag(
            "threshold of JPEG labels, as a share of full scale (0: as published)",
            sampling="free",
            decodes=True,
            at_least=0,
            below=1,
        ),
    ] = 0.5
    merge_labels: Annotated[
        bool, Flag("treat every nonzero class of a label as foreground", sampling="free", decodes=True)
    ] = False
    intensity_range: Annotated[
        tuple[float, ...] | None,
        Flag(
            "LO,HI of NPY and NIfTI images, mapped to [0, 1]; auto: minimum and maximum of each image",
            none="auto",
            decodes=True,
            check=lower_first,
        ),
    ] = None
    resize: Annotated[
        bool, Flag("resize cases to --image_size (False: other sizes are an error, unless --pad makes them fit)")
    ] = True
    pad: Annotated[
        bool, Flag("pad cases that are not square or smaller than --image_size with black instead of stretching them")
    ] = False


class CaseReader:
    """Reads the files of cases, and keeps a record of the changes it made.

    image_size      resize cases to this square size, labels stay binary; None: keep their size
    image_channels  required number of images for multi-modal cases; None: any
    require_raters  a case without labels is an error (False: its raters are empty)
    levels          {label file: number of distinct values} of all labels that could be decoded
    """

    def __init__(
        self,
        image_size: int | None = None,
        image_channels: int | None = None,
        config: DataConfig = DataConfig(),
        require_raters: bool = True,
    ) -> None:
        self.image_size, self.image_channels = image_size, image_channels
        self.config, self.require_raters = config, require_raters
        self.levels: dict[str, int] = {}
        self._resized: dict[str, tuple[int, int]] = {}  # {case: its height and width}

    @property
    def settings(self) -> list[Any]:
        """The settings that affect the result of reading, as plain values."""
        return [self.image_size, self.image_channels, self.require_raters, dataclasses.astuple(self.config)]

    def read(self, folder: str) -> tuple[ImageArray, RatersArray]:
        """The image of a case in [0, 1], with one channel per modality, and the masks of its raters.

        DataError: the case is broken; one line per fault.
        """
        image_files, label_files, faults = list_files(folder)
        if not label_files and self.require_raters:
            faults.append(f"{folder}: no label; add a mask per rater, named label0_*.png, label1_*.png, ...")
        if self.image_channels and image_files and len(image_files) not in (1, self.image_channels):
            faults.append(
                f"{folder}: {len(image_files)} images, but --image_channels {self.image_channels}; "
                "use one grey image, or one image per channel"
            )
        planes = _read_each(image_files, lambda file: read_image(file, self.config.intensity_range), faults)
        labels = _read_each(label_files, read_levels, faults)
        arrays = {**planes, **{file: array for file, (array, *_) in labels.items()}}
        faults += size_faults(arrays)
        masks = _read_each(labels, lambda file: self._to_mask(file, *labels[file]), faults)
        if faults:
            raise DataError("\n".join(faults))
        image = np.stack(list(planes.values()))
        raters = np.stack(list(masks.values())) if masks else np.zeros((0, *image.shape[1:]), dtype=bool)
        return self.fit(folder, image, raters)

    def _to_mask(
        self, file: str, array: Pixels, full_scale: int | None, levels: Shaped[np.ndarray, " levels"]
    ) -> Bool[np.ndarray, "H W"]:
        self.levels[file] = len(levels)
        return to_mask(file, array, full_scale, levels, self.config.label_threshold, self.config.merge_labels)

    def fit(
        self, name: str, image: ImageArray, raters: RatersArray
    ) -> tuple[Float32[np.ndarray, "C h w"], Bool[np.ndarray, "R h w"]]:
        """Pad and resize image and raters to `image_size`, as the config allows."""
        side = self.image_size
        if side is None or image.shape[1:] == (side, side):
            return image, raters
        self.check_size(name, (image.shape[1], image.shape[2]))
        if self.config.pad:
            square = max(*image.shape[1:], side)
            image, raters = pad_to(image, square), pad_to(raters, square)
        if image.shape[1:] != (side, side):
            image, raters = np.stack([resize(plane, side) for plane in image]), resize_masks(raters, side)
        return image, raters

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Record a case whose size (height, width) differs from image_size. DataError: it must not be resized."""
        side = self.image_size
        if side is None or size == (side, side):
            return
        if not self.config.resize and (max(size) > side or not self.config.pad):
            remedy = "or --pad True" if max(size) <= side else f"or --image_size {max(size)}"
            raise DataError(
                f"{name}: {size[1]}x{size[0]} pixels, but --image_size {side} and --resize False: "
                f"use --resize True, {remedy}"
            )
        self._resized[name] = size

    def notes(self, num_cases: int) -> list[str]:
        """The changes made to the `num_cases` cases read, one line each."""
        notes = []
        if self._resized:
            sizes = ", ".join(sorted({f"{w}x{h}" for h, w in self._resized.values()}))
            notes.append(
                f"{len(self._resized)} of {num_cases} cases are {'padded' if self.config.pad else 'resized'} to "
                f"{self.image_size}x{self.image_size} (--image_size); their sizes are {sizes}"
            )
            if any(h != w for h, w in self._resized.values()) and not self.config.pad:
                notes.append("some of them are not square and are stretched; --pad True keeps their aspect ratio")
        if soft := sum(count > 2 and is_jpeg(file) for file, count in self.levels.items()):
            notes.append(
                f"warning: {soft} JPEG labels have more than two levels; values above "
                f"{self.config.label_threshold:g} of full scale are foreground (--label_threshold)"
            )
        return notes


class CaseFiles(NamedTuple):
    """The files of a case."""

    images: list[str]  # sorted by name
    labels: list[str]  # sorted by rater
    faults: list[str]  # one line each


def find_cases(directory: str) -> list[tuple[str, str]]:
    """(name, folder) of every folder at or below `directory` that contains an image or a label, sorted by name.

    Follows links to folders, but visits each folder once.
    """
    if not os.path.isdir(directory):
        what = "a file, not a folder of cases" if os.path.isfile(directory) else "no such folder of cases"
        raise DataError(f"{directory}: {what}")
    cases: dict[str, str] = {}
    for folder, subfolders, files in walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as partially written cases
        if not any(IMAGE.match(file) or LABEL.match(file) for file in files):
            continue
        relative = os.path.relpath(folder, directory)
        name = os.path.basename(os.path.abspath(folder)) if relative == "." else relative.replace(os.sep, "-")
        if name in cases:
            raise DataError(f"{folder}: has the same case name, {name}, as {cases[name]}; rename one of them")
        cases[name] = folder
    if not cases:
        raise DataError(f"{directory}: no cases found; expected CASE/image*.png and CASE/label0_*.png")
    return sorted(cases.items())


def list_files(folder: str) -> CaseFiles:
    """The files of a case; a missing image, two labels of one rater, and a gap in the numbers of raters are faults."""
    files = sorted(os.listdir(folder))
    images = [os.path.join(folder, file) for file in files if IMAGE.match(file)]
    faults = [] if images else [f"{folder}: no image; add one named image*.png, .jpg, .npy or .nii.gz"]
    labels: dict[int, str] = {}
    for file in files:
        if match := LABEL.match(file):
            rater = int(match[1])
            if rater in labels:
                faults.append(
                    f"{folder}: two labels of rater {rater}, {os.path.basename(labels[rater])} and {file}; remove one"
                )
            labels[rater] = os.path.join(folder, file)
    if missing := set(range(len(labels))) - set(labels):
        faults.append(
            f"{folder}: label{min(missing)}_* is missing, but label{max(labels)}_* exists; number the raters from 0"
        )
    return CaseFiles(images, [labels[rater] for rater in sorted(labels)], faults)


def size_faults(arrays: Mapping[str, Pixels]) -> list[str]:
    """A line for each file whose array differs in shape from the first."""
    sizes = {file: f"{array.shape[1]}x{array.shape[0]} in {os.path.basename(file)}" for file, array in arrays.items()}
    faults = []
    for file, array in arrays.items():
        first = next(iter(arrays))
        if array.shape != arrays[first].shape:
            faults.append(f"{file}: {sizes[first]} but {sizes[file]}; all files of a case must have the same size")
    return faults


def _read_each(files: Iterable[str], read: Callable[[str], T], faults: list[str]) -> dict[str, T]:
    """{file: read(file)}; if `read` raises a DataError, its text is added to the faults instead."""
    found: dict[str, T] = {}
    for file in files:
        try:
            found[file] = read(file)
        except DataError as error:
            faults.append(str(error))
    return found
