"""The log of a run: lines to the console and log.txt, metrics to progress.csv, and sinks such as TensorBoard."""

import contextlib
import csv
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TextIO

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .system import storage
from .system.progress import progress_bar

if TYPE_CHECKING:
    from .dist_util import Processes

QUARTILES = 4  # of the timesteps; losses are also reported for each


class Sink(ABC):
    """Shows a run elsewhere than in its log, such as in Visdom windows or TensorBoard.

    A failing sink never stops the run.
    """

    @property
    @abstractmethod
    def shown(self) -> bool:
        """Whether somebody may see the pictures, so that making them is worthwhile."""

    @abstractmethod
    def lines(self, window: str, step: int, values: Mapping[str, float]) -> None:
        """Append a point to each line of a window: {series: value} at a step."""

    @abstractmethod
    def show_metrics(self, values: Mapping[str, float]) -> None:
        """Show a row of the log, {column: number}; "step" is one of the columns."""

    @abstractmethod
    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Show a picture, which replaces the window's previous one."""

    @abstractmethod
    def close(self) -> None:
        """Show what is pending, and close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NullSink(Sink):
    """Shows nothing."""

    shown = False

    def lines(self, window: str, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def show_metrics(self, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard(Sink):
    """Writes TensorBoard events into `folder`.

    start_step  drop events of later steps, which an interrupted run left
    """

    shown = True

    def __init__(self, folder: str, start_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.step = SummaryWriter(folder, purge_step=start_step + 1), start_step

    def lines(self, window: str, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each series, named window/series."""
        for series, value in values.items():
            self.writer.add_scalar(f"{window}/{series}", value, step)

    def show_metrics(self, values: Mapping[str, float]) -> None:
        """Write a scalar for each column."""
        self.step = int(values["step"])
        for name, value in values.items():
            if name != "step":
                self.writer.add_scalar(name, value, self.step)

    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Write an image at the step of the last row."""
        self.writer.add_image(window, np.asarray(picture.convert("RGB")), self.step, dataformats="HWC")

    def close(self) -> None:
        """Flush the events."""
        self.writer.close()


class BaseLogger(ABC):
    """The log of a run.

    events   the log's own sink, closed with it
    earlier  rows of progress.csv from before the run was resumed, as {column: number}
    """

    events: Sink
    earlier: Sequence[Mapping[str, float]]

    @abstractmethod
    def info(self, text: str) -> None:
        """Write a line."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float]) -> None:
        """Write a row, {column: number}; missing columns stay empty."""

    @abstractmethod
    def progress(self, start: int, total: int | None, unit: str) -> tqdm:
        """A progress bar from `start` to `total`, open-ended if that is None."""

    @abstractmethod
    def close(self) -> None:
        """Finish the files and the sink."""


