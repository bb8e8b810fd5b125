"""A folder of cases as a dataset: each item is an image with ALL its rater masks (see `data.stream.pick_raters`).

    CASE/image*.{png,jpg,npy,nii.gz}     one grey image, or one file per modality
    CASE/label0_*, CASE/label1_*, ...    one mask per rater, any number of raters

Every folder below the directory that contains an image is a case, named after its path relative to the directory.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .data.case_cache import MemoryStore, decode, hash_cases, open_cache, open_pack
from .data.case_reader import CaseReader, DataConfig, find_cases


@dataclass(frozen=True)
class Case:
    """A case: name, image and the masks of all raters."""

    id: str
    image: Float[Tensor, "C H W"]  # float32 in [0, 1]
    raters: Float[Tensor, "R H W"]  # float32, 0 or 1; R may be 0 if raters are not required
    colour: bool = False  # the first three channels are red, green and blue


class LIDCDataset(torch.utils.data.Dataset[Case]):
    """The cases below `directory`, or in a file written by pack_data.py; each item is a `Case`.

    image_size      resize all cases to this square size, labels stay binary; None: keep each case's size
    image_channels  repeat a grey image to this many channels; multi-modal cases must have exactly this many
                    modalities; None: keep the number of channels
    require_raters  a case without labels is an error (False: its raters are empty)
    cache_dir       decode the cases once, into a memory-mapped file in this folder, named after a hash of the cases;
                    None or a read-only folder: keep decoded cases in memory, up to CACHE_BYTES

    The constructor reads every file once and raises a DataError that lists all broken cases.
    `notes` lists the changes made while reading, one line each; `fingerprint` is a hash of all cases (None without a
    cache).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        image_size: int | None = None,
        image_channels: int | Literal["auto"] | None = 4,
        config: DataConfig = DataConfig(),
        require_raters: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.directory, self.image_channels = str(directory), image_channels
        self.num_planes, self.colour, self.reading, self.departures = 1, False, 2, ()
        self._arrays: Callable[[int], tuple[np.ndarray, np.ndarray]]
        self.fingerprint: str | None = None
        self.reader = CaseReader(image_size, image_channels, config, require_raters)
        if os.path.isfile(self.directory):
            packed = open_pack(self.directory, self.reader)
            self.ids, self.fingerprint, self._arrays = packed.ids, packed.header["fingerprint"], packed.arrays
            self.notes = packed.header["notes"] + self.reader.notes(len(self))
            return
        folders = find_cases(self.directory)
        self.ids = [name for name, _ in folders]
        pack = None
        if cache_dir is not None:
            self.fingerprint = hash_cases(folders, self.reader.settings)
            pack = open_cache(cache_dir, self.fingerprint, self.reader, folders)
        if pack:
            self.notes, self._arrays = pack.header["notes"], pack.arrays
            return
        store = MemoryStore(self.reader, folders)
        for index, (_, *arrays) in enumerate(decode(self.reader, folders)):
            store.keep(index, arrays)
        self.notes, self._arrays = self.reader.notes(len(self)), store.arrays
        if cache_dir is not None:
            self.notes.append(
                f"{cache_dir} is read-only: each process decodes the cases and keeps them in memory (--cache_dir)"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Case:
        """The case at `index`; cases are sorted by name."""
        image, raters = self._arrays(index)
        return make_case(self.ids[index], image, raters, self.image_channels)


def make_case(
    name: str,
    image: Float[np.ndarray, "planes H W"],
    raters: Shaped[np.ndarray, "R H W"],
    image_channels: int | None = None,
    colour: bool = False,
) -> Case:
    """A `Case` from the arrays of a CaseReader; a single plane is repeated to `image_channels`, if given.

    colour  the first three planes are red, green and blue
    """
    shown = torch.from_numpy(image).expand(image_channels or len(image), -1, -1)
    return Case(name, shown, torch.from_numpy(raters).float(), colour)
