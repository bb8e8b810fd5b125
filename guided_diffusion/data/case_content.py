"""The decoded files of one case, upright and on one grid."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from ..errors import DataError
from .config import DataConfig
from .files.case_files import list_files, size_faults
from .files.decoded import Decoded, to_grey
from .files.grid import Grid, bring_to
from .files.label import Label, label_of
from .files.read import read_file

T = TypeVar("T")


class CaseContent(NamedTuple):
    """The decoded files of a case."""

    images: dict[str, Decoded]
    labels: dict[str, Label]
    raters: list[tuple[str, ...]]  # the labels of each rater; "": an empty mask
    turned: list[str]  # files turned by EXIF, or to the grid of the image
    greyed: list[str]  # images converted from colour
    faults: list[str]  # one line each; with faults, files may be missing

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        images = sum(decoded.planes.nbytes for decoded in self.images.values())
        return images + sum(label.values.nbytes for label in self.labels.values())


def decode_case(folder: str, config: DataConfig = DataConfig(), require_raters: bool = True) -> CaseContent:
    """Decode the files of a case, as far as it is not broken.

    require_raters  a case without labels is broken
    """
    structures = config.structures_in_files
    image_files, raters, faults = found = list_files(folder, structures, config.missing)
    if image_files and not raters and require_raters:
        name = f"label0_{structures[0]}" if structures else "label0_*"
        faults.append(
            f"{folder}: no label; add a mask per rater, named {name}.png, {name.replace('0', '1')}.png, ..., or skip "
            "it with --skip_unlabelled True"
        )
    decoded = read_each([*image_files, *found.labels], read_file, faults)
    return content_of(decoded, image_files, raters, config.grey, faults)


def content_of(
    decoded: dict[str, Decoded],
    image_files: Sequence[str],
    raters: Sequence[tuple[str, ...]] = (),
    grey: bool = False,
    faults: list[str] | None = None,
) -> CaseContent:
    """The content of a case whose files {file: content} are decoded.

    raters  the labels of each rater; "": an empty mask
    grey    convert images in colour
    faults  of files that are not among them
    """
    faults = faults or []
    turned = [file for file, one in decoded.items() if one.turned]
    brought, grid_faults = on_one_grid(decoded)
    turned += brought
    faults += [*grid_faults, *size_faults(decoded)]
    images = read_each(
        (file for file in image_files if file in decoded), lambda file: _image(file, decoded[file]), faults
    )
    label_files = filter(decoded.__contains__, itertools.chain.from_iterable(raters))
    labels = read_each(label_files, lambda file: label_of(file, decoded[file]), faults)
    colour = [file for file, image in images.items() if image.in_colour] if grey else []
    images |= {file: dataclasses.replace(images[file], planes=to_grey(images[file].planes)) for file in colour}
    return CaseContent(images, labels, list(raters), turned, colour, faults)


def _image(file: str, decoded: Decoded) -> Decoded:
    """DataError: the image is transparent in places."""
    if decoded.alpha is not None and np.ptp(decoded.alpha):
        raise DataError(f"{file}: the alpha channel varies; an image must be opaque: save it without an alpha channel")
    return decoded


def on_one_grid(decoded: dict[str, Decoded]) -> tuple[list[str], list[str]]:
    """Bring files with a known grid to that of the first one, in place. Returns the files turned, and faults."""
    turned, faults = [], []
    reference: tuple[str, Grid] | None = None
    for file, one in decoded.items():
        if one.grid is None:
            continue
        if reference is None:
            reference = file, one.grid
            continue
        planes = bring_to(one.planes, one.grid, reference[1])
        if planes is None:
            faults.append(
                f"{file}: its affine puts it on another grid than {os.path.basename(reference[0])}; resample it to "
                "that grid"
            )
        elif not np.shares_memory(planes, one.planes) or planes.strides != one.planes.strides:
            turned.append(file)
            decoded[file] = dataclasses.replace(one, planes=planes, grid=reference[1])
    return turned, faults


def read_each(files: Iterable[str], read: Callable[[str], T], faults: list[str]) -> dict[str, T]:
    """{file: read(file)}; if `read` raises a DataError, its text is added to the faults instead."""
    found: dict[str, T] = {}
    for file in files:
        try:
            found[file] = read(file)
        except DataError as error:
            faults.append(str(error))
    return found


def stack_raters(
    content: CaseContent, masks: Mapping[str, Bool[np.ndarray, "*K H W"]], config: DataConfig, size: tuple[int, int]
) -> tuple[Bool[np.ndarray, "R *K H W"], Bool[np.ndarray, "H W"] | None]:
    """The masks of a case's raters, and the pixels that any rater ignores; None: there are none.

    masks  {label: mask}, of one class or, by levels, of all
    size   (H, W) of the case
    """
    classes, empty = config.class_set, np.zeros(size, dtype=bool)
    shape = (0, classes.count, *size) if classes.several else (0, *size)
    if classes.from_files and classes.several:
        stacked = [np.stack([masks.get(file, empty) for file in files]) for files in content.raters]
    else:
        stacked = [masks.get(file, empty) for (file,) in content.raters]
    raters = np.stack(stacked) if stacked else np.zeros(shape, dtype=bool)
    if config.ignore_label is None:
        return raters, None
    ignored = empty.copy()
    for label in content.labels.values():
        ignored |= label.values == config.ignore_label
    return (raters & ~ignored, ignored) if ignored.any() else (raters, None)
