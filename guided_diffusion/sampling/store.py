"""The files of a case's samples, written and read again. Needs no torch."""

import contextlib
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from ..data.image_files import read_label
from ..errors import ConfigError, DataError
from ..flags.configs import differences
from ..masks import pictures
from ..masks.postprocess import CONSENSUS, binarise
from ..system import storage
from .config import SampleConfig, postprocess_of
from .writer_pool import PackedArrays

if TYPE_CHECKING:  # it imports torch
    from ..lidcloader import Case

LARGEST_GAP = 64  # among a case's masks, that is looked for

Made = Mapping[str, Any]  # what decided a case's samples or its files, as plain values
Samples = Shaped[np.ndarray, "M H W"]


@runtime_checkable
class Cases(Protocol):
    """The cases of a dataset, without torch."""

    @property
    def ids(self) -> Sequence[str]:
        """Their names."""

    def __getitem__(self, index: int) -> "Case":
        """A case by its number."""


def image_hash(case: "Case") -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a case's image as the network sees it, equal channels once."""
    planes = np.asarray(case.image)
    unlike = [k for k in range(len(planes)) if k == 0 or not np.array_equal(planes[k], planes[k - 1])]
    return hashlib.sha256(planes[unlike].tobytes()).hexdigest()[:16]


def write_case(
    out_dir: str,
    case: "Case",
    samples: Float32[np.ndarray, "M H W"],
    drawn_by: Made,
    finished_by: Made,
    frames: Sequence[np.ndarray] | None = None,
) -> None:
    """Write a case's raw samples, masks and sheet into `out_dir`.

    The raw samples come first, so that nothing that happens to the rest loses them; what `finish` gave joins them last,
    and says that all is there.

    Only that last file waits for the disk. A power cut may therefore spare it and damage pictures written before: it
    carries their checksums, by which `unfinished` finds out and writes them again. A movie cannot be made again, and
    waits for the disk too.

    drawn_by     what `identity` gave
    finished_by  what `finish` gave
    frames       of the movie of its first mask, [[H, W]]; None: nothing is done about it
    """
    path = samples_path(out_dir, case.id)
    stored = PackedArrays(samples=samples, **drawn_by, image=image_hash(case))
    stored.write(path, sync=os.path.exists(path))  # a finished file must not outlast a power cut beside new pictures
    masks = binarise(samples, postprocess_of(finished_by))
    _remove_pictures(out_dir, case.id, len(masks))
    if frames:
        film = pictures.movie(case.image[0].numpy(), frames)
        storage.write_bytes(movie_path(out_dir, case.id), film)
    made = [pictures.to_grey(mask) for mask in masks]
    if finished_by["consensus"] != "none":
        made.append(pictures.to_grey(CONSENSUS[finished_by["consensus"]](masks)))
    made.append(pictures.sheet(case.image[0].numpy(), case.raters.numpy() > 0.5, masks))
    paths = _picture_paths(out_dir, case.id, len(masks), finished_by["consensus"])
    checksums = [_write_picture(*pair) for pair in zip(paths, made, strict=True)]
    stored.add(**finished_by, pictures=np.array(checksums, dtype=np.uint32))
    stored.write(path)


def _remove_pictures(out_dir: str, case_id: str, count: int) -> None:
    """Remove a case's consensus, and its masks from number `count` on, the last one first: what is left has no gap."""
    if os.path.exists(consensus_path(out_dir, case_id)):
        os.unlink(consensus_path(out_dir, case_id))
    end = count
    while os.path.exists(mask_path(out_dir, case_id, end)):
        end += 1
    for k in reversed(range(count, end)):
        os.unlink(mask_path(out_dir, case_id, k))


def _picture_paths(out_dir: str, case_id: str, count: int, consensus: str) -> list[str]:
    """The pictures of a case with `count` masks, in the order of their checksums."""
    one = [] if consensus == "none" else [consensus_path(out_dir, case_id)]
    return [*(mask_path(out_dir, case_id, k) for k in range(count)), *one, sheet_path(out_dir, case_id)]


def _write_picture(path: str, picture: Image.Image) -> int:
    """Write a PIL image without waiting for the disk. Returns the file's CRC-32."""
    file = io.BytesIO()
    level = 1 if picture.mode == "RGB" else 6  # of zlib: sheets, of images with noise, become no smaller by more
    picture.save(file, format="PNG", compress_level=level)
    storage.write_bytes(path, file.getbuffer(), sync=False)
    return zlib.crc32(file.getbuffer())


def _pictures_whole(out_dir: str, case_id: str, count: int, consensus: str) -> bool:
    """Whether a finished case's pictures are those that it was finished with; True where no checksums are stored."""
    with np.load(samples_path(out_dir, case_id), allow_pickle=False) as file:
        if "pictures" not in file.files:  # written when every picture waited for the disk
            return True
        checksums = file["pictures"].tolist()
    if os.path.exists(mask_path(out_dir, case_id, count)):
        return False
    paths = _picture_paths(out_dir, case_id, count, consensus)
    try:
        return checksums == [zlib.crc32(storage.read_bytes(path) or b"") for path in paths]
    except OSError:  # a sector that the disk cannot read, say
        return False


