"""One folder -> one case's image and ALL its raters' masks; finding such folders, and their faults."""

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from .image_files import DataError, is_jpeg, read_image, read_label, resize

IMAGE = re.compile(r"image.*\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)
LABEL = re.compile(r"label(\d+)(?:_.*)?\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)


@dataclass(frozen=True)
class DataConfig:
    label_threshold: Annotated[float, "a JPEG label is foreground above this share of full scale (0: as published)"] = 0.5
    merge_labels: Annotated[bool, "take every nonzero class of a label as foreground"] = False
    intensity_range: Annotated[
        tuple[float, ...] | None, "LO,HI of NPY and NIfTI images, mapped to [0, 1]; default: each image's own range"
    ] = None
    resize: Annotated[bool, "bring cases of other sizes to --image_size (False: they are an error, unless --pad makes them fit)"] = True
    pad: Annotated[bool, "surround cases that are not square, or smaller than --image_size, with black, so that nothing is stretched"] = False


class CaseReader:
    """
    Reads a case's files, and remembers what it changed on the way in.

    image_size      cases of another size are resized to this square, labels staying binary; None: leave them as they are
    image_channels  several modalities must be so many; None: any number
    require_raters  a case without labels is an error (False: its raters are empty)
    """

    def __init__(self, image_size=None, image_channels=None, config=DataConfig(), require_raters=True):
        check_data_config(config)
        self.image_size, self.image_channels = image_size, image_channels
        self.config, self.require_raters = config, require_raters
        self._resized, self._levels = {}, set()

    @property
    def settings(self):
        """What decides, beside the files, what is read; plain values."""
        return [self.image_size, self.image_channels, self.require_raters, dataclasses.astuple(self.config)]

    def read(self, folder):
        """Image [1 or C, H, W] float32 in [0, 1] and raters [R, H, W] bool of one case. DataError: the case is broken."""
        image_files, label_files = case_files(folder)
        if not label_files and self.require_raters:
            raise DataError(f"{folder}: no label; each rater's mask is wanted as label0_*.png, label1_*.png, ...")
        if self.image_channels and len(image_files) not in (1, self.image_channels):
            raise DataError(
                f"{folder}: {len(image_files)} images, but --image_channels {self.image_channels}; "
                "give one grey image, or as many modalities as channels"
            )
        image = np.stack(same_size(image_files, [read_image(file, self.config.intensity_range) for file in image_files]))
        labels = [self._read_label(file) for file in label_files]
        same_size(image_files[:1] + label_files, [image[0]] + labels)
        raters = np.stack(labels) if labels else np.zeros((0, *image.shape[1:]), dtype=bool)
        return self.fit(folder, image, raters)

    def _read_label(self, file):
        mask, levels = read_label(file, self.config.label_threshold, self.config.merge_labels)
        if levels > 2 and is_jpeg(file):
            self._levels.add(file)
        return mask

    def fit(self, name, image, raters):
        """Image and raters at `image_size`, by padding and resizing where that is wanted."""
        side = self.image_size
        if side is None or image.shape[1:] == (side, side):
            return image, raters
        self.check_size(name, image.shape[1:])
        if self.config.pad:
            square = max(*image.shape[1:], side)
            image, raters = pad_to(image, square), pad_to(raters, square)
        if image.shape[1:] != (side, side):
            image, raters = np.stack([resize(plane, side) for plane in image]), resize_masks(raters, side)
        return image, raters

    def check_size(self, name, size):
        """Remember a case of another size (height, width) than image_size. DataError: it may not be brought to that."""
        side = self.image_size
        if size == (side, side):
            return
        if not self.config.resize and (max(size) > side or not self.config.pad):
            remedy = "or --pad True" if max(size) <= side else f"or --image_size {max(size)}"
            raise DataError(f"{name}: {size[1]}x{size[0]} pixels, but --image_size {side} and --resize False: give --resize True, {remedy}")
        self._resized[name] = size

    def notes(self, num_cases):
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
        if self._levels:
            notes.append(
                f"warning: {len(self._levels)} JPEG labels have more than two levels; foreground is what lies above "
                f"{self.config.label_threshold:g} of full scale (--label_threshold)"
            )
        return notes


def pad_to(planes, side):
    """[N, H, W] in the middle of [N, side, side], 0 around it."""
    before = [(side - length) // 2 for length in planes.shape[1:]]
    return np.pad(planes, ((0, 0), *((b, side - length - b) for b, length in zip(before, planes.shape[1:]))))


def resize_masks(masks, side):
    """[R, H, W] bool -> [R, side, side] bool: foreground where more than half of a pixel is."""
    resized = [resize(mask.astype(np.float32), side) > 0.5 for mask in masks]
    return np.array(resized, dtype=bool).reshape(-1, side, side)


def check_data_config(config):
    """Refuse flags that no data could meet."""
    if not 0 <= config.label_threshold < 1:
        raise DataError(f"--label_threshold {config.label_threshold}: a share of full scale from 0 to below 1 is needed")
    bounds = config.intensity_range
    if bounds is not None and (len(bounds) != 2 or not bounds[0] < bounds[1]):
        raise DataError(f"--intensity_range {bounds}: two values, the lower first, are needed, e.g. -1000,400")


def find_cases(directory):
    """
    [(name, folder)] of every folder at or below `directory` that holds an image or a label, in the order of their names.

    Links to folders are followed, each folder once.
    """
    if not os.path.isdir(directory):
        raise DataError(f"{directory}: no such folder (--data_dir)")
    cases, seen = {}, set()
    for folder, subfolders, files in os.walk(directory, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # half-written ones among them
        if not any(IMAGE.match(file) or LABEL.match(file) for file in files):
            continue
        relative = os.path.relpath(folder, directory)
        name = os.path.basename(os.path.abspath(folder)) if relative == "." else relative.replace(os.sep, "-")
        if name in cases:
            raise DataError(f"{folder}: its name {name} is also that of {cases[name]}; rename one")
        cases[name] = folder
    if not cases:
        raise DataError(f"{directory}: no case; CASE/image*.png beside CASE/label0_*.png is wanted")
    return sorted(cases.items())


def case_files(folder):
    """The image files, by name, and the label files, by rater, of one case. DataError: none, or a rater is missing."""
    files = sorted(os.listdir(folder))
    images = [os.path.join(folder, file) for file in files if IMAGE.match(file)]
    if not images:
        raise DataError(f"{folder}: no image; one named image*.png, .jpg, .npy or .nii.gz is wanted")
    labels = {}
    for file in files:
        if match := LABEL.match(file):
            rater = int(match[1])
            if rater in labels:
                raise DataError(f"{folder}: two labels of rater {rater}: {os.path.basename(labels[rater])} and {file}; keep one")
            labels[rater] = os.path.join(folder, file)
    missing = set(range(len(labels))) - set(labels)
    if missing:
        raise DataError(f"{folder}: label{min(missing)}_* is missing, yet label{max(labels)}_* is there; number the raters from 0")
    return images, [labels[rater] for rater in sorted(labels)]


def same_size(files, arrays):
    """The arrays, if all have one shape; otherwise DataError names the first file that differs."""
    for file, array in zip(files, arrays):
        if array.shape != arrays[0].shape:
            sizes = " but ".join(f"{a.shape[1]}x{a.shape[0]} in {os.path.basename(f)}" for f, a in ((files[0], arrays[0]), (file, array)))
            raise DataError(f"{file}: {sizes}; all files of a case must have one size")
    return arrays
