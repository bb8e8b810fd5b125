"""Writes and reads the files of a case's samples. Does not need torch."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped

from ..data.case_content import on_one_grid
from ..data.files.decoded import Decoded
from ..data.files.label import label_of
from ..data.files.read import read_file
from ..data.geometry import CaseArrays, Geometry, bring_back
from ..data.surveys.classes import ClassRule
from ..data.surveys.levels import MaskRule
from ..errors import ConfigError, DataError
from ..flags.configs import differences
from ..masks.postprocess import binarise
from . import outputs
from .config import SampleConfig, data_config_of, drawn_with, flags_of, postprocess_of
from .names import NIFTI, PNG, mask_path, movie_path, samples_path, stem_of
from .outputs import Made, are_whole, remove_others, shown_at, stale, write_movie, written_geometry
from .writer_pool import PackedArrays

if TYPE_CHECKING:  # it imports torch
    from ..lidcloader import Case

FORMER = {"save_probabilities": False, "output_size": "network"}  # of files written before there were these flags
LARGEST_GAP = 64  # in the indices of a case's mask files, up to which a missing mask is detected

Samples = Shaped[np.ndarray, "M *K H W"]


@runtime_checkable
class Cases(Protocol):
    """The cases of a dataset, without torch."""

    @property
    def ids(self) -> Sequence[str]:
        """The names of the cases."""

    def __getitem__(self, index: int) -> "Case":
        """The case at an index."""

    def own_arrays(self, index: int) -> CaseArrays:
        """Its pixels at its own size."""


def image_hash(case: "Case") -> str:
    """The first 16 hex digits of the SHA-256 of a case's network input; repeated channels are hashed once."""
    planes = np.asarray(case.image)
    distinct = [k for k in range(len(planes)) if k == 0 or not np.array_equal(planes[k], planes[k - 1])]
    return hashlib.sha256(planes[distinct].tobytes()).hexdigest()[:16]


def write_case(
    out_dir: str,
    case: "Case",
    samples: Float32[np.ndarray, "M *K H W"],
    drawn_by: Made,
    finished_by: Made,
    frames: Sequence[np.ndarray] | None = None,
    *,
    own: Callable[[], CaseArrays] | None = None,
) -> None:
    """Write a case's raw samples, masks and sheet into `out_dir`.

    The raw samples are written first, so that a later failure does not lose them. The settings from `finish` are added
    last and mark the case as complete.

    Only the last write is synced to disk. A power failure may keep that file and damage pictures written before it, so
    it stores their checksums, which `unfinished` uses to find and rewrite damaged pictures. A movie cannot be rewritten
    from the samples and is synced too.

    drawn_by     result of `identity`
    finished_by  result of `finish`
    frames       of the movie of the first mask, [[H, W]]; None: do not write a movie
    own          () -> the case at its own size, if the network sees other pixels; None: it is computed from those
    """
    path, geometry = samples_path(out_dir, case.id), written_geometry(case.geometry, finished_by)
    entries = {"written_by": drawn_with(), **drawn_by, "image": image_hash(case), **_of_case(case)}
    stored = PackedArrays(samples=samples, **entries)
    stored.write(path, sync=os.path.exists(path))  # an old finished file must not survive beside new pictures
    classes = data_config_of(drawn_by).class_set
    masks = binarise(samples, postprocess_of(finished_by), geometry.bring_back if geometry else None, classes)
    remove_others(out_dir, case.id, outputs.paths(out_dir, case.id, len(masks), finished_by, geometry, classes))
    shown = shown_at(_arrays_of(case, geometry, own), case.colour)
    if frames:
        at_size = [geometry.bring_back(frame) for frame in frames] if geometry else frames
        write_movie(out_dir, case.id, shown[0], at_size)
    checksums = outputs.write(out_dir, case.id, outputs.Drawn(masks, *shown, classes), finished_by, geometry)
    stored.add(**finished_by, pictures=np.array(checksums, dtype=np.uint32))
    stored.write(path)


def _arrays_of(case: "Case", geometry: Geometry | None, own: Callable[[], CaseArrays] | None) -> CaseArrays:
    """The pixels of a case at the size of its masks; see `write_case`."""
    arrays = CaseArrays(case.image.numpy(), case.raters.numpy() > 0.5, geometry)
    if geometry is None or not geometry.changes_pixels:
        return arrays
    return own() if own else bring_back(arrays)


