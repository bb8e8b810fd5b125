"""
A folder of cases -> the image and ALL rater masks of each; picking a rater is a separate step, `batches.pick_rater`.

    CASE/image*.{png,jpg,npy,nii.gz}     one grey image, or one file per modality
    CASE/label0_*, CASE/label1_*, ...    one mask per rater, any number of raters

Every folder below the directory that holds an image is a case, named by its path below the directory.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from tqdm import tqdm

from .image_files import DataError, is_jpeg, read_image, read_label, resize
from .packed import PackedCases, write_pack

IMAGE = re.compile(r"image.*\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)
LABEL = re.compile(r"label(\d+)(?:_.*)?\.(png|jpe?g|npy|nii|nii\.gz)$", re.IGNORECASE)
CACHE_BYTES = 2**30  # decoded cases kept in memory; beyond that they are read again
FAULTS_SHOWN = 20


@dataclass(frozen=True)
class DataConfig:
    label_threshold: Annotated[float, "a JPEG label is foreground above this share of full scale (0: as published)"] = 0.5
    merge_labels: Annotated[bool, "take every nonzero class of a label as foreground"] = False
    intensity_range: Annotated[
        tuple[float, ...] | None, "LO,HI of NPY and NIfTI images, mapped to [0, 1]; default: each image's own range"
    ] = None


@dataclass(frozen=True)
class Case:
    id: str
    image: torch.Tensor  # [C, H, W] float32 in [0, 1]
    raters: torch.Tensor  # [R, H, W] float32, 0 or 1; R may be 0 where raters are not required


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
        return self._fit(folder, image, raters)

    def _read_label(self, file):
        mask, levels = read_label(file, self.config.label_threshold, self.config.merge_labels)
        if levels > 2 and is_jpeg(file):
            self._levels.add(file)
        return mask

    def _fit(self, folder, image, raters):
        side = self.image_size
        if side is None or image.shape[1:] == (side, side):
            return image, raters
        self._resized[folder] = image.shape[1:]
        return np.stack([resize(plane, side) for plane in image]), resize_masks(raters, side)

    def notes(self, num_cases):
        """What was changed in the `num_cases` cases read, a line each."""
        notes = []
        if self._resized:
            sizes = ", ".join(sorted({f"{w}x{h}" for h, w in self._resized.values()}))
            notes.append(
                f"{len(self._resized)} of {num_cases} cases are resized to {self.image_size}x{self.image_size} "
                f"(--image_size): they are {sizes}"
            )
            if any(h != w for h, w in self._resized.values()):
                notes.append("some of these are not square and are stretched")
        if self._levels:
            notes.append(
                f"warning: {len(self._levels)} JPEG labels have more than two levels; foreground is what lies above "
                f"{self.config.label_threshold:g} of full scale (--label_threshold)"
            )
        return notes


class LIDCDataset(torch.utils.data.Dataset):
    """
    The cases below `directory`, each a `Case`.

    image_size      cases of another size are resized to this square, labels staying binary; None: leave them as they are
    image_channels  one grey image is repeated to so many channels; several modalities must be so many; None: as they are
    require_raters  a case without labels is an error (False: its raters are empty)
    cache_dir       decode once, into a memory-mapped file in this folder whose name says what the cases hold; None: decoded
                    cases stay in memory, up to CACHE_BYTES

    Every file is read once here, so that every broken case is named before anything starts: DataError.
    `notes` says, a line each, what was changed on the way in; `fingerprint` is a hash of all cases (None without a cache).
    """

    def __init__(self, directory, image_size=None, image_channels=4, config=DataConfig(), require_raters=True, cache_dir=None):
        self.directory, self.image_channels = str(directory), image_channels
        self.reader = CaseReader(image_size, image_channels, config, require_raters)
        self.folders = find_cases(self.directory)
        if cache_dir is None:
            self.fingerprint, store = None, MemoryStore(self.reader, self.folders)
            for index, (_, *arrays) in enumerate(decode(self.reader, self.folders)):
                store.keep(index, arrays)
            self.notes, self._arrays = self.reader.notes(len(self)), store.arrays
        else:
            self.fingerprint = hash_cases(self.folders, self.reader.settings)
            pack = open_cache(cache_dir, self.fingerprint, self.reader, self.folders)
            self.notes, self._arrays = pack.header["notes"], pack.arrays

    def __len__(self):
        return len(self.folders)

    def __getitem__(self, index):
        """`Case` number index, in the order of the cases' names."""
        return make_case(self.folders[index][0], *self._arrays(index), self.image_channels)


class MemoryStore:
    """Decoded cases in memory; those that have no room are read again each time."""

    def __init__(self, reader, folders):
        self.reader, self.folders, self.kept, self.room = reader, folders, {}, CACHE_BYTES

    def keep(self, index, arrays):
        size = sum(array.nbytes for array in arrays)
        if size <= self.room:
            self.kept[index] = arrays
            self.room -= size

    def arrays(self, index):
        return self.kept.get(index) or self.reader.read(self.folders[index][1])


def decode(reader, folders):
    """Yield (name, image, raters) of every case. DataError, at the end: the broken ones, all at once."""
    faults = []
    shown = tqdm(folders, desc="reading cases", unit="case", delay=3, leave=False, dynamic_ncols=True)
    for name, folder in shown:
        try:
            image, raters = reader.read(folder)
        except DataError as error:
            faults.append(str(error))
            continue
        yield name, image, raters
    if faults:
        more = [f"... and {len(faults) - FAULTS_SHOWN} more broken cases"] if len(faults) > FAULTS_SHOWN else []
        raise DataError("\n".join(faults[:FAULTS_SHOWN] + more))


# -- the cache of decoded cases ---------------------------------------------------------------------------------------


def default_cache_dir(environ=os.environ):
    """ambiguous-segmentation in the user's cache folder."""
    return os.path.join(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ambiguous-segmentation")


def hash_cases(folders, settings):
    """16 hexadecimal digits of the SHA-256 of every case's name and files, and of the settings that they are read with."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, folder in folders:
        digest.update(repr(name).encode())
        for file in sorted(file for file in os.listdir(folder) if IMAGE.match(file) or LABEL.match(file)):
            with open(os.path.join(folder, file), "rb") as opened:
                digest.update(f"{file}:{hashlib.sha256(opened.read()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def open_cache(cache_dir, fingerprint, reader, folders):
    """The PackedCases of these cases in `cache_dir`, decoded into it first if need be, by one process while others wait."""
    path = os.path.join(cache_dir, f"{fingerprint}.pack")
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with open(os.path.join(cache_dir, f".{fingerprint}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path):
                with contextlib.suppress(DataError):  # damaged: it is made anew
                    return PackedCases(path)
            write_pack(path, decode(reader, folders), lambda: {"fingerprint": fingerprint, "notes": reader.notes(len(folders))})
    except OSError as error:
        raise DataError(f"{cache_dir}: decoded cases cannot be kept there ({error}); name another folder (--cache_dir)") from error
    return PackedCases(path)


def make_case(name, image, raters, image_channels=None):
    """`Case` of a CaseReader's arrays; one grey image is repeated to `image_channels`, where that is given."""
    image, raters = torch.from_numpy(image), torch.from_numpy(raters)
    return Case(name, image.expand(image_channels or len(image), -1, -1), raters.float())


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
