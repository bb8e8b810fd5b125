"""A folder of cases -> the image and ALL rater masks of each; picking a rater is a separate step, `data.stream.pick_raters`.

    CASE/image*.{png,jpg,npy,nii.gz}     one grey image, or one file per modality
    CASE/label0_*, CASE/label1_*, ...    one mask per rater, any number of raters

Every folder below the directory that holds an image is a case, named by its path below the directory.
"""

import os
from dataclasses import dataclass

import torch

from .data.case_cache import MemoryStore, decode, hash_cases, open_cache, open_pack
from .data.case_reader import CaseReader, DataConfig, find_cases


@dataclass(frozen=True)
class Case:
    id: str
    image: torch.Tensor  # [C, H, W] float32 in [0, 1]
    raters: torch.Tensor  # [R, H, W] float32, 0 or 1; R may be 0 where raters are not required


class LIDCDataset(torch.utils.data.Dataset):
    """The cases below `directory`, or in a file that pack_data.py wrote, each a `Case`.

    image_size      cases of another size are resized to this square, labels staying binary; None: leave them as they are
    image_channels  one grey image is repeated to so many channels; several modalities must be so many; None: as they are
    require_raters  a case without labels is an error (False: its raters are empty)
    cache_dir       decode once, into a memory-mapped file in this folder whose name says what the cases hold; None, or a
                    read-only folder: decoded cases stay in memory, up to CACHE_BYTES

    Every file is read once here, so that every broken case is named before anything starts: DataError.
    `notes` says, a line each, what was changed on the way in; `fingerprint` is a hash of all cases (None without a cache).
    """

    def __init__(
        self, directory, image_size=None, image_channels=4, config=DataConfig(), require_raters=True, cache_dir=None
    ):
        self.directory, self.image_channels = str(directory), image_channels
        self.reader = CaseReader(image_size, image_channels, config, require_raters)
        if os.path.isfile(self.directory):
            pack = open_pack(self.directory, self.reader)
            self.ids, self.fingerprint, self._arrays = pack.ids, pack.header["fingerprint"], pack.arrays
            self.notes = pack.header["notes"] + self.reader.notes(len(self))
            return
        folders = find_cases(self.directory)
        self.ids = [name for name, _ in folders]
        self.fingerprint, pack = None, None
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
                f"{cache_dir} is read-only: each process decodes the cases anew and keeps them in memory (--cache_dir)"
            )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        """`Case` number index, in the order of the cases' names."""
        return make_case(self.ids[index], *self._arrays(index), self.image_channels)


def make_case(name, image, raters, image_channels=None):
    """`Case` of a CaseReader's arrays; one grey image is repeated to `image_channels`, where that is given."""
    image, raters = torch.from_numpy(image), torch.from_numpy(raters)
    return Case(name, image.expand(image_channels or len(image), -1, -1), raters.float())