def _of_case(case: "Case") -> dict[str, str]:
    """The entries on a case itself: its geometry, and its name if that of the file is shortened."""
    name = {} if stem_of(case.id) == case.id else {"case": case.id}
    return name if case.geometry is None else {**name, "geometry": str(case.geometry)}


def geometry_of(made_by: Made) -> Geometry | None:
    """The geometry stored with samples; None: older samples, or those of other programs. DataError: it is invalid."""
    if "geometry" not in made_by:
        return None
    try:
        return Geometry.from_json(json.loads(made_by["geometry"]))
    except (ValueError, TypeError) as error:
        raise DataError(f"samples with an invalid entry `geometry` ({error}); draw them again") from error


def read_case(path: str) -> tuple[Samples, Made]:
    """Read (samples before the threshold, their settings) from ID_samples.npz. Files of other programs have no `flags`.

    DataError: the file is damaged or does not hold masks.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
            samples = content.pop("samples")
            made_by = {name: value.item() for name, value in content.items() if value.ndim == 0}
    except Exception as error:  # readers raise arbitrary exceptions for damaged files
        raise DataError(f"{path}: damaged, or not a file of samples ({error}); draw it again") from error
    return check_samples(samples, path), made_by


def check_samples(samples: np.ndarray, path: str) -> Samples:
    """Return `samples` unchanged. DataError: wrong shape or type, or values that are not finite; `path` is named."""
    if samples.ndim not in (3, 4) or 0 in samples.shape or samples.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: samples of shape {samples.shape} and type {samples.dtype}; expected masks [M, H, W], or "
            "[M, K, H, W] of several classes"
        )
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise DataError(f"{path}: samples are not finite (NaN); draw them again")
    return samples


def mask_files(folder: str, case_id: str) -> list[str]:
    """The masks ID_output0.png, ID_output1.png, ... of a case, or .nii.gz, up to the first that does not exist."""
    return next((found for ending in (PNG, NIFTI) if (found := outputs.mask_paths(folder, case_id, ending))), [])


def find_samples(
    folder: str,
    case_id: str,
    rule: Callable[[], MaskRule | ClassRule],
    images: Callable[[], Mapping[str, Decoded]] = dict,
) -> tuple[Samples, Made] | None:
    """Read the samples of a case in `folder`, as read_case does; None: there are none.

    Reads ID_samples.npz or, if it does not exist, the masks ID_output0.png, ID_output1.png, ... of any program.

    rule    () -> that of all masks in the folder, see evaluation.drawn.foreign_rule; called only where it is needed
    images  () -> the decoded image files of the case, to whose grid masks in NIfTI are brought; called only for these
    DataError: the samples are not usable.
    """
    path = samples_path(folder, case_id)
    if os.path.exists(path):
        samples, made_by = read_case(path)
        if "flags" not in made_by and not (
            samples.min() >= 0 and samples.max() <= 1
        ):  # our own samples are not clipped and may slightly exceed [0, 1]
            raise DataError(f"{path}: values from {samples.min():g} to {samples.max():g}; masks must be in 0 to 1")
        return samples, made_by
    images = cache(images)
    masks: list[np.ndarray] = []
    for path in mask_files(folder, case_id):
        decoded = read_file(path)
        if decoded.nifti:
            decoded = _over_image(path, decoded, images())
        masks.append(rule().mask(path, label_of(path, decoded)))
        if masks[-1].shape != masks[0].shape:
            first = os.path.basename(mask_files(folder, case_id)[0])
            raise DataError(f"{path}: {masks[-1].shape} pixels, but {first} has {masks[0].shape}")
    later = [mask_path(folder, case_id, len(masks) + k, end) for k in range(1, LARGEST_GAP) for end in (PNG, NIFTI)]
    if any(map(os.path.exists, later)):
        raise DataError(f"{mask_path(folder, case_id, len(masks))} is missing, but masks with higher indices exist")
    return (np.stack(masks), {}) if masks else None


def _over_image(path: str, mask: Decoded, images: Mapping[str, Decoded]) -> Decoded:
    """A mask, permuted and flipped to the grid of the images if it has their number of pixels along each axis.

    DataError: its affine puts it elsewhere.
    """
    sizes = {tuple(sorted(image.planes.shape[1:])) for image in images.values()}
    if sizes != {tuple(sorted(mask.planes.shape[1:]))}:
        return mask
    decoded = {**images, path: mask}
    _, faults = on_one_grid(decoded)
    if faults:
        raise DataError(faults[-1])
    return decoded[path]


def spread(made_by: Made) -> Made:
    """Flatten a case's settings: each stored flag becomes an entry. DataError: `flags` is not from this program."""
    return {**flags_of(made_by), **{name: value for name, value in made_by.items() if name != "flags"}}


