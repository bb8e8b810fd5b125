"""Decoded cases in one memory-mapped file, which opens instantly for any number of cases and is read on demand.

cases     each at its offset, a multiple of 4: image float32 [C, H, W]; masks [N, H, W], one bit per pixel: those of R
          raters, each of K classes, then that of ignored pixels, if there are any
header    JSON: {cases: [[id, C, N, H, W, offset, CRC-32 of the case], ...], geometry: [that of each case, see
          Geometry.as_json, or null, ...]}; classes: K, if there are several; ignored: the numbers of the cases with
          ignored pixels; and further entries: fingerprint, notes, rules, image_size, set, written_by
end       CRC-32 and length of the header (8 bytes each, little-endian), and MAGIC
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from ...errors import DataError
from ...system import storage
from ..geometry import CaseArrays, Geometry, bring_back

MAGIC = b"AMBISEG2"
TAIL = 16 + len(MAGIC)


class Entry(NamedTuple):
    """The header's entry for a case: name, sizes, offset in bytes and checksum."""

    id: str
    channels: int
    masks: int
    height: int
    width: int
    offset: int
    checksum: int

    @property
    def image_bytes(self) -> int:
        """The size of the image, which precedes the masks."""
        return 4 * self.channels * self.height * self.width

    @property
    def end(self) -> int:
        """The offset of the end of the case."""
        return self.offset + self.image_bytes + -(-self.masks * self.height * self.width // 8)


def write_pack(path: str, cases: Iterable[tuple[str, CaseArrays]], header: Callable[[], dict[str, Any]]) -> None:
    """Write cases to the file `path` atomically.

    cases   (id, pixels) of each
    header  () -> dict of further JSON-like values for the header, called after all cases are written
    """

    def write(file: IO[bytes]) -> None:
        entries: list[Entry] = []
        geometries: list[dict[str, Any] | None] = []
        more: dict[str, Any] = {}
        offset = 0
        for case_id, (image, raters, geometry, ignored) in cases:
            height, width = image.shape[1:]
            masks = raters.reshape(-1, height, width)
            if raters.ndim == 4:
                more["classes"] = raters.shape[1]
            if ignored is not None:
                masks = np.concatenate([masks, ignored[None]])
                more.setdefault("ignored", []).append(len(entries))
            data = np.ascontiguousarray(image, dtype=np.float32).tobytes() + np.packbits(masks).tobytes()
            entries.append(Entry(case_id, len(image), len(masks), height, width, offset, zlib.crc32(data)))
            geometries.append(geometry.as_json() if geometry else None)
            filled = data + bytes(-len(data) % 4)
            file.write(filled)
            offset += len(filled)
        text = json.dumps({**header(), **more, "cases": entries, "geometry": geometries}).encode()
        file.write(text + zlib.crc32(text).to_bytes(8, "little") + len(text).to_bytes(8, "little") + MAGIC)

    storage.write_atomically(path, write)


class PackedCases:
    """The cases in a file written by `write_pack`.

    header      the header without entries and geometry
    entries     one per case
    geometries  one per case; None: unknown
    classes     K; None: one class, so that raters are [R, H, W]
    ignored     the numbers of the cases with ignored pixels

    DataError: not such a file, truncated, or a damaged header; a damaged case is reported when it is read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._map()
            self.header, self.entries = self._read_header()
            self.geometries = self.header.pop("geometry", [None] * len(self.entries))
            self.classes: int | None = self.header.pop("classes", None)
            self.ignored = frozenset(self.header.pop("ignored", ()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a readable file of packed cases ({error}); pack them again") from error
        self.ids = [entry.id for entry in self.entries]

    def _map(self) -> None:
        self.bytes = np.memmap(self.path, dtype=np.uint8, mode="r")

    def _read_header(self) -> tuple[dict[str, Any], list[Entry]]:
        checksum, length = map(int, np.frombuffer(self.bytes[-TAIL : -len(MAGIC)].tobytes(), "<u8"))
        if self.bytes[-len(MAGIC) :].tobytes() != MAGIC or not 0 < length <= len(self.bytes) - TAIL:
            raise ValueError("unknown format, or truncated")
        text = self.bytes[-TAIL - length : -TAIL].tobytes()
        if zlib.crc32(text) != checksum:
            raise ValueError("damaged header")
        header = json.loads(text)
        rows = header.pop("cases")
        room = len(self.bytes) - TAIL - length
        if not rows or not all(_fits(row, room) for row in rows):
            raise ValueError("damaged table of cases")
        return header, [Entry(*row) for row in rows]

    def __getstate__(self) -> dict[str, Any]:  # for data loading processes, which map the file themselves
        return {name: value for name, value in self.__dict__.items() if name != "bytes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return len(self.entries)

    def arrays(self, index: int) -> CaseArrays:
        """The pixels of case number `index`, as copies. DataError: the case is damaged."""
        entry = self.entries[index]
        data = self.bytes[entry.offset : entry.end]
        if zlib.crc32(data.data) != entry.checksum:
            raise DataError(
                f"{self.path}: {entry.id} is damaged; pack it again, or remove the file if it is in --cache_dir"
            )
        pixels, bits = data[: entry.image_bytes], data[entry.image_bytes :]
        image = pixels.view(np.float32).reshape(entry.channels, entry.height, entry.width)
        count, size = entry.masks, (entry.height, entry.width)
        masks = np.unpackbits(bits, count=count * entry.height * entry.width).reshape(count, *size).view(bool)
        ignored = masks[-1] if index in self.ignored else None
        raters = masks if ignored is None else masks[:-1]
        raters = raters.reshape(-1, self.classes, *size) if self.classes else raters
        geometry = self.geometries[index]
        return CaseArrays(np.array(image), raters, Geometry.from_json(geometry) if geometry else None, ignored)

    def num_raters(self, index: int) -> int:
        """The number of raters of case number `index`."""
        return (self.entries[index].masks - (index in self.ignored)) // (self.classes or 1)

    def own_arrays(self, index: int) -> CaseArrays:
        """As `arrays`, at the case's own size as far as it is known."""
        return bring_back(self.arrays(index))

    def is_sound(self) -> bool:
        """Whether the checksums of all cases match.

        Reads the file without the memory map, whose pages would count as memory of this process.
        """
        with open(self.path, "rb") as file:
            for entry in self.entries:
                file.seek(entry.offset)
                if zlib.crc32(file.read(entry.end - entry.offset)) != entry.checksum:
                    return False
        return True


def is_packed(path: str) -> bool:
    """Whether a file ends as those of `write_pack` do."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - len(MAGIC)))
        return file.read() == MAGIC


def _fits(row: Sequence[Any], room: int) -> bool:
    """Whether a row of the table is a valid Entry whose case lies within the first `room` bytes."""
    case_id, *numbers = row
    if len(numbers) != 6 or not isinstance(case_id, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        return False
    entry = Entry(case_id, *numbers)
    return entry.image_bytes > 0 and entry.offset % 4 == 0 and entry.end <= room
