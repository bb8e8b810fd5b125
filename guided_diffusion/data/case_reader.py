"""One folder -> one case's image and ALL its raters' masks; finding such folders, and their faults."""

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
    """How files become cases."""

    label_threshold: Annotated[
        float,
        Flag(
            "a JPEG label is foreground above this share of full scale (0: as published)",
            sampling="free",
            decodes=True,
            at_least=0,
            below=1,
        ),
    ] = 0.5
    merge_labels: Annotated[
        bool, Flag("every nonzero class of a label is foreground", sampling="free", decodes=True)
    ] = False
    intensity_range: Annotated[
        tuple[float, ...] | None,
        Flag(
            "LO,HI of NPY and NIfTI images, mapped to [0, 1]; auto: each image's own range",
            none="auto",
            decodes=True,
            check=lower_first,
        ),
    ] = None
    resize: Annotated[
        bool, Flag("bring cases of other sizes to --image_size (False: an error, unless --pad makes them fit)")
    ] = True
    pad: Annotated[
        bool, Flag("pad cases that are not square, or smaller than --image_size, with black, so that none is stretched")
    ] = False


class CaseReader:
    """Reads a case's files, and remembers what it changed on the way in.

    image_size      cases of another size are resized to this square, labels staying binary; None: they keep their size
    image_channels  the number that several modalities must have; None: any
    require_raters  a case without labels is an error (False: its raters are empty)
    levels          {label file: number of levels in it} of all labels that could be decoded
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
        """What decides, beside the files, what is read; plain values."""
        return [self.image_size, self.image_channels, self.require_raters, dataclasses.astuple(self.config)]

    def read(self, folder: str) -> tuple[ImageArray, RatersArray]:
        """One case's image in [0, 1], of one channel or one for each modality, and its raters' masks.

        DataError: the case is broken; a line for each of its faults.
        """
        image_files, label_files, faults = list_files(folder)
        if not label_files and self.require_raters:
            faults.append(f"{folder}: no label; each rater's mask is needed as label0_*.png, label1_*.png, ...")
        if self.image_channels and image_files and len(image_files) not in (1, self.image_channels):
            faults.append(
                f"{folder}: {len(image_files)} images, but --image_channels {self.image_channels}; "
                "give one grey image, or as many modalities as channels"
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
        """Image and raters at `image_size`, by padding and resizing as the config allows."""
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
        """Remember a case of another size (height, width) than image_size. DataError: it may not be brought to that."""
        side = self.image_size
        if side is None or size == (side, side):
            return
        if not self.config.resize and (max(size) > side or not self.config.pad):
            remedy = "or --pad True" if max(size) <= side else f"or --image_size {max(size)}"
            raise DataError(
                f"{name}: {size[1]}x{size[0]} pixels, but --image_size {side} and --resize False: "
                f"give --resize True, {remedy}"
            )
        self._resized[name] = size

    def notes(self, num_cases: int) -> list[str]:
        """What was changed in the `num_cases` cases read, a line each."""
        notes = []
        if self._resized:
            sizes = ", ".join(sorted({f"{w}x{h}" for h, w in self._resized.values()}))
            notes.append(
                f"{len(self._resized)} of {num_cases} cases are {'padded' if self.config.pad else 'resized'} to "
                f"{self.image_size}x{self.image_size} (--image_size): they are {sizes}"
            )
            if any(h != w for h, w in self._resized.values()) and not self.config.pad:
                notes.append("some of these are not square and are stretched (--pad True keeps their shape)")
        if soft := sum(count > 2 and is_jpeg(file) for file, count in self.levels.items()):
            notes.append(
                f"warning: {soft} JPEG labels have more than two levels; foreground is what lies above "
                f"{self.config.label_threshold:g} of full scale (--label_threshold)"
            )
        return notes


class CaseFiles(NamedTuple):
    """The files of a case."""

    images: list[str]  # by name
    labels: list[str]  # by rater
    faults: list[str]  # a line each


def find_cases(directory: str) -> list[tuple[str, str]]:
    """(name, folder) of every folder at or below `directory` that holds an image or a label, in the order of the names.

    Links to folders are followed, each folder once.
    """
    if not os.path.isdir(directory):
        what = "a file, where a folder of cases is needed" if os.path.isfile(directory) else "no such folder of cases"
        raise DataError(f"{directory}: {what}")
    cases: dict[str, str] = {}
    for folder, subfolders, files in walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # half-written ones among them
        if not any(IMAGE.match(file) or LABEL.match(file) for file in files):
            continue
        relative = os.path.relpath(folder, directory)
        name = os.path.basename(os.path.abspath(folder)) if relative == "." else relative.replace(os.sep, "-")
        if name in cases:
            raise DataError(f"{folder}: its name {name} is also that of {cases[name]}; rename one")
        cases[name] = folder
    if not cases:
        raise DataError(f"{directory}: no case; CASE/image*.png beside CASE/label0_*.png is needed")
    return sorted(cases.items())


def list_files(folder: str) -> CaseFiles:
    """The files of one case; it is a fault to have no image, two labels of one rater, or to leave a rater out."""
    files = sorted(os.listdir(folder))
    images = [os.path.join(folder, file) for file in files if IMAGE.match(file)]
    faults = [] if images else [f"{folder}: no image; one named image*.png, .jpg, .npy or .nii.gz is needed"]
    labels: dict[int, str] = {}
    for file in files:
        if match := LABEL.match(file):
            rater = int(match[1])
            if rater in labels:
                faults.append(
                    f"{folder}: two labels of rater {rater}: {os.path.basename(labels[rater])} and {file}; keep one"
                )
            labels[rater] = os.path.join(folder, file)
    if missing := set(range(len(labels))) - set(labels):
        faults.append(
            f"{folder}: label{min(missing)}_* is missing, yet label{max(labels)}_* is there; number the raters from 0"
        )
    return CaseFiles(images, [labels[rater] for rater in sorted(labels)], faults)


def size_faults(arrays: Mapping[str, Pixels]) -> list[str]:
    """A line for each file whose array has another shape than the first one's."""
    sizes = {file: f"{array.shape[1]}x{array.shape[0]} in {os.path.basename(file)}" for file, array in arrays.items()}
    faults = []
    for file, array in arrays.items():
        first = next(iter(arrays))
        if array.shape != arrays[first].shape:
            faults.append(f"{file}: {sizes[first]} but {sizes[file]}; all files of a case must have one size")
    return faults


def _read_each(files: Iterable[str], read: Callable[[str], T], faults: list[str]) -> dict[str, T]:
    """What `read` returns for each file; where it raises a DataError, its text joins the faults instead."""
    found: dict[str, T] = {}
    for file in files:
        try:
            found[file] = read(file)
        except DataError as error:
            faults.append(str(error))
    return found
