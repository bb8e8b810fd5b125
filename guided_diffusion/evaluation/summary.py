"""Scores folders of samples against the raters: a table, metrics.csv, metrics.json and report.html."""

import collections
import csv
import io
import itertools
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its submodules load on first use
from numpy.typing import ArrayLike

from ..data.files.case_files import find_cases
from ..errors import ConfigError, DataError
from ..masks import fidelity, metrics
from ..masks.metrics import FigureName
from ..sampling.names import stem_of
from ..system import folders, storage
from ..system.progress import progress_bar
from ..system.workers import map_in_threads
from .case_figures import MORE_FIGURES, CaseScore, EvaluateConfig, Scorer, check_evaluate_config
from .faults import group_faults
from .report import BaseReport, NullReport, Report
from .table import LETTERS, FolderSummary, Interval, Summary, as_table, legend

BOOTSTRAP_DRAWS = 10_000
FAULTS_SHOWN = 20
NAME_WIDTH = 24  # of the table's first column, at least
VALUES_SHOWN = 3  # of a setting in which the cases differ
DESCRIPTIONS = {**metrics.FIGURES, **MORE_FIGURES}


def evaluate(config: EvaluateConfig, flags: Mapping[str, Any], names: Collection[str] | None = None) -> Summary:
    """Score the cases, write the results into config.out_dir or the folder of samples, print and return the summary.

    flags   the flags of DataConfig and PostprocessConfig that were given; the others are those stored with the samples
    names   the cases to score; None: all
    DataError: no case could be scored.
    """
    check_evaluate_config(config)
    if len(config.folders) > len(LETTERS):
        raise ConfigError(f"--compare names {len(config.compare)} folders; the maximum is {len(LETTERS) - 1}")
    cases = [case for case in find_cases(config.data_dir) if names is None or case[0] in names]
    out_dir = config.out_dir or config.samples
    if config.out_dir:
        folders.check_writable(out_dir, "out_dir")
    else:
        folders.check_writable(out_dir, "samples", "pass another folder for the results as --out_dir")

    scorer, scores = Scorer(config, flags), []
    with open_report(config, out_dir) as report:
        bar = progress_bar(cases, unit="case", delay=3, leave=False)
        for score in map_in_threads(scorer, bar):
            if score.figures:
                report.add(score.name, side_by_side(score.figures, config.folders), score.pictures)
            score.pictures.clear()
            scores.append(score)
        notes = [
            *scorer.notes(len(cases)),
            *different_counts(config, scores),
            *unknown_cases(config, find_cases(config.data_dir)),
        ]
        data_dir = folders.relative(config.data_dir, out_dir)  # both may move together
        summary = summarise(config, scores, notes, data_dir)
        write_csv(os.path.join(out_dir, "metrics.csv"), scores)
        storage.write_json(os.path.join(out_dir, "metrics.json"), summary)
        report.finish(summary, DESCRIPTIONS)
    print_summary(summary)
    return summary


def open_report(config: EvaluateConfig, out_dir: str) -> BaseReport:
    """The report for `out_dir`, or a NullReport with --report False."""
    return Report(os.path.join(out_dir, "report.html")) if config.report else NullReport()


# -- metrics over the cases -------------------------------------------------------------------------------------------


def mean_and_interval(values: ArrayLike) -> Interval:
    """Mean of a metric's values, one per case, with standard error and 95 % interval; None with a single case.

    The interval is from the percentile bootstrap over the cases.
    """
    values = np.asarray(values, dtype=np.float64)
    found = Interval(mean=float(values.mean()), se=None, low=None, high=None, cases=len(values))
    if len(values) > 1:
        drawn = scipy.stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=BOOTSTRAP_DRAWS,
            method="percentile",
            batch=1000,
            rng=np.random.default_rng(0),
        )
        low, high = map(float, drawn.confidence_interval)
        found |= {"se": float(values.std(ddof=1) / len(values) ** 0.5), "low": low, "high": high}
    return found


def summarise(config: EvaluateConfig, scores: Sequence[CaseScore], notes: list[str], data_dir: str) -> Summary:
    """The summary of all scores.

    With several folders, the mean of a metric is over the same cases in all: those that have the metric in each folder.
    DataError: no case could be scored.
    """
    faults = group_faults((score.name, fault) for score in scores for fault in score.faults)
    common = [score for score in scores if set(config.folders) <= score.figures.keys()]
    if not common:
        where = " in every folder" if config.compare else ""
        raise DataError(f"none of the {len(scores)} cases could be scored{where}: {'; '.join(faults[:3])}")
    rows = {folder: [_shared(score, score.figures[folder]) for score in common] for folder in config.folders}
    first, *others = (_summarise_folder(folder, rows[folder], common) for folder in config.folders)
    for other in others:
        pairs = zip(rows[other["samples"]], rows[config.samples], strict=True)
        other["differences"] = _summarise_rows([difference(*pair) for pair in pairs])
    return {**first, "of": len(scores), "compared": others, "faults": faults, "notes": notes, "data_dir": data_dir}


def _shared(score: CaseScore, row: Mapping[str, float]) -> dict[str, float]:
    """The metrics in a case's row that the case has in every folder."""
    return {name: value for name, value in row.items() if all(name in other for other in score.figures.values())}


def _summarise_folder(folder: str, rows: Sequence[Mapping[str, float]], scores: Sequence[CaseScore]) -> FolderSummary:
    summary: FolderSummary = {
        "samples": folder,
        "cases": len(rows),
        "settings": common_settings([score.settings[folder] for score in scores]),
        "figures": _summarise_rows(rows),
    }
    modes: dict[int, list[tuple[float, float]]] = {}  # {count: [(probability, frequency)] of all cases}
    for score in scores:
        for count, pairs in score.modes.get(folder, {}).items():
            modes.setdefault(count, []).extend(pairs)
    if modes:
        summary["mode_calibration"] = {
            str(count): fidelity.calibration_curve(*np.transpose(pairs)) for count, pairs in sorted(modes.items())
        }
    return summary


