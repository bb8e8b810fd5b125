"""Checks a folder of cases in one pass: reports every fault, and what the folder contains."""

import collections
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np

from ..data.case_reader import CaseReader, DataConfig, find_cases, list_files
from ..data.image_files import is_jpeg
from ..data.resize import resize
from ..errors import DataError
from ..flags.fields import Flag, config
from ..masks import metrics, pictures
from ..masks.pairs import dice_matrix, iou_matrix
from ..system import storage
from ..system.progress import progress_bar
from .splits import split_faults

SHEET_CASES, SHEET_SIDE = 16, 128  # cases on a sheet; side of a tile, pixels
SHEET_COLUMNS, CASE_COLUMNS = 14, 7  # tiles in a row, at most, and tiles of a case
MANY_LEVELS = 10  # of a label: from this number on they are not counted


@config()
class CheckConfig:
    """What to check."""

    data_dir: Annotated[str, Flag("folder of cases, with or without splits")] = ""
    sheet: Annotated[
        str, Flag("PNG to write, with up to 16 of the cases and their raters; empty: none", local=True)
    ] = ""


class Contents:
    """Statistics of the cases that can be read."""

    def __init__(self) -> None:
        self.splits: collections.Counter[str] = collections.Counter()
        self.sizes: collections.Counter[str] = collections.Counter()
        self.raters: collections.Counter[int] = collections.Counter()
        self.masks, self.empty = 0, 0
        self.agreement: dict[str, list[float]] = collections.defaultdict(list)

    def add(self, split: str, image: np.ndarray, raters: np.ndarray) -> None:
        """Add a case: image [C, H, W], raters [R, H, W] bool."""
        modalities = f" of {len(image)} modalities" if len(image) > 1 else ""
        self.splits[split] += 1
        self.sizes[f"{image.shape[2]}x{image.shape[1]}{modalities}"] += 1
        self.raters[len(raters)] += 1
        self.masks += len(raters)
        self.empty += int((~raters.any((1, 2))).sum())
        if len(raters) > 1:
            pairs = ~np.eye(len(raters), dtype=bool)
            self.agreement["IoU of two raters"].append(iou_matrix(raters, raters)[pairs].mean())
            self.agreement["Dice of two raters"].append(dice_matrix(raters, raters)[pairs].mean())
            distances = [metrics.squared_ged(rater[None], raters).total for rater in raters]
            self.agreement["GED of one rater against all"].append(float(np.mean(distances)))

    def lines(self) -> Iterator[str]:
        """The statistics, as lines of text."""
        yield "sizes: " + ", ".join(f"{size} in {count} cases" for size, count in self.sizes.most_common())
        yield "raters: " + ", ".join(f"{number} in {count} cases" for number, count in self.raters.most_common())
        if self.masks:
            yield f"empty masks: {self.empty} of {self.masks} ({100 * self.empty / self.masks:.1f} %)"
        for title, values in self.agreement.items():
            yield f"{title}: {np.mean(values):.3f} on average over {len(values)} cases"


