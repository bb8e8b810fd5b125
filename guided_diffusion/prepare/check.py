"""Checks a folder of cases in one pass: reports every fault, and what the folder contains."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np

from ..data.case_reader import CaseReader
from ..data.config import DataConfig
from ..data.described import described, with_intensity_range
from ..data.files.case_files import list_files
from ..data.files.dataset_json import dataset_faults, read_dataset_file
from ..data.names import PatientPattern, PatientRule, PatientTable
from ..data.resize import pad_to, resize
from ..data.stores.case_cache import find_labelled
from ..errors import DataError
from ..flags.fields import Flag, config
from ..flags.sizes import PIXELS, Size
from ..masks import pictures
from ..masks.legends import with_legend
from ..system import storage
from ..system.progress import progress_bar
from .contents import Contents, Range, level_lines
from .splits import split_faults

SHEET_CASES, SHEET_SIDE = 16, 128  # cases on a sheet; side of a tile, pixels
SHEET_COLUMNS, CASE_COLUMNS = 14, 7  # tiles in a row, at most, and tiles of a case


@config()
class CheckConfig:
    """What to check."""

    data_dir: Annotated[str, Flag("folder of cases, with or without splits")] = ""
    image_size: Annotated[
        Size | None, Flag(f"report what this size changes, {PIXELS}; none: nothing", none="none", at_least=1)
    ] = None
    sheet: Annotated[
        str, Flag("PNG to write, with up to 16 of the cases and their raters; empty: none", local=True)
    ] = ""
    patient_pattern: PatientPattern = ""
    patients: PatientTable = ""


def check_data(config: CheckConfig, data_config: DataConfig, report: Callable[[str], None] = print) -> int:
    """Report every fault with its file, and statistics of the cases. Returns the number of faults.

    ConfigError or DataError: the flags of patients cannot be used, or there are no cases.
    """
    rule = PatientRule.of(config)
    data_config, stated_faults = _described(data_config, config.data_dir)
    folders = find_labelled(config.data_dir, data_config, report)
    checked = CheckedCases(config, data_config)
    faults = [f"{fault.place}: {fault.text}" for fault in checked.reader.faults_of(folders)]
    faults += checked.read(folders)
    faults += [*stated_faults, *checked.dataset_faults()]
    of_split, notes = split_faults(config.data_dir, folders, rule)
    faults += of_split

    report_contents(checked.contents, len(folders), report)
    for line in [*checked.lines(len(folders)), *notes]:
        report(line)
    if checked.sheet:
        storage.make_folder(os.path.dirname(config.sheet) or ".")
        page = with_legend(pictures.grid(in_columns(checked.sheet)), checked.classes)
        storage.write_atomically(config.sheet, lambda file: page.save(file, format="PNG"))
        report(f"{len(checked.sheet)} of the cases are shown in {config.sheet}")
    for fault in faults:
        report(f"fault: {fault}")
    report(f"{len(faults)} faults" if faults else "no faults")
    return len(faults)


class CheckedCases:
    """What is found in the cases that can be read.

    reader    surveys and reads them at their own size
    fitted    resizes them to --image_size, for its notes
    contents  statistics of each split
    sheet     tiles of each case shown
    """

    def __init__(self, config: CheckConfig, data_config: DataConfig) -> None:
        self.config = config
        self.reader, self.fitted = CaseReader(config=data_config), CaseReader(config.image_size, config=data_config)
        self.classes = data_config.class_set
        self.contents: dict[str, Contents] = collections.defaultdict(lambda: Contents(self.classes))
        self.sheet: list[list[pictures.Tile]] = []

    def read(self, folders: Sequence[tuple[str, str]]) -> list[str]:
        """Read the sound ones of the surveyed cases (name, folder). Returns faults that only reading finds."""
        reader, faults = self.reader, []
        sound = [case for case in folders if case[1] in reader.images.cases] if reader.has_rule else []
        places = np.linspace(0, len(sound) - 1, SHEET_CASES).round().astype(int)
        shown = set(places.tolist()) if self.config.sheet else ()
        for k, (name, folder) in enumerate(progress_bar(sound, unit="case", delay=2, leave=False)):
            try:
                case = reader.read(folder)
            except DataError:  # already among the faults
                continue
            image, raters, _, ignored = case
            reader.changes.masks.add(raters)
            files = list_files(folder).images
            ranges = [reader.changes.ranges[file] for file in files]
            self.contents[_split_of(self.config.data_dir, folder)].add(image, raters, ranges, reader.colour, ignored)
            faults += grey_faults(files, ranges)
            try:
                self.fitted.fit(folder, case)
            except DataError as error:
                faults.append(str(error))
            if k in shown:
                self.sheet.append(case_tiles(name, image, raters, reader.colour))
        return faults

    def dataset_faults(self) -> list[str]:
        """What contradicts the cases that can be read in dataset.json."""
        modalities = () if self.reader.images.single else self.reader.images.modalities
        raters = max((max(one.raters) for one in self.contents.values()), default=0)
        planes = self.reader.num_planes if self.contents else 0
        levels = () if self.classes.from_files else self.reader.levels.levels
        return dataset_faults(self.config.data_dir, modalities, planes, levels, raters)

    def lines(self, num_cases: int) -> Iterator[str]:
        """The classes, the levels of the labels, and what reading changed."""
        if self.classes.several:
            kind = "of which a pixel has at most one" if self.classes.exclusive else "regions, which may overlap"
            yield f"classes: {', '.join(self.classes.names)}, {kind}"
        yield from level_lines(self.reader.levels)
        yield from self.reader.notes(num_cases)
        yield from self.fitted.notes(num_cases)


def _described(config: DataConfig, directory: str) -> tuple[DataConfig, list[str]]:
    """`config` with what a folder states, and faults; as it is if dataset.json is damaged, see dataset_faults."""
    try:
        config = with_intensity_range(config, read_dataset_file(directory))
    except DataError:
        return config, []
    try:
        return described(config, directory), []
    except DataError as error:
        return config, [str(error)]


def report_contents(contents: Mapping[str, Contents], num_cases: int, report: Callable[[str], None]) -> None:
    """Report the statistics of each split."""
    counts = ", ".join(f"{split or 'no split'} {one.cases}" for split, one in sorted(contents.items()))
    report(f"{sum(one.cases for one in contents.values())} of {num_cases} cases can be read: {counts}")
    for split, one in sorted(contents.items()):
        if len(contents) > 1:
            report(f"{split or 'no split'}:")
        for line in one.lines():
            report(f"  {line}" if len(contents) > 1 else line)


def grey_faults(files: Iterable[str], ranges: Iterable[Range]) -> list[str]:
    """A fault for each image file that has a single level, from the range of its values."""
    return [
        f"{file}: the image has a single grey level; replace or remove it"
        for file, (low, high, _) in zip(files, ranges, strict=True)
        if low == high
    ]


def _split_of(data_dir: str, folder: str) -> str:
    """The folder below data_dir that contains the case's folder; empty for a case directly in data_dir."""
    parts = os.path.relpath(folder, data_dir).split(os.sep)
    return parts[0] if len(parts) > 1 else ""


# -- the sheet --------------------------------------------------------------------------------------------------------


def case_tiles(name: str, image: np.ndarray, raters: np.ndarray, colour: bool = False) -> list[pictures.Tile]:
    """The image [C, H, W] of a case, the outlines of its raters [R, *K, H, W], and the first distinct masks."""
    small = _resized(pictures.shown_image(image, colour))
    planes = raters.reshape(-1, *raters.shape[-2:])
    masks = np.array([_resized(plane) > 0.5 for plane in planes], dtype=bool)
    masks = masks.reshape(*raters.shape[:-2], SHEET_SIDE, SHEET_SIDE)
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


def _resized(picture: np.ndarray) -> np.ndarray:
    """A plane, or the planes of a colour image, at the size of a tile; black borders make it square."""
    if picture.ndim == 3:
        return np.stack([_resized(plane) for plane in picture])
    longer = max(picture.shape)
    (square,) = pad_to(np.asarray(picture, dtype=np.float32)[None], (longer, longer))
    return resize(square, (SHEET_SIDE, SHEET_SIDE))
