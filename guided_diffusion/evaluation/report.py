"""The report of an evaluation: a single HTML file that works offline."""

import base64
import datetime
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ..masks.class_pictures import PALETTE, Colour, colours_of
from ..masks.fidelity import CalibrationPoint
from ..masks.metrics import FigureName
from ..system import storage
from .table import LETTERS, Interval, Summary, as_table, legend
from .templates import load_template

PAGE = Path(__file__).with_name("report.html")
BINS, WIDTH, HEIGHT = 20, 220, 90  # of a histogram
CHIPS = 3  # colours shown in the page's legend


class BaseReport(ABC):
    """Collects the cases of an evaluation one by one; a context manager."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    @abstractmethod
    def add(self, case: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Add a case.

        figures   {metric: value}, in the order of the page
        pictures  {folder of samples: PNG file of the sheet}
        """

    @abstractmethod
    def finish(self, summary: Summary, descriptions: Mapping[str, str]) -> None:
        """Write the page.

        descriptions  {metric: description}
        """


class NullReport(BaseReport):
    """Writes nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def add(self, case: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Do nothing."""

    def finish(self, summary: Summary, descriptions: Mapping[str, str]) -> None:
        """Do nothing."""


class Report(BaseReport):
    """Writes the page at `path`, in `finish`.

    A case's pictures are written to a temporary file at once, so that memory use does not grow with the cases.
    """

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> Self:
        self.spool = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  a JSON line for each case
        self.values: dict[str, list[float]] = {}  # {metric: [value of each case]}
        return self

    def __exit__(self, *exception: object) -> None:
        self.spool.close()

    def add(self, case: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Write the case to the temporary file."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)
        rounded = json.dumps({name: round(value, 6) for name, value in figures.items()})
        embedded = [embed(caption, picture) for caption, picture in pictures.items()]
        self.spool.write(json.dumps({"name": case, "figures": rounded, "pictures": embedded}) + "\n")

    def finish(self, summary: Summary, descriptions: Mapping[str, str]) -> None:
        """Write the page, case by case."""
        titles, rows = as_table(summary)
        page = load_template(PAGE).stream(
            summary=summary,
            folders=legend(summary),
            date=datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            headlines=list(headlines(summary)),
            settings=settings_table(summary),
            letters=list(LETTERS[: 1 + len(summary["compared"])]),
            chips=[as_hex(colour) for colour in PALETTE[:CHIPS]],
            classes=legend_of_classes(summary),
            num_colours=len(PALETTE),
            titles=titles,
            rows=rows,
            descriptions={name: describe(name, descriptions) for name in rows},
            calibrations=list(calibrations(summary)),
            histograms=[histogram(name, values) for name, values in self.values.items()],
            cases=self._cases(),
            width=WIDTH,
            height=HEIGHT,
        )
        storage.write_atomically(self.path, lambda file: page.dump(file, "utf-8"))

    def _cases(self) -> Iterator[dict[str, Any]]:
        self.spool.seek(0)
        for line in self.spool:
            yield json.loads(line)


def as_hex(colour: Colour) -> str:
    """A colour as in CSS."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def legend_of_classes(summary: Summary) -> list[tuple[str, str]]:
    """The names of several classes with their colours; empty for one class."""
    settings = summary["settings"]
    names = settings.get("classes") or settings.get("regions") or ""
    found = names.split(", ") if names else []
    return [(name, as_hex(colour)) for name, colour in zip(found, colours_of(len(found)), strict=True)]


def embed(caption: str, picture: bytes) -> dict[str, str | int]:
    """A PNG file in the form that the page's template embeds."""
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))  # from the PNG's header
    return {"caption": caption, "width": width, "height": height, "source": base64.b64encode(picture).decode()}


# -- headlines and settings -------------------------------------------------------------------------------------------


