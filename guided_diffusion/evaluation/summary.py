"""Scores folders of samples against the raters: a table, metrics.csv, metrics.json, and report.html to look at."""

import collections
import csv
import io
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy  # its submodules load on first use
from tqdm import tqdm

from ..data.case_reader import find_cases
from ..errors import ConfigError, DataError
from ..masks import fidelity, metrics
from ..system import storage
from ..system.workers import usable_cores
from .case_figures import MORE_FIGURES, Scorer, check_evaluate_config
from .report import LETTERS, NullReport, Report, as_table, legend

BOOTSTRAP_DRAWS = 10_000
NAMES_SHOWN = 5  # cases of one fault that are named
FAULTS_SHOWN = 20
DESCRIPTIONS = {**metrics.FIGURES, **MORE_FIGURES}


def evaluate(config, flags, names=None):
    """Score the cases, write the figures into config.out_dir or else beside the samples, print and return the summary.

    config  EvaluateConfig
    flags   the flags of DataConfig and PostprocessConfig that were given; for others the samples' own are taken
    names   the cases to score; None: all
    DataError: not a single case could be scored.
    """
    check_evaluate_config(config)
    if len(config.folders) > len(LETTERS):
        raise ConfigError(f"--compare: {len(config.compare)} folders; at most {len(LETTERS) - 1} fit into one table")
    cases = [case for case in find_cases(config.data_dir) if names is None or case[0] in names]
    out_dir = config.out_dir or config.samples
    os.makedirs(out_dir, exist_ok=True)

    scorer, scores = Scorer(config, flags), []
    with (Report if config.report else NullReport)(os.path.join(out_dir, "report.html")) as report:
        bar = tqdm(cases, unit="case", delay=3, leave=False, dynamic_ncols=True)
        for score in score_in_threads(scorer, bar):
            if score.figures:
                report.add(score.name, side_by_side(score.figures, config.folders), score.pictures)
            score.pictures.clear()
            scores.append(score)
        notes = [
            *scorer.notes(len(cases)),
            *unlike_counts(config, scores),
            *strangers(config, find_cases(config.data_dir)),
        ]
        summary = {
            **summarise(config, scores),
            "notes": notes,
            "data_dir": os.path.relpath(config.data_dir, out_dir),
        }  # both may move together
        write_csv(os.path.join(out_dir, "metrics.csv"), scores)
        storage.write_json(os.path.join(out_dir, "metrics.json"), summary)
        report.finish(summary, DESCRIPTIONS)
    print_summary(summary)
    return summary


def score_in_threads(scorer, cases):
    """Yield the CaseScore of each case, in order, with a few computed ahead: NumPy and zlib let threads run side by side."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting, left = [], iter(cases)
        while True:
            waiting += [pool.submit(scorer, case) for case in itertools.islice(left, 2 * threads - len(waiting))]
            if not waiting:
                return
            yield waiting.pop(0).result()


# -- figures over the cases -------------------------------------------------------------------------------------------


def mean_and_interval(values):
    """{"mean", "se", "low", "high", "cases"} of a figure's values, one for each case.

    Standard error, and 95 % interval by the percentile bootstrap over the cases; None with a single case.
    """
    values = np.asarray(values, dtype=np.float64)
    told = {"mean": float(values.mean()), "se": None, "low": None, "high": None, "cases": len(values)}
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
        told |= {"se": float(values.std(ddof=1) / len(values) ** 0.5), "low": low, "high": high}
    return told


def summarise(config, scores):
    """The summary of all CaseScores, JSON-like: `samples`, `of` (cases in all), `cases` (scored, in every folder), `figures`
    {name: mean_and_interval}, `mode_calibration` {count: curve} where the truth is known, `compared` (the same for each
    further folder, and the paired `differences` from the first), `faults`.

    With several folders a figure stands for the same cases in all: those that have it in every one.
    """
    faults = group_faults(scores)
    common = [score for score in scores if set(config.folders) <= score.figures.keys()]
    if not common:
        where = " in every folder" if config.compare else ""
        raise DataError(f"not one of {len(scores)} cases could be scored{where}: {'; '.join(faults[:3])}")
    rows = {folder: [_shared(score, score.figures[folder]) for score in common] for folder in config.folders}
    first, *others = (_summarise_folder(folder, rows[folder], common) for folder in config.folders)
    for other in others:
        pairs = zip(rows[other["samples"]], rows[config.samples], strict=True)
        other["differences"] = _summarise_rows([difference(*pair) for pair in pairs])
    return {**first, "of": len(scores), "compared": others, "faults": faults}


def _shared(score, row):
    """Those figures of a case's row that it has in every folder."""
    return {name: value for name, value in row.items() if all(name in other for other in score.figures.values())}


