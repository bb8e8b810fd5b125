"""The report of an evaluation: one HTML page that holds all it shows and opens from a file, offline."""

import base64
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ..masks.fidelity import CalibrationPoint
from ..masks.metrics import split_count
from ..system import storage
from .table import Summary, as_table, legend
from .templates import load_template

PAGE = Path(__file__).with_name("report.html")
BINS, WIDTH, HEIGHT = 20, 220, 90  # of a histogram


class BaseReport(ABC):
    """Takes in the cases of an evaluation one by one; to be used as a context."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    @abstractmethod
    def add(self, case: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Take in a case.

        figures   {name: value}, in the order in which they are to be listed
        pictures  {caption: PNG file}
        """

    @abstractmethod
    def finish(self, summary: Summary, descriptions: Mapping[str, str]) -> None:
        """Write the page.

        descriptions  {figure: what it is}
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
    """Writes the page at `path`. A case's pictures go to the disk at once, so that memory does not grow with them.

    The page is there after `finish`, in place of an older one.
    """

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> Self:
        self.spool = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  a JSON line for each case
        self.values: dict[str, list[float]] = {}  # {figure: [value of each case]}
        return self

    def __exit__(self, *exception: object) -> None:
        self.spool.close()

    def add(self, case: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
        """Keep the case on the disk."""
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
            legend=legend(summary),
            titles=titles,
            rows=rows,
            descriptions={name: descriptions[split_count(name)[0]] for name in rows},
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


def embed(caption: str, picture: bytes) -> dict[str, str | int]:
    """A PNG file as the page's template takes it: within the page."""
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))  # from the PNG's header
    return {"caption": caption, "width": width, "height": height, "source": base64.b64encode(picture).decode()}


# -- charts, as the template draws them -------------------------------------------------------------------------------


class Bar(NamedTuple):
    """A bar of a histogram, in pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Histogram(NamedTuple):
    """How the cases spread in one figure."""

    name: str
    bars: list[Bar]
    low: float
    high: float


def histogram(name: str, values: Sequence[float]) -> Histogram:
    """The histogram of a figure's values."""
    low, high = min(values), max(values)
    if high - low < 1e-9:  # equal but for rounding, which cannot be divided into bins
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
    """How often the modes are drawn in a folder's samples against their true probability."""

    samples: str  # the folder
    num_samples: str
    curve: list[CalibrationPoint]


def calibrations(summary: Summary) -> Iterator[Calibration]:
    """The calibration curves of all folders; none where the truth is not known."""
    for folder in (summary, *summary["compared"]):
        for count, curve in folder.get("mode_calibration", {}).items():
            yield Calibration(folder["samples"], count, curve)