class Headline(NamedTuple):
    """The main result of a folder of samples."""

    folder: str  # its letter; empty if there is only one
    num_samples: int
    ged: str
    interval: str  # of 95 %; empty with a single case
    majority: str  # ged of the raters' majority vote
    difference: str  # from that, with its interval
    verdict: str
    perfect: str  # ged of a perfect sampler; empty without --truth
    paired: str  # difference from the first folder, with its interval; empty for the first


def headlines(summary: Summary) -> Iterator[Headline]:
    """The squared generalized energy distance of each folder, at its largest number of samples."""
    folders = (summary, *summary["compared"])
    for letter, folder in zip(LETTERS, folders, strict=False):
        figures = folder["figures"]
        names = map(FigureName.parse, figures)
        counts = [count for metric, count, of_class in names if metric == "ged" and count and not of_class]
        if not counts:
            continue
        name = f"ged_{max(counts)}"
        ged, difference = figures[name], figures[f"ged_less_majority_{max(counts)}"]
        perfect, paired = figures.get(f"ged_of_truth_{max(counts)}"), folder.get("differences", {}).get(name)
        yield Headline(
            letter if len(folders) > 1 else "",
            max(counts),
            f"{ged['mean']:.3f}",
            _bounds(ged),
            f"{figures['ged_of_majority']['mean']:.3f}",
            _signed(difference),
            _verdict(difference),
            f"{perfect['mean']:.3f}" if perfect else "",
            _signed(paired) if paired else "",
        )


def describe(name: str, descriptions: Mapping[str, str]) -> str:
    """The description of a metric, for a class with the name of the class."""
    metric, _, of_class = FigureName.parse(name)
    return f"{of_class}: {descriptions[metric]}" if of_class else descriptions[metric]


def _bounds(values: Interval, sign: str = "") -> str:
    if values["low"] is None or values["high"] is None:
        return ""
    return f"[{values['low']:{sign}z.3f}, {values['high']:{sign}z.3f}]"


def _signed(values: Interval) -> str:
    return f"{values['mean']:+z.3f} {_bounds(values, '+')}".strip()


def _verdict(difference: Interval) -> str:
    """What the interval of the difference from the majority vote says."""
    if difference["low"] is None or difference["high"] is None:
        return "a single case allows no conclusion"
    if difference["high"] < 0:
        return "the samples are closer to the raters"
    return "the samples are farther from the raters" if difference["low"] > 0 else "no significant difference"


def settings_table(summary: Summary) -> dict[str, list[str]]:
    """{setting: its value in each folder}."""
    folders = (summary, *summary["compared"])
    names = dict.fromkeys(name for folder in folders for name in folder["settings"])
    return {name: [folder["settings"].get(name, "default") for folder in folders] for name in names}


# -- charts, as the template draws them -------------------------------------------------------------------------------


class Bar(NamedTuple):
    """A bar of a histogram, in pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Histogram(NamedTuple):
    """The distribution of a metric over the cases."""

    name: str
    bars: list[Bar]
    low: float
    high: float


def histogram(name: str, values: Sequence[float]) -> Histogram:
    """The histogram of a metric's values."""
    low, high = min(values), max(values)
    if high - low < 1e-9:  # equal except for rounding: too narrow for bins
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, BINS, (low, high))
    step, tallest = WIDTH / BINS, counts.max()
    bars = []
    for k, (n, left, right) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True)):
        share = float(n / tallest)
        title = f"{left:.3f} to {right:.3f}: {n} cases"
        bars.append(Bar(k * step, HEIGHT * (1 - share), step - 1, HEIGHT * share, title))
    return Histogram(name, bars, edges[0], edges[-1])


class Calibration(NamedTuple):
    """Frequency of the modes among a folder's samples, against their true probability."""

    samples: str  # the folder
    num_samples: str
    curve: list[CalibrationPoint]


def calibrations(summary: Summary) -> Iterator[Calibration]:
    """The calibration curves of all folders; none without --truth."""
    for folder in (summary, *summary["compared"]):
        for count, curve in folder.get("mode_calibration", {}).items():
            yield Calibration(folder["samples"], count, curve)
