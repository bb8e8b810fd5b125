"""
Decoded cases in one memory-mapped file: opened at once, however many they are, and read as they are wanted.

    cases     of each, at its offset, a multiple of 4: image float32 [C, H, W]; masks [R, H, W], a bit per pixel
    header    JSON: {cases: [[id, C, R, H, W, offset], ...]} beside what else was kept: fingerprint, notes, rules
    end       length of the header (8 bytes, little-endian), and MAGIC
"""

import json

import numpy as np

from . import storage
from .image_files import DataError

MAGIC = b"AMBISEG1"
TAIL = 8 + len(MAGIC)


def write_pack(path, cases, header):
    """
    Write cases into the file `path`, atomically.

    cases   iterable of (id, image [C, H, W] float32, raters [R, H, W] bool)
    header  () -> dict of JSON-like values to keep beside them, called when all cases are written
    """

    def write(file):
        entries, offset = [], 0
        for case_id, image, raters in cases:
            entries.append([case_id, len(image), len(raters), *image.shape[1:], offset])
            data = np.ascontiguousarray(image, dtype=np.float32).tobytes() + np.packbits(raters).tobytes()
            data += bytes(-len(data) % 4)
            file.write(data)
            offset += len(data)
        text = json.dumps({**header(), "cases": entries}).encode()
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)

    storage.write_atomically(path, write)


class PackedCases:
    """
    The cases of a file of `write_pack`.

    header  what was kept beside them
    DataError: not such a file, cut off, or damaged.
    """

    def __init__(self, path):
        self.path = path
        try:
            self._map()
            length = int.from_bytes(self.bytes[-TAIL : -len(MAGIC)].tobytes(), "little")
            if self.bytes[-len(MAGIC) :].tobytes() != MAGIC or not 0 < length <= len(self.bytes) - TAIL:
                raise ValueError("its end is not that of packed cases, or is cut off")
            self.header = json.loads(self.bytes[-TAIL - length : -TAIL].tobytes())
            self.entries = self.header.pop("cases")
            room = len(self.bytes) - TAIL - length
            if not self.entries or not all(_fits(entry, room) for entry in self.entries):
                raise ValueError("its table of cases is damaged")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read as packed cases ({error}); pack them again") from error
        self.ids = [entry[0] for entry in self.entries]

    def _map(self):
        self.bytes = np.memmap(self.path, dtype=np.uint8, mode="r")

    def __getstate__(self):  # for processes that read cases: each maps the file itself
        return {name: value for name, value in self.__dict__.items() if name != "bytes"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._map()

    def __len__(self):
        return len(self.entries)

    def arrays(self, index):
        """Image [C, H, W] float32 and raters [R, H, W] bool of case number `index`, in memory of their own."""
        _, channels, raters, height, width, start = self.entries[index]
        size = channels * height * width
        image = self.bytes[start : start + 4 * size].view(np.float32).reshape(channels, height, width)
        bits = self.bytes[start + 4 * size : start + 4 * size + -(-raters * height * width // 8)]
        masks = np.unpackbits(bits, count=raters * height * width).reshape(raters, height, width)
        return np.array(image), masks.view(bool)


def _fits(entry, room):
    """Whether an entry of the table is one, and its case lies within the `room` for cases."""
    case_id, channels, raters, height, width, start = entry
    counts = (channels, raters, height, width, start)
    if not isinstance(case_id, str) or not all(isinstance(n, int) and n >= 0 for n in counts) or start % 4:
        return False
    return channels * height * width > 0 and start + 4 * channels * height * width + -(-raters * height * width // 8) <= room