def check_data(config: CheckConfig, data_config: DataConfig, report: Callable[[str], None] = print) -> int:
    """Report every fault with its file, and statistics of the cases. Returns the number of faults."""
    folders = find_cases(config.data_dir)
    reader, contents = CaseReader(config=data_config), Contents()
    faults: list[str] = []
    sheet: list[list[pictures.Tile]] = []  # of each case shown
    shown = set(np.linspace(0, len(folders) - 1, SHEET_CASES).round().astype(int).tolist()) if config.sheet else ()
    for k, (name, folder) in enumerate(progress_bar(folders, unit="case", delay=2, leave=False)):
        try:
            image, raters = reader.read(folder)
        except DataError as error:
            faults += str(error).splitlines()
            continue
        contents.add(_split_of(config.data_dir, folder), image, raters)
        faults += grey_faults(folder, image)
        if k in shown:
            sheet.append(case_tiles(name, image, raters))
    of_split, notes = split_faults(config.data_dir, [folder for _, folder in folders])
    faults += of_split

    counts = ", ".join(f"{split or 'no split'} {count}" for split, count in sorted(contents.splits.items()))
    report(f"{contents.splits.total()} of {len(folders)} cases can be read: {counts}")
    for line in [*contents.lines(), *level_lines(reader.levels, data_config.label_threshold), *notes]:
        report(line)
    if sheet:
        storage.make_folder(os.path.dirname(config.sheet) or ".")
        page = pictures.grid(in_columns(sheet))
        storage.write_atomically(config.sheet, lambda file: page.save(file, format="PNG"))
        report(f"{len(sheet)} of the cases are shown in {config.sheet}")
    for fault in faults:
        report(f"fault: {fault}")
    report(f"{len(faults)} faults" if faults else "no faults")
    return len(faults)


def grey_faults(folder: str, image: np.ndarray) -> list[str]:
    """A fault for each modality of an image [C, H, W] that has a single grey level."""
    titles = ["the image"] if len(image) == 1 else [os.path.basename(file) for file in list_files(folder)[0]]
    return [
        f"{folder}: {title} has a single grey level; replace or remove it"
        for title, plane in zip(titles, image, strict=True)
        if np.ptp(plane) == 0
    ]


def level_lines(levels: Mapping[str, int], label_threshold: float) -> Iterator[str]:
    """Lines that summarise {label file: number of levels in it}."""
    lossless = collections.Counter(min(count, MANY_LEVELS) for file, count in levels.items() if not is_jpeg(file))
    if lossless:
        counts = (
            f"{f'more than {count - 1}' if count == MANY_LEVELS else count} in {files}"
            for count, files in sorted(lossless.items())
        )
        yield f"levels in lossless labels: {', '.join(counts)}"
    if soft := sum(count > 2 for file, count in levels.items() if is_jpeg(file)):
        yield (
            f"{soft} JPEG labels have more than two levels; they are thresholded at {label_threshold:g} of full scale "
            "(--label_threshold)"
        )


def _split_of(data_dir: str, folder: str) -> str:
    """The folder below data_dir that contains the case's folder; empty for a case directly in data_dir."""
    parts = os.path.relpath(folder, data_dir).split(os.sep)
    return parts[0] if len(parts) > 1 else ""


# -- the sheet --------------------------------------------------------------------------------------------------------


def case_tiles(name: str, image: np.ndarray, raters: np.ndarray) -> list[pictures.Tile]:
    """The image [C, H, W] of a case, the outlines of its raters [R, H, W], and the first distinct masks."""
    small = _resized(image[0])
    masks = np.array([_resized(mask) > 0.5 for mask in raters], dtype=bool).reshape(-1, SHEET_SIDE, SHEET_SIDE)
    title = f"{len(raters)} rater{'' if len(raters) == 1 else 's'}"
    return [pictures.Tile(name[:20], small), *pictures.mask_tiles(title, "rater", small, masks)][:CASE_COLUMNS]


def in_columns(cases: Sequence[list[pictures.Tile]]) -> list[list[pictures.Tile | None]]:
    """Rows of the sheet, with several cases side by side where they fit; the cases of a column are aligned."""
    widest = max(map(len, cases))
    per_row = max(1, SHEET_COLUMNS // widest)
    gap: list[pictures.Tile | None] = [None]
    rows: list[list[pictures.Tile | None]] = []
    for start in range(0, len(cases), per_row):
        row: list[pictures.Tile | None] = []
        for tiles in cases[start : start + per_row]:
            row += [*tiles, *gap * (widest - len(tiles) + 1)]
        rows.append(row[:-1])
    return rows


def _resized(plane: np.ndarray) -> np.ndarray:
    """A plane at the size of a tile."""
    return resize(np.asarray(plane, dtype=np.float32), SHEET_SIDE)
