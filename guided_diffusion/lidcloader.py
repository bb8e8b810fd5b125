"""A folder of cases as a dataset: each item is an image with ALL its rater masks (see `data.stream.pick_raters`).

    CASE/image*.{png,jpg,tif,npy,nii.gz} one image, grey or in colour, or one file per modality
    CASE/label0_*, CASE/label1_*, ...    one mask per rater, any number of raters

Every folder below the directory that contains an image is a case, named after its path relative to the directory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from .data.case_reader import CaseReader
from .data.config import DataConfig
from .data.described import described
from .data.files.case_files import find_inputs, is_image
from .data.files.passed_over import printable
from .data.geometry import CaseArrays, Geometry
from .data.stores.case_cache import (
    MemoryStore,
    SetFacts,
    check_planes,
    decode,
    find_labelled,
    hash_cases,
    open_cache,
    open_pack,
)
from .data.stream import Batch, collate
from .errors import DataError
from .flags.classes import Classes
from .flags.sizes import Size, checked_size


@dataclass(frozen=True)
class Case:
    """A case: name, image and the masks of all raters."""

    id: str
    image: Float[Tensor, "C H W"]  # float32 in [0, 1]
    raters: Float[Tensor, "R *K H W"]  # float32, 0 or 1; [R, H, W], or [R, K, H, W] for several classes; R may be 0
    colour: bool = False  # the first three channels are red, green and blue
    geometry: Geometry | None = None  # the way back to its own size; None: unknown
    ignored: Bool[Tensor, "H W"] | None = None  # pixels that count in no loss and no figure; None: no pixel
    classes: Classes | None = None  # of the masks; None: unknown


class Store(Protocol):
    """Decoded cases, by index."""

    def arrays(self, index: int, /) -> CaseArrays:
        """The pixels of a case."""

    def own_arrays(self, index: int, /) -> CaseArrays:
        """Its pixels at its own size."""


class LIDCDataset(torch.utils.data.Dataset[Case]):
    """The cases below `directory`, or in a file written by pack_data.py; each item is a `Case`.

    image_size      resize all cases to this size, a number for a square or (H, W), labels stay binary; None: keep each
                    case's size
    image_channels  repeat the plane of a set with one plane per case to this many channels; other sets must have
                    exactly this many planes, one per modality or three in colour. "auto" or None: the planes as stored
    require_raters  a case without labels is an error, or skipped if the config says so. False: its raters are empty,
                    and `directory` may also be a picture, or contain pictures without a folder of their own
    cache_dir       decode the cases once, into a memory-mapped file in this folder, named after a hash of the cases;
                    None or a read-only folder: keep decoded cases in memory, up to CACHE_BYTES

    The constructor reads every file once and raises a DataError that lists all broken cases.
    `facts` says what is known of the set; `fingerprint` is a hash of all cases (None without a cache).
    """

    _store: Store

    def __init__(
        self,
        directory: str | os.PathLike[str],
        image_size: Size | None = None,
        image_channels: int | Literal["auto"] | None = 4,
        config: DataConfig = DataConfig(),
        require_raters: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.directory = str(directory)
        self.image_channels = None if image_channels == "auto" else image_channels
        self.fingerprint: str | None = None
        self._found: list[str] = []  # lines of the search for cases
        is_packed = os.path.isfile(self.directory) and not is_image(self.directory)
        own = described(config, self.directory, self._found.append)
        self.reader = CaseReader(checked_size(image_size), self.image_channels, own, require_raters)
        if is_packed:
            self.folders = []
            packed, self.facts = open_pack(self.directory, self.reader)
            self.ids, self.fingerprint, self._store = packed.ids, packed.header["fingerprint"], packed
            return
        if require_raters:
            self.folders = find_labelled(self.directory, own, self._found.append, one_set=True)
        else:
            self.folders = find_inputs(self.directory, self.image_channels, self._found.append)
        self.ids = [name for name, _ in self.folders]
        if cache_dir is not None:
            self.fingerprint = hash_cases(self.folders, self.reader.settings)
            if pack := open_cache(cache_dir, self.fingerprint, self.reader, self.folders):
                check_planes(self.directory, pack, self.reader)
                self.facts, self._store = SetFacts.from_header(pack), pack
                return
        store = MemoryStore(self.reader, self.folders)
        for index, (_, case) in enumerate(decode(self.reader, self.folders)):
            store.keep(index, case)
        self.facts, self._store = SetFacts.of(self.reader, len(self)), store
        if cache_dir is not None:
            self._found.append(
                f"{cache_dir} is read-only: each process decodes the cases and keeps them in memory (--cache_dir)"
            )

    @property
    def notes(self) -> list[str]:
        """What was passed over, what reading changed, and what is unusual about the cases, one line each."""
        return [printable(note) for note in (*self._found, *self.facts.notes)]

    @property
    def num_planes(self) -> int:
        """Planes of each case as stored: 1 grey, 3 in colour, or those of all modalities."""
        return self.facts.num_planes

    @property
    def colour(self) -> bool:
        """Whether the first three planes are red, green and blue."""
        return self.facts.colour

    @property
    def classes(self) -> Classes:
        """The classes of the labels."""
        return self.reader.config.class_set

    @property
    def reading(self) -> int:
        """The version of the reading rules that the cases were read by."""
        return self.facts.reading

    @property
    def departures(self) -> Sequence[str]:
        """What version 1 of the reading rules would have read differently in these cases, as phrases."""
        return self.facts.departures

    @property
    def real_folders(self) -> set[str]:
        """The folders of the cases, without links; empty for a packed file."""
        return {os.path.realpath(folder) for _, folder in self.folders}

    def former_fingerprint(self) -> str | None:
        """The fingerprint as version 1 of the reading rules computed it; None without a cache."""
        if self.fingerprint is None or os.path.isfile(self.directory):
            return self.fingerprint
        return hash_cases(self.folders, self.reader.former_settings)

    def check_trainable(self) -> None:
        """DataError: all masks are empty, or all are full."""
        if kind := self.facts.masks:
            raise DataError(f"{self.directory}: all masks are {kind}, so there is nothing to learn; check the labels")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Case:
        """The case at `index`; cases are sorted by name."""
        return make_case(self.ids[index], self._store.arrays(index), self.image_channels, self.colour, self.classes)

    def own_arrays(self, index: int) -> CaseArrays:
        """The pixels of the case at `index` at its own size; of a file packed at another size, from that."""
        return self._store.own_arrays(index)


def make_case(
    name: str,
    arrays: CaseArrays,
    image_channels: int | None = None,
    colour: bool = False,
    classes: Classes | None = None,
) -> Case:
    """A `Case` from its pixels; a single plane is repeated to `image_channels`, if given.

    colour   the first three planes are red, green and blue
    classes  of the masks
    """
    planes = torch.from_numpy(arrays.image)
    shown = planes.expand(image_channels or len(planes), -1, -1)
    ignored = None if arrays.ignored is None else torch.from_numpy(arrays.ignored)
    return Case(name, shown, torch.from_numpy(arrays.raters).float(), colour, arrays.geometry, ignored, classes)


def _collate(cases: Sequence[Case], *, collate_fn_map: object = None) -> Batch:
    return collate(cases)


# So that a plain DataLoader makes a Batch of cases, which may have different numbers of raters
default_collate_fn_map[Case] = _collate