def _summarise_folder(folder, rows, scores):
    told = {"samples": folder, "cases": len(rows), "figures": _summarise_rows(rows)}
    modes = {}  # {count: [(probability, frequency)] of all cases}
    for score in scores:
        for count, pairs in score.modes.get(folder, {}).items():
            modes.setdefault(count, []).extend(pairs)
    if modes:
        told["mode_calibration"] = {
            str(count): fidelity.calibration_curve(*zip(*modes[count], strict=True)) for count in sorted(modes)
        }
    return told


def _summarise_rows(rows):
    names = in_order({name for row in rows for name in row})
    return {name: mean_and_interval([row[name] for row in rows if name in row]) for name in names}


def difference(a, b):
    """{figure: a less b} of the figures that both have."""
    return {name: a[name] - b[name] for name in a if name in b}


def in_order(names):
    """Figures in the order of DESCRIPTIONS, the counts of one figure in a row."""
    order = list(DESCRIPTIONS)

    def key(name):
        figure, count = metrics.split_count(name)
        return order.index(figure), count or 0

    return sorted(names, key=key)


def unlike_counts(config, scores):
    """A note for each folder whose cases have unlike numbers of samples, or else one if the folders have: their figures have unlike names."""
    notes, found = [], {}
    for folder in config.folders if not config.counts else ():
        named = [re.fullmatch(r"ged_(\d+)", name) for score in scores for name in score.figures.get(folder, {})]
        found[folder] = counts = collections.Counter(int(match[1]) for match in named if match)
        if len(counts) > 1:
            told = ", ".join(f"{cases} of {count}" for count, cases in sorted(counts.items()))
            notes.append(
                f"the cases in {folder} have unlike numbers of samples ({told}): --counts {min(counts)} scores all alike"
            )
    if not notes and len(everywhere := {count for counts in found.values() for count in counts}) > 1:
        told = ", ".join(f"{max(counts)} in {folder}" for folder, counts in found.items() if counts)
        notes.append(
            f"the folders have unlike numbers of samples ({told}), whose figures do not compare: --counts {min(everywhere)} does"
        )
    return notes


def strangers(config, cases):
    """A note for each folder that holds samples of other cases than these."""
    known, notes = {name for name, _ in cases}, []
    for folder in config.folders:
        named = {
            match[1]
            for file in os.listdir(folder)
            if (match := re.fullmatch(r"(.+)_(?:samples\.npz|output0\.png)", file))
        }
        if other := sorted(named - known):
            notes.append(
                f"{folder} has samples of {len(other)} cases that are not in {config.data_dir}, {other[0]} for one"
            )
    return notes


def group_faults(scores):
    """A line for each fault: the cases that have it, and what it is."""
    cases = {}
    for score in scores:
        for fault in score.faults:
            cases.setdefault(fault, []).append(score.name)
    lines = []
    for fault, names in cases.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        lines.append(f"{', '.join(names[:NAMES_SHOWN])}{more}: {fault}")
    return lines


# -- what is written --------------------------------------------------------------------------------------------------


def side_by_side(figures, folders):
    """The figures of one case in one dict: as they are for one folder; else by folder, and less those of the first."""
    if len(folders) == 1:
        return {name: figures[folders[0]][name] for name in in_order(figures[folders[0]])}
    flat = {}
    for folder in folders:
        row = figures.get(folder, {})
        flat |= {f"{name} of {folder}": row[name] for name in in_order(row)}
    for folder in folders[1:]:
        row = difference(figures.get(folder, {}), figures.get(folders[0], {}))
        flat |= {f"{name}, {folder} less {folders[0]}": row[name] for name in in_order(row)}
    return flat


def write_csv(path, scores):
    """A row for each case and folder; a figure that a case does not have stays empty."""
    names = in_order({name for score in scores for row in score.figures.values() for name in row})
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["case", "samples", *names])
    writer.writeheader()
    for score in scores:
        writer.writerows({"case": score.name, "samples": folder, **row} for folder, row in score.figures.items())
    storage.write_text(path, file.getvalue())


def print_summary(summary):
    """The summary as one table on the console, notes, and every fault, or the first ones of many."""
    for line in legend(summary):
        print(line)
    titles, rows = as_table(summary)
    print(" " * 24 + "".join(f"{title:>10s}" for title in titles))
    for name, cells in rows.items():
        print(f"{name:24s}" + "".join(f"{cell:>10s}" for cell in cells))
    shown = summary["faults"][:FAULTS_SHOWN]
    for line in (*summary["notes"], *shown):
        print(line)
    if len(summary["faults"]) > len(shown):
        print(f"... and {len(summary['faults']) - len(shown)} more faults, all in metrics.json")