class NullLogger(BaseLogger):
    """Writes nothing; used by all processes except the first."""

    events = NullSink()
    earlier = ()

    def info(self, text: str) -> None:
        """Do nothing."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def progress(self, start: int, total: int | None, unit: str) -> tqdm:
        """A progress bar that is not shown."""
        return progress_bar(initial=start, total=total, shown=False)

    def close(self) -> None:
        """Do nothing."""


class Logger(BaseLogger):
    """Writes log.txt and progress.csv into `folder`, which is created if necessary; a resumed run appends.

    A blob store cannot append: its files are kept in memory and written as a whole after each row of metrics.

    columns      of progress.csv, "step" first
    start_step   drop rows of progress.csv of later steps, which an interrupted run left
    tensorboard  also write events for TensorBoard, into the subfolder `tensorboard`
    header       lines for log.txt only, written first
    """

    def __init__(
        self,
        folder: str,
        columns: Sequence[str],
        start_step: int = 0,
        tensorboard: bool = False,
        header: Sequence[str] = (),
    ):
        self.folder, self.columns = folder, columns
        storage.make_folder(folder)
        rows = [row for row in read_rows(self._path("progress.csv")) if int(row["step"]) <= start_step]
        self.earlier = [numbers(row) for row in rows]
        self.held: dict[str, io.StringIO] = {}  # {name: file} in a blob store
        self.text, self.table = self._open_files(as_csv(rows, columns))
        self.writer = csv.DictWriter(self.table, columns, restval="", extrasaction="ignore")
        self.events: Sink = TensorBoard(self._path("tensorboard"), start_step) if tensorboard else NullSink()
        self.text.writelines(f"{line}\n" for line in header)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _open_files(self, table: str) -> tuple[TextIO, TextIO]:
        """Open log.txt and progress.csv to append to them; `table` is the present content of progress.csv."""
        log, path = self._path("log.txt"), self._path("progress.csv")
        if storage.is_remote(self.folder):
            held_log, held_table = io.StringIO(), io.StringIO(newline="")
            held_log.write((storage.read_bytes(log) or b"").decode())
            held_table.write(table)
            self.held = {"log.txt": held_log, "progress.csv": held_table}
            return held_log, held_table
        storage.write_text(path, table)
        return (
            open(log, "a", buffering=1, encoding="utf-8"),  # noqa: SIM115
            open(path, "a", buffering=1, newline="", encoding="utf-8"),  # noqa: SIM115
        )

    def info(self, text: str) -> None:
        """Write a line to the console and to log.txt; after `close`, to the console only."""
        tqdm.write(text)
        if not self.text.closed:
            self.text.write(text + "\n")

    def metrics(self, values: Mapping[str, float]) -> None:
        """Write a row to progress.csv and, without its quartiles, to the log."""
        texts = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        self.writer.writerow(texts)
        self.info(", ".join(f"{key} {text}" for key, text in texts.items() if not re.search(r"_q\d$", key)))
        self.events.show_metrics(values)
        self._upload()

    def _upload(self) -> None:
        for name, content in self.held.items():
            storage.write_text(self._path(name), content.getvalue())

    def progress(self, start: int, total: int | None, unit: str) -> tqdm:
        """A progress bar on the console, if that is a terminal."""
        return progress_bar(initial=start, total=total, unit=unit, mininterval=0.5)

    def close(self) -> None:
        """Close the files and the sink."""
        self._upload()
        for file in (self.text, self.table, self.events):
            file.close()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a progress.csv that have a step; an empty list if the file is missing."""
    text = (storage.read_bytes(path) or b"").decode(errors="replace")
    return [row for row in csv.DictReader(io.StringIO(text, newline="")) if (row.get("step") or "").isdigit()]


def as_csv(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    """The text of a CSV file with these columns. Missing values stay empty; other columns are dropped."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The columns of a row whose text is a number, as {column: number}."""
    found = {}
    for column, text in row.items():
        with contextlib.suppress(TypeError, ValueError):
            found[column] = float(text)
    return found


class LossMeter:
    """Means of loss terms between two rows of the log, overall and by quartile of t, without waiting for the device."""

    def __init__(self, num_timesteps: int, device: torch.device | str):
        self.num_timesteps = num_timesteps
        self.weight = torch.zeros(QUARTILES, device=device)
        self.sums: dict[str, Tensor] = {}  # {term: [QUARTILES]}

    def add(self, terms: Mapping[str, Float[Tensor, "B"]], t: Int[Tensor, "B"], weights: Float[Tensor, "B"]) -> None:
        """Add terms at timesteps t with their importance weights; draws without a finite loss are ignored."""
        quartile = t * QUARTILES // self.num_timesteps
        finite = torch.isfinite(terms["loss"])
        self.weight.index_add_(0, quartile, weights * finite)
        for name, values in terms.items():
            total = self.sums.setdefault(name, torch.zeros_like(self.weight))
            total.index_add_(0, quartile, torch.where(finite, values.detach() * weights, 0.0))

    def read(self, processes: "Processes") -> dict[str, float]:
        """{name: mean, name_q0 .. name_q3: mean of each quartile that has draws}; resets the meter."""
        weight = processes.sum(self.weight).cpu()
        means = {}
        for name, total in self.sums.items():
            total = processes.sum(total).cpu()
            if weight.sum() > 0:
                means[name] = float(total.sum() / weight.sum())
            for q in range(QUARTILES):
                if weight[q] > 0:
                    means[f"{name}_q{q}"] = float(total[q] / weight[q])
        self.weight.zero_()
        self.sums = {}
        return means
