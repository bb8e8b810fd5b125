"""The summary of an evaluation, and its table."""

import string
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from ..masks.fidelity import CalibrationPoint

LETTERS = string.ascii_uppercase  # the folders of samples, where there are several


class Interval(TypedDict):
    """The mean of a figure over the cases; what a single case does not allow is None."""

    mean: float
    se: float | None  # standard error
    low: float | None  # of the 95 % interval
    high: float | None
    cases: int


class FolderSummary(TypedDict):
    """The figures of one folder of samples."""

    samples: str  # the folder
    cases: int  # scored, in every folder
    figures: dict[str, Interval]
    mode_calibration: NotRequired[dict[str, list[CalibrationPoint]]]  # {number of samples: curve}, of a known truth
    differences: NotRequired[dict[str, Interval]]  # from the first folder, paired by case


class Summary(FolderSummary):
    """The figures of the first folder, and all else of an evaluation: what metrics.json holds."""

    of: int  # cases in all
    compared: list[FolderSummary]  # the other folders
    faults: list[str]
    notes: list[str]
    data_dir: str  # relative to the summary's own folder


def legend(summary: Summary) -> list[str]:
    """What the summary stands for, a line for each folder of samples."""
    names = [folder["samples"] for folder in (summary, *summary["compared"])]
    if len(names) > 1:
        names = [f"{letter}: {name}" for letter, name in zip(LETTERS, names, strict=False)]
    names[0] += f": {summary['cases']} of {summary['of']} cases"
    return names


def as_table(summary: Summary) -> tuple[list[str], dict[str, list[str]]]:
    """The summary's figures as (titles, {figure: cells}), a cell for each title.

    One folder: mean, standard error, 95 % interval, cases. Several: mean and standard error of each, and for each but
    the first, A, the paired differences from that with their intervals; a figure stands for the same cases in all.
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
