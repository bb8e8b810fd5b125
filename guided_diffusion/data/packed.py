"""Decoded cases in one memory-mapped file: opened at once, however many they are, and read as they are wanted.

cases     of each, at its offset, a multiple of 4: image float32 [C, H, W]; masks [R, H, W], a bit per pixel
header    JSON: {cases: [[id, C, R, H, W, offset, CRC-32 of the case], ...]} beside what else was kept: fingerprint, notes, rules
end       CRC-32 and length of the header (8 bytes each, little-endian), and MAGIC
"""

import json
import zlib

import numpy as np

from ..errors import DataError
from ..system import storage

MAGIC = b"AMBISEG2"
TAIL = 16 + len(MAGIC)


def write_pack(path, cases, header):
    """Write cases into the file `path`, atomically.

    cases   iterable of (id, image [C, H, W] float32, raters [R, H, W] bool)
    header  () -> dict of JSON-like values to keep beside them, called when all cases are written
    """

    def write(file):
        entries, offset = [], 0
        for case_id, image, raters in cases:
            data = np.ascontiguousarray(image, dtype=np.float32).tobytes() + np.packbits(raters).tobytes()
            entries.append([case_id, len(image), len(raters), *image.shape[1:], offset, zlib.crc32(data)])
            filled = data + bytes(-len(data) % 4)
            file.write(filled)
            offset += len(filled)
        text = json.dumps({**header(), "cases": entries}).encode()
        file.write(text + zlib.crc32(text).to_bytes(8, "little") + len(text).to_bytes(8, "little") + MAGIC)

    storage.write_atomically(path, write)


class PackedCases:
    """The cases of a file of `write_pack`.

    header  what was kept beside them
    DataError: not such a file, cut off, or its header is damaged; a damaged case is told when it is read.
    """

    def __init__(self, path):
        self.path = path
        try:
            self._map()
            sum_of_header, length = (
                int(number) for number in np.frombuffer(self.bytes[-TAIL : -len(MAGIC)].tobytes(), "<u8")
            )
            if self.bytes[-len(MAGIC) :].tobytes() != MAGIC or not 0 < length <= len(self.bytes) - TAIL:
                raise ValueError("its end is not that of packed cases, or is cut off")
            text = self.bytes[-TAIL - length : -TAIL].tobytes()
            if zlib.crc32(text) != sum_of_header:
                raise ValueError("its header is damaged")
            self.header = json.loads(text)
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
        """Image [C, H, W] float32 and raters [R, H, W] bool of case number `index`, in memory of their own.

        DataError: the case is damaged.
        """
        case_id, channels, raters, height, width, _, checksum = self.entries[index]
        start, end = _extent(self.entries[index])
        data, size = self.bytes[start:end], 4 * channels * height * width
        if zlib.crc32(data) != checksum:
            raise DataError(
                f"{self.path}: {case_id} is damaged; pack it again, or remove the file if it lies below --cache_dir"
            )
        image = data[:size].view(np.float32).reshape(channels, height, width)
        masks = np.unpackbits(data[size:], count=raters * height * width).reshape(raters, height, width)
        return np.array(image), masks.view(bool)

    def is_sound(self):
        """Whether every case has its checksum; read without the map, whose pages would count as this process's memory."""
        with open(self.path, "rb") as file:
            for entry in self.entries:
                start, end = _extent(entry)
                file.seek(start)
                if zlib.crc32(file.read(end - start)) != entry[-1]:
                    return False
        return True


def _extent(entry):
    """Where the case of an entry begins and where it ends."""
    _, channels, raters, height, width, start, _ = entry
    return start, start + 4 * channels * height * width + -(-raters * height * width // 8)


def _fits(entry, room):
    """Whether an entry of the table is one, and its case lies within the `room` for cases."""
    case_id, *numbers = entry
    if len(numbers) != 6 or not isinstance(case_id, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        return False
    channels, _, height, width, start, _ = numbers
    return channels * height * width > 0 and start % 4 == 0 and _extent(entry)[1] <= room
