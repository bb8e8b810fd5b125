"""What a run says: lines to the console and to log.txt, metrics to progress.csv, and the sinks that show them elsewhere."""

import contextlib
import csv
import io
import os
import re

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .system import storage

QUARTILES = 4  # of the timesteps, in which losses are told apart


class NullSink:
    """Shows nothing: the null form of what shows a run besides its log, such as Visdom windows and TensorBoard.

    A sink never stops the run that it shows.
    """

    shown = False  # whether somebody may be looking, so that making pictures is worth while

    def lines(self, window: str, step: int, values: dict[str, float]) -> None:
        """Continue the lines of a window: {series: value} at a step."""

    def show_metrics(self, values: dict[str, float]) -> None:
        """Show a row of the log, {column: number}, with its "step"."""

    def picture(self, window: str, picture: Image.Image, caption: str = "") -> None:
        """Show a picture, in place of what the window showed."""

    def close(self) -> None:
        """Show what is left, and end."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class TensorBoard(NullSink):
    """Writes TensorBoard events into `folder`.

    start_step  events beyond it, which a run left when it broke off, are dropped
    """

    shown = True

    def __init__(self, folder, start_step):
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.step = SummaryWriter(folder, purge_step=start_step + 1), start_step

    def lines(self, window, step, values):
        for series, value in values.items():
            self.writer.add_scalar(f"{window}/{series}", value, step)

    def show_metrics(self, values):
        self.step = values["step"]
        for name, value in values.items():
            if name != "step":
                self.writer.add_scalar(name, value, self.step)

    def picture(self, window, picture, caption=""):
        self.writer.add_image(window, np.asarray(picture.convert("RGB")), self.step, dataformats="HWC")

    def close(self):
        self.writer.close()


class NullLogger:
    """Says nothing: for every process but the first."""

    events = NullSink()
    earlier = ()  # the numbers of the steps before, {column: number} for each row of progress.csv

    def info(self, text):
        pass

    def metrics(self, values):
        pass

    def progress(self, start, total, unit):
        """A progress bar; here one that is not shown."""
        return tqdm(initial=start, total=total, disable=True)

    def close(self):
        pass


class Logger(NullLogger):
    """Writes log.txt and progress.csv into `folder`, which is made if need be; a run that continues appends.

    A blob store cannot append: there, both are held in memory and written whole at each line of metrics.

    columns      the columns of progress.csv, "step" first
    start_step   rows of progress.csv beyond this step, which a run left when it broke off, are dropped
    tensorboard  write events for TensorBoard too, into the folder `tensorboard`
    """

    def __init__(self, folder, columns, start_step=0, tensorboard=False):
        self.folder, self.columns = folder, columns
        storage.make_folder(folder)
        rows = [row for row in read_rows(self._path("progress.csv")) if int(row["step"]) <= start_step]
        kept = io.StringIO(newline="")
        writer = csv.DictWriter(kept, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        self.earlier = [numbers(row) for row in rows]
        if storage.is_remote(folder):
            before = (storage.read_bytes(self._path("log.txt")) or b"").decode()
            self.text, self.table = io.StringIO(), kept
            self.text.write(before)
        else:
            self.text = open(self._path("log.txt"), "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            storage.write_text(self._path("progress.csv"), kept.getvalue())
            self.table = open(self._path("progress.csv"), "a", buffering=1, newline="", encoding="utf-8")  # noqa: SIM115
        self.writer = csv.DictWriter(self.table, columns, restval="", extrasaction="ignore")
        self.events = TensorBoard(self._path("tensorboard"), start_step) if tensorboard else NullSink()

    def _path(self, name):
        return os.path.join(self.folder, name)

    def info(self, text):
        tqdm.write(text)
        self.text.write(text + "\n")

    def metrics(self, values):
        """One row: {column: number}; a column without a number stays empty. The line leaves the quartiles to the table."""
        texts = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        self.writer.writerow(texts)
        self.info(", ".join(f"{key} {text}" for key, text in texts.items() if not re.search(r"_q\d$", key)))
        self.events.show_metrics(values)
        self._upload()

    def _upload(self):
        if storage.is_remote(self.folder):
            for name, content in (("log.txt", self.text), ("progress.csv", self.table)):
                storage.write_text(self._path(name), content.getvalue())

    def progress(self, start, total, unit):
        return tqdm(initial=start, total=total, unit=unit, dynamic_ncols=True, mininterval=0.5)

    def close(self):
        self._upload()
        for file in (self.text, self.table, self.events):
            file.close()


def read_rows(path):
    """The rows of a CSV file as dicts; none if there is no file."""
    text = (storage.read_bytes(path) or b"").decode(errors="replace")
    return [row for row in csv.DictReader(io.StringIO(text, newline="")) if (row.get("step") or "").isdigit()]


def numbers(row):
    """The columns of a row that hold a number, as {column: number}."""
    found = {}
    for column, text in row.items():
        with contextlib.suppress(TypeError, ValueError):
            found[column] = float(text)
    return found


class LossMeter:
    """Means of loss terms between two lines of the log, overall and by quartile of t, without waiting for the device."""

    def __init__(self, num_timesteps, device):
        self.num_timesteps = num_timesteps
        self.weight = torch.zeros(QUARTILES, device=device)
        self.sums = {}

    def add(self, terms, t, weights):
        """Take in terms {name: [B]} at timesteps t [B] with their importance weights [B]; draws without a finite loss are left out."""
        quartile = t * QUARTILES // self.num_timesteps
        finite = torch.isfinite(terms["loss"])
        self.weight.index_add_(0, quartile, weights * finite)
        for name, values in terms.items():
            total = self.sums.setdefault(name, torch.zeros_like(self.weight))
            total.index_add_(0, quartile, torch.where(finite, values.detach() * weights, 0.0))

    def read(self, processes):
        """{name: mean, name_q0 .. name_q3: mean of the quartile, where any t fell into it}, and start afresh."""
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