def mask_path(out_dir: str, case_id: str, k: int) -> str:
    """The picture of a case's k-th mask."""
    return os.path.join(out_dir, f"{case_id}_output{k}.png")


def consensus_path(out_dir: str, case_id: str) -> str:
    """The picture of a case's consensus."""
    return os.path.join(out_dir, f"{case_id}_consensus.png")


def sheet_path(out_dir: str, case_id: str) -> str:
    """The picture sheet of a case."""
    return os.path.join(out_dir, f"{case_id}_sheet.png")


def movie_path(out_dir: str, case_id: str) -> str:
    """The movie of a case's first mask."""
    return os.path.join(out_dir, f"{case_id}_movie.gif")


def samples_path(out_dir: str, case_id: str) -> str:
    """The file of a case's raw samples."""
    return os.path.join(out_dir, f"{case_id}_samples.npz")


def read_case(path: str) -> tuple[Samples, Made]:
    """(samples before the threshold, what made them) of a file ID_samples.npz; another program's have no `flags`.

    DataError: damaged, or not masks.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
            samples = content.pop("samples")
            made_by = {name: value.item() for name, value in content.items() if value.ndim == 0}
    except Exception as error:  # the readers of damaged files raise anything at all
        raise DataError(f"{path}: not a file of samples, or damaged ({error}); draw it again") from error
    return check_samples(samples, path), made_by


def check_samples(samples: np.ndarray, path: str) -> Samples:
    """`samples`, if they can be masks: all finite. DataError: they cannot; `path` is named."""
    if samples.ndim != 3 or 0 in samples.shape or samples.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: samples of shape {samples.shape} and type {samples.dtype}; masks [M, H, W] are wanted"
        )
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise DataError(f"{path}: samples that are not finite (NaN); draw them again")
    return samples


def find_samples(folder: str, case_id: str) -> tuple[Samples, Made] | None:
    """The samples of a case in `folder`, as read_case gives them; None: there are none.

    They are those of ID_samples.npz, or else the masks ID_output0.png, ID_output1.png, ... of any program.
    DataError: they cannot be used.
    """
    path = samples_path(folder, case_id)
    if os.path.exists(path):
        samples, made_by = read_case(path)
        if "flags" not in made_by and not (
            samples.min() >= 0 and samples.max() <= 1
        ):  # our own, unclipped, go a little beyond
            raise DataError(
                f"{path}: values from {samples.min():g} to {samples.max():g}, which are no masks; 0 to 1 is wanted"
            )
        return samples, made_by
    masks: list[np.ndarray] = []
    while os.path.exists(path := mask_path(folder, case_id, len(masks))):
        masks.append(read_label(path)[0])
        if masks[-1].shape != masks[0].shape:
            raise DataError(f"{path}: {masks[-1].shape} pixels, but {case_id}_output0.png has {masks[0].shape}")
    if any(os.path.exists(mask_path(folder, case_id, len(masks) + k)) for k in range(1, LARGEST_GAP)):
        raise DataError(f"{path} is missing, yet masks of higher numbers are there")
    return (np.stack(masks), {}) if masks else None


def spread(made_by: Made) -> Made:
    """What made a case, with each of its flags as an entry of its own. DataError: they are not this program's."""
    try:
        flags = dict(json.loads(made_by["flags"]))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"samples with `flags` that are not this program's ({error}); name that entry otherwise"
        ) from error
    return {**flags, **{name: value for name, value in made_by.items() if name != "flags"}}


def unfinished(
    dataset: Cases,
    indices: Iterable[int],
    config: SampleConfig,
    drawn_by: Made,
    finished_by: Made,
    classes: Sequence[type] = (),
) -> list[int]:
    """Those case numbers of `indices` that are still to be drawn.

    A case that is not finished, or was finished with another threshold, say, or with a picture missing or changed, is
    written anew from its samples. A damaged one, and one without the movie that is required, is drawn again. A movie of
    samples that are missing, or will be drawn again, is removed.

    config   its out_dir, overwrite and movie
    classes  of the flags in `drawn_by`, as in flags.configs.differences
    ConfigError: a case is there already, drawn otherwise, and `overwrite` is not set.
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
        elif any(before.get(name) != value for name, value in finished_by.items()) or not _pictures_whole(
            config.out_dir, case.id, len(samples), finished_by["consensus"]
        ):
            write_case(config.out_dir, case, samples, drawn_by, finished_by)
    return left


def _read_whole(path: str) -> tuple[Samples, Made] | None:
    """What read_case gives; None: there is no such file, or it is damaged."""
    with contextlib.suppress(DataError):
        return read_case(path) if os.path.exists(path) else None
    return None


def _check_same(path: str, before: Made, drawn_by: Made, classes: Sequence[type]) -> None:
    """ConfigError: the samples at `path` were drawn in another way, or by another program."""
    if "flags" not in before:
        raise ConfigError(f"{path} was not written by this program: give another --out_dir, or --overwrite True")
    if different := differences(spread(before), spread(drawn_by), *classes):
        raise ConfigError(f"{path} was made with {', '.join(different)}: give another --out_dir, or --overwrite True")
