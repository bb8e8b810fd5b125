"""Writes and reads the files of a case's samples. Does not need torch."""

import contextlib
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from ..data.files.label import label_of
from ..data.files.read import read_file
from ..data.surveys.levels import LevelSurvey, MaskRule
from ..errors import ConfigError, DataError
from ..flags.configs import differences
from ..masks import pictures
from ..masks.postprocess import CONSENSUS, binarise
from ..system import storage
from .config import SampleConfig, flags_of, postprocess_of
from .names import consensus_path, mask_path, movie_path, samples_path, sheet_path, stem_of
from .writer_pool import PackedArrays

if TYPE_CHECKING:  # it imports torch
    from ..lidcloader import Case

LARGEST_GAP = 64  # in the indices of a case's mask files, up to which a missing mask is detected

Made = Mapping[str, Any]  # settings that a case's samples or files were made with, as plain values
Samples = Shaped[np.ndarray, "M H W"]


@runtime_checkable
class Cases(Protocol):
    """The cases of a dataset, without torch."""

    @property
    def ids(self) -> Sequence[str]:
        """The names of the cases."""

    def __getitem__(self, index: int) -> "Case":
        """The case at an index."""


def image_hash(case: "Case") -> str:
    """The first 16 hex digits of the SHA-256 of a case's network input; repeated channels are hashed once."""
    planes = np.asarray(case.image)
    distinct = [k for k in range(len(planes)) if k == 0 or not np.array_equal(planes[k], planes[k - 1])]
    return hashlib.sha256(planes[distinct].tobytes()).hexdigest()[:16]


def write_case(
    out_dir: str,
    case: "Case",
    samples: Float32[np.ndarray, "M H W"],
    drawn_by: Made,
    finished_by: Made,
    frames: Sequence[np.ndarray] | None = None,
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
    """
    path = samples_path(out_dir, case.id)
    name = {} if stem_of(case.id) == case.id else {"case": case.id}
    stored = PackedArrays(samples=samples, **drawn_by, image=image_hash(case), **name)
    stored.write(path, sync=os.path.exists(path))  # an old finished file must not survive beside new pictures
    masks = binarise(samples, postprocess_of(finished_by))
    _remove_pictures(out_dir, case.id, len(masks))
    image = pictures.shown_image(case.image.numpy(), case.colour)
    if frames:
        storage.write_bytes(movie_path(out_dir, case.id), pictures.movie(image, frames))
    made = [pictures.to_grey(mask) for mask in masks]
    if finished_by["consensus"] != "none":
        made.append(pictures.to_grey(CONSENSUS[finished_by["consensus"]](masks)))
    made.append(pictures.sheet(image, case.raters.numpy() > 0.5, masks))
    paths = _picture_paths(out_dir, case.id, len(masks), finished_by["consensus"])
    checksums = [_write_picture(*pair) for pair in zip(paths, made, strict=True)]
    stored.add(**finished_by, pictures=np.array(checksums, dtype=np.uint32))
    stored.write(path)


def _remove_pictures(out_dir: str, case_id: str, count: int) -> None:
    """Remove a case's consensus, and masks from index `count` on, last one first so that no gap remains."""
    if os.path.exists(consensus_path(out_dir, case_id)):
        os.unlink(consensus_path(out_dir, case_id))
    end = count
    while os.path.exists(mask_path(out_dir, case_id, end)):
        end += 1
    for k in reversed(range(count, end)):
        os.unlink(mask_path(out_dir, case_id, k))


def _picture_paths(out_dir: str, case_id: str, count: int, consensus: str) -> list[str]:
    """Paths of the pictures of a case with `count` masks, in the order of their checksums."""
    one = [] if consensus == "none" else [consensus_path(out_dir, case_id)]
    return [*(mask_path(out_dir, case_id, k) for k in range(count)), *one, sheet_path(out_dir, case_id)]


def _write_picture(path: str, picture: Image.Image) -> int:
    """Write a PIL image without a disk sync. Returns the file's CRC-32."""
    file = io.BytesIO()
    level = 1 if picture.mode == "RGB" else 6  # zlib level; a higher one does not shrink sheets of noisy images
    picture.save(file, format="PNG", compress_level=level)
    storage.write_bytes(path, file.getbuffer(), sync=False)
    return zlib.crc32(file.getbuffer())


def _pictures_whole(out_dir: str, case_id: str, count: int, consensus: str) -> bool:
    """Whether a finished case's pictures match the stored checksums; True if none are stored."""
    with np.load(samples_path(out_dir, case_id), allow_pickle=False) as file:
        if "pictures" not in file.files:  # older files: every picture was synced
            return True
        checksums = file["pictures"].tolist()
    if os.path.exists(mask_path(out_dir, case_id, count)):
        return False
    paths = _picture_paths(out_dir, case_id, count, consensus)
    try:
        return checksums == [zlib.crc32(storage.read_bytes(path) or b"") for path in paths]
    except OSError:  # e.g. an unreadable disk sector
        return False


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
    if samples.ndim != 3 or 0 in samples.shape or samples.dtype.kind not in "biuf":
        raise DataError(f"{path}: samples of shape {samples.shape} and type {samples.dtype}; expected masks [M, H, W]")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise DataError(f"{path}: samples are not finite (NaN); draw them again")
    return samples


def foreign_rule(folder: str, case_ids: Iterable[str], threshold: float | None = None, merge: bool = False) -> MaskRule:
    """The rule for the masks ID_output0.png, ... in `folder`, which belong to one set. DataError: they are not masks.

    Cases with ID_samples.npz are left out; `find_samples` reports unreadable files.

    threshold, merge  as in `LevelSurvey.rule`
    """
    survey = LevelSurvey()
    for case_id in case_ids:
        k = 0
        while not os.path.exists(samples_path(folder, case_id)) and os.path.exists(mask_path(folder, case_id, k)):
            path = mask_path(folder, case_id, k)
            with contextlib.suppress(DataError):
                survey.add(path, label_of(path, read_file(path)))
            k += 1
    return survey.rule(threshold, merge)


def find_samples(folder: str, case_id: str, rule: Callable[[], MaskRule]) -> tuple[Samples, Made] | None:
    """Read the samples of a case in `folder`, as read_case does; None: there are none.

    Reads ID_samples.npz or, if it does not exist, the masks ID_output0.png, ID_output1.png, ... of any program.

    rule  () -> that of all masks in the folder, see `foreign_rule`; called only where it is needed
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
    masks: list[np.ndarray] = []
    while os.path.exists(path := mask_path(folder, case_id, len(masks))):
        masks.append(rule().mask(path, label_of(path, read_file(path))))
        if masks[-1].shape != masks[0].shape:
            raise DataError(f"{path}: {masks[-1].shape} pixels, but {case_id}_output0.png has {masks[0].shape}")
    if any(os.path.exists(mask_path(folder, case_id, len(masks) + k)) for k in range(1, LARGEST_GAP)):
        raise DataError(f"{path} is missing, but masks with higher indices exist")
    return (np.stack(masks), {}) if masks else None


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
        elif not _is_finished(config.out_dir, case.id, len(samples), before, finished_by):
            write_case(config.out_dir, case, samples, drawn_by, finished_by)
            on_rewrite(case.id)
    return left


def _is_finished(out_dir: str, case_id: str, count: int, before: Made, finished_by: Made) -> bool:
    """Whether the pictures of a drawn case with `count` masks are those of `finished_by`, all unchanged."""
    if any(before.get(name) != value for name, value in finished_by.items()):
        return False
    return _pictures_whole(out_dir, case_id, count, finished_by["consensus"])


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
