"""The summary of an evaluation, and its table of metrics."""

import string
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from ..masks.fidelity import CalibrationPoint

LETTERS = string.ascii_uppercase  # names of the folders of samples, if there are several
# Settings that state the size at which samples and raters are compared
PIXELS, OUTPUT_SIZE = "pixels", "output size"


class Interval(TypedDict):
    """The mean of a metric over the cases. With a single case, the error and the interval are None."""

    mean: float
    se: float | None  # standard error
    low: float | None  # of the 95 % interval
    high: float | None
    cases: int


class FolderSummary(TypedDict):
    """The metrics of one folder of samples."""

    samples: str  # the folder
    cases: int  # that could be scored in every folder
    settings: dict[str, str]  # how the samples were drawn, {name: value}, as far as they store it
    figures: dict[str, Interval]
    mode_calibration: NotRequired[dict[str, list[CalibrationPoint]]]  # {number of samples: curve}, with --truth
    differences: NotRequired[dict[str, Interval]]  # from the first folder, paired by case


class Summary(FolderSummary):
    """The metrics of the first folder and everything else in metrics.json."""

    of: int  # number of cases, scored or not
    compared: list[FolderSummary]  # the other folders
    faults: list[str]
    notes: list[str]
    data_dir: str  # relative to the summary's own folder; absolute on another drive


def legend(summary: Summary) -> list[str]:
    """A line for each folder of samples, with its letter; the first also has the number of cases, and their size."""
    names = [folder["samples"] for folder in (summary, *summary["compared"])]
    if len(names) > 1:
        names = [f"{letter}: {name}" for letter, name in zip(LETTERS, names, strict=False)]
    names[0] += f": {summary['cases']} of {summary['of']} cases"
    if size := summary["settings"].get(PIXELS):
        names[0] += f", scored at {size} pixels" if "x" in size else f", scored at {size.split()[0]} different sizes"
        names[0] += {"own": ", the cases' own size", "network": ", the network's size"}.get(
            summary["settings"].get(OUTPUT_SIZE, ""), ""
        )
    return names


def as_table(summary: Summary) -> tuple[list[str], dict[str, list[str]]]:
    """The summary's metrics as (titles, {metric: cells}), with a cell for each title.

    One folder: mean, standard error, 95 % interval, number of cases. Several folders: mean and standard error of each,
    then the paired differences from the first folder, A, with their intervals; all over the same cases.
    """
    folders, others = (summary, *summary["compared"]), summary["compared"]
    if not others:
        return ["mean", "s. e.", "95 % from", "to", "cases"], {
            name: [*_cells(figure, "mean", "se", "low", "high"), str(figure["cases"])]
            for name, figure in summary["figures"].items()
        }
    titles = [title for letter in LETTERS[: len(folders)] for title in (letter, "s. e.")]
    titles += [title for letter in LETTERS[1 : len(folders)] for title in (f"{letter} - A", "95 % from", "to")]
    rows = {}
    for name, figure in summary["figures"].items():
        own = [_cells(folder["figures"][name], "mean", "se") for folder in folders]
        paired = [_cells(folder["differences"][name], "mean", "low", "high") for folder in others]
        rows[name] = [cell for cells in own + paired for cell in cells] + [str(figure["cases"])]
    return [*titles, "cases"], rows


def _cells(figure: Interval, *keys: Literal["mean", "se", "low", "high"]) -> Sequence[str]:
    values = [figure[key] for key in keys]
    return ["-" if value is None else f"{value:.4f}" for value in values]