def common_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """{name: value} of the settings of all cases; different values are listed, or counted if there are many."""
    found = {}
    for name in dict.fromkeys(itertools.chain.from_iterable(settings)):
        values = list(dict.fromkeys(of_case.get(name, "default") for of_case in settings))
        found[name] = ", ".join(values) if len(values) <= VALUES_SHOWN else f"{len(values)} different values"
    return found


def _summarise_rows(rows: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    names = in_order(dict.fromkeys(name for row in rows for name in row))
    return {name: mean_and_interval([row[name] for row in rows if name in row]) for name in names}


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """{metric: a - b} of the metrics that both have."""
    return {name: a[name] - b[name] for name in a if name in b}


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics in the order of DESCRIPTIONS; for each of them, its numbers of samples in ascending order.

    The metrics over all classes come first, then those of each class in the order in which `names` has them first.
    """
    parts = {name: FigureName.parse(name) for name in names}
    metric_order, class_order = (
        list(DESCRIPTIONS),
        list(dict.fromkeys(["", *(part.of_class for part in parts.values())])),
    )

    def key(name: str) -> tuple[int, int, int]:
        metric, count, of_class = parts[name]
        return class_order.index(of_class), metric_order.index(metric), count or 0

    return sorted(parts, key=key)


def different_counts(config: EvaluateConfig, scores: Sequence[CaseScore]) -> list[str]:
    """A note for each folder whose cases differ in their number of samples, else one if the folders differ.

    Metrics at different numbers of samples have different names and cannot be compared.
    """
    notes, found = [], {}
    for folder in config.folders if not config.counts else ():
        found[folder] = counts = _numbers_of_samples(folder, scores)
        if len(counts) > 1:
            shown = ", ".join(f"{cases} of {count}" for count, cases in sorted(counts.items()))
            notes.append(
                f"the cases in {folder} have different numbers of samples ({shown}): "
                f"use --counts {min(counts)} to score the same number of each"
            )
    if not notes and len(everywhere := set(itertools.chain(*found.values()))) > 1:
        shown = ", ".join(f"{max(counts)} in {folder}" for folder, counts in found.items() if counts)
        notes.append(
            f"the folders have different numbers of samples ({shown}), so their metrics cannot be compared; "
            f"use --counts {min(everywhere)}"
        )
    return notes


def _numbers_of_samples(folder: str, scores: Iterable[CaseScore]) -> collections.Counter[int]:
    """{number of samples: number of cases}, from the names of the cases' metrics."""
    names = itertools.chain.from_iterable(score.figures.get(folder, {}) for score in scores)
    return collections.Counter(int(match[1]) for name in names if (match := re.fullmatch(r"ged_(\d+)", name)))


def unknown_cases(config: EvaluateConfig, cases: Iterable[tuple[str, str]]) -> list[str]:
    """A note for each folder with samples of cases that are not among these."""
    known, notes = {stem_of(name) for name, _ in cases}, []
    for folder in config.folders:
        named = {
            match[1]
            for file in os.listdir(folder)
            if (match := re.fullmatch(r"(.+)_(?:samples\.npz|output0\.png)", file))
        }
        if other := sorted(named - known):
            notes.append(
                f"{folder} has samples of {len(other)} cases that are not in {config.data_dir}, for example {other[0]}"
            )
    return notes


# -- output -----------------------------------------------------------------------------------------------------------


def side_by_side(figures: Mapping[str, Mapping[str, float]], folders: Sequence[str]) -> dict[str, float]:
    """The metrics of one case in one dict; with several folders, those of each and the differences from the first."""
    if len(folders) == 1:
        return {name: figures[folders[0]][name] for name in in_order(figures[folders[0]])}
    flat: dict[str, float] = {}
    for folder in folders:
        row = figures.get(folder, {})
        flat |= {f"{name} of {folder}": row[name] for name in in_order(row)}
    for folder in folders[1:]:
        row = difference(figures.get(folder, {}), figures.get(folders[0], {}))
        flat |= {f"{name}, {folder} minus {folders[0]}": row[name] for name in in_order(row)}
    return flat


def write_csv(path: str, scores: Sequence[CaseScore]) -> None:
    """Write a row for each case and folder; metrics that a case does not have stay empty."""
    names = in_order(dict.fromkeys(name for score in scores for row in score.figures.values() for name in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["case", "samples", *names])
    writer.writeheader()
    for score in scores:
        writer.writerows({"case": score.name, "samples": folder, **row} for folder, row in score.figures.items())
    storage.write_text(path, file.getvalue())


def print_summary(summary: Summary) -> None:
    """Print the summary as a table, with notes and the first FAULTS_SHOWN faults."""
    for line in legend(summary):
        print(line)
    titles, rows = as_table(summary)
    width = max(NAME_WIDTH, *map(len, rows))
    print(" " * width + "".join(f"{title:>10s}" for title in titles))
    for name, cells in rows.items():
        print(f"{name:{width}s}" + "".join(f"{cell:>10s}" for cell in cells))
    shown = summary["faults"][:FAULTS_SHOWN]
    for line in (*summary["notes"], *shown):
        print(line)
    if len(summary["faults"]) > len(shown):
        print(f"... and {len(summary['faults']) - len(shown)} more faults, all in metrics.json")