def unfinished(
    dataset: Cases,
    indices: Iterable[int],
    config: SampleConfig,
    drawn_by: Made,
    finished_by: Made,
    classes: Sequence[type] = (),
    *,
    on_rewrite: Callable[[str], object] = lambda name: None,
) -> list[int]:
    """Return the case indices of `indices` that must still be drawn.

    A case that is incomplete, was finished with other settings (e.g. another threshold), or has missing or changed
    pictures is rewritten from its samples. A case that is damaged, or lacks a requested movie, is drawn again. Movies
    of missing samples, or of samples to be drawn again, are removed.

    config      out_dir, overwrite and movie are used
    classes     config classes of the flags in `drawn_by`, see flags.configs.differences
    on_rewrite  called with the name of each case whose files are written again from its samples
    ConfigError: a case exists that was drawn with other settings, and `overwrite` is not set.
    """
    left = []
    for index in indices:
        path, movie = (where(config.out_dir, dataset.ids[index]) for where in (samples_path, movie_path))
        stored = None if config.overwrite else _read_whole(path)
        if stored is None:
            left.append(index)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(movie)
            continue
        samples, before = stored
        case = dataset[index]
        _check_same(path, before, {**drawn_by, "image": image_hash(case)}, classes)
        if config.movie and not os.path.exists(movie):
            left.append(index)
        elif not _is_finished(config.out_dir, case, len(samples), before, finished_by):
            drawn = {**drawn_by, "written_by": before.get("written_by", "")}
            write_case(config.out_dir, case, samples, drawn, finished_by, own=partial(dataset.own_arrays, index))
            on_rewrite(case.id)
    return left


def _is_finished(out_dir: str, case: "Case", count: int, before: Made, finished_by: Made) -> bool:
    """Whether the files of a drawn case with `count` masks are those of `finished_by`, all unchanged."""
    geometry, was = written_geometry(case.geometry, finished_by), {**FORMER, **before}
    try:
        if written_geometry(geometry_of(was), was) != geometry:
            return False
    except DataError:  # it is written anew
        return False
    if any(was.get(name) != value for name, value in finished_by.items() if name != "output_size"):
        return False
    with np.load(samples_path(out_dir, case.id), allow_pickle=False) as file:
        if "pictures" not in file.files:  # older files: every picture was synced
            return True
        checksums = file["pictures"].tolist()
    classes = data_config_of(before).class_set
    places = outputs.paths(out_dir, case.id, count, finished_by, geometry, classes)
    return are_whole(places, checksums) and not stale(out_dir, case.id, places)


def _read_whole(path: str) -> tuple[Samples, Made] | None:
    """The result of read_case; None: the file does not exist or is damaged."""
    with contextlib.suppress(DataError):
        return read_case(path) if os.path.exists(path) else None
    return None


def _check_same(path: str, before: Made, drawn_by: Made, classes: Sequence[type]) -> None:
    """ConfigError: the samples at `path` were drawn with other settings, or by another program."""
    if "flags" not in before:
        raise ConfigError(f"{path} was not written by this program: use another --out_dir, or --overwrite True")
    was, now = {"reading": 1, **spread(before)}, spread(drawn_by)
    free = {"reading"} if was.get("image", now["image"]) == now["image"] else set()  # the image decides
    if different := differences(was, now, *classes, free=free):
        raise ConfigError(f"{path} was made with {', '.join(different)}: use another --out_dir, or --overwrite True")
